"""`notifications status | explain | replay | export | acknowledge`: backlogs, one notification's life, replays, and delivery by hand."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import click
import orjson
from rich.table import Table

from registryd.cli.kinds import Moment
from registryd.cli.running import Context, Exit, command, fail, out, pass_context
from registryd.delivery import export as exporting
from registryd.delivery import exported
from registryd.domain.backlog import Backlog
from registryd.domain.identifiers import masked_code, masked_number
from registryd.domain.times import rfc3339
from registryd.store import backlogs, proof, replays
from registryd.store.messengers import signing_secrets
from registryd.store.pool import connect
from registryd.store.proof import Delivered, Pending
from registryd.store.replays import EVER, Choice
from registryd.store.secretbox import signing_box

ATTEMPTS_TOLD = 20


_JSON = click.option("--json", "as_json", is_flag=True)


@click.group()
def notifications() -> None:
    """Look at notifications, deliver them again, or deliver them by hand."""


@notifications.command()
@_JSON
@pass_context
@command
async def status(context: Context, *, as_json: bool) -> None:
    """Show each messenger's backlog, the slack to its earliest deadline, and how long it takes at the pace of the last five minutes."""
    async with context.database() as db:
        found = await backlogs.read(db)
    if as_json:
        click.echo(orjson.dumps([_backlog(b) for b in found]))
        return
    table = Table("messenger", "pending", "overdue", "earliest deadline", "slack", "per second", "ETA", "endpoint")
    for b in found:
        eta = _span(b.eta) if b.eta is not None else "never" if b.has_endpoint else "unknown"
        deadline = f"{b.deadline_at:%F %T}Z" if b.deadline_at else ""
        replayed = f" ({b.replayed:,} replayed)" if b.replayed else ""
        table.add_row(
            *(b.name, f"{b.pending:,}{replayed}", f"{b.overdue:,}", deadline, _span(b.slack), f"{b.per_second:,.1f}"),
            *(eta if b.pending else "", _endpoint(b)),
            style="red" if b.is_too_slow or b.needs_second_channel else "",
        )
    out.print(table)


@notifications.command()
@click.argument("notification_id", metavar="ID", type=click.UUID)
@_JSON
@pass_context
@command
async def explain(context: Context, *, notification_id: UUID, as_json: bool) -> None:
    """Show one notification's life: the contract's end, the deadline, the attempts on its lane, the delivery. ID: notificationId."""
    async with context.database() as db:
        pending, delivered = await proof.find(db, notification_id)
        known = delivered or pending
        if known is None:
            fail("there is no such notification: it is neither owed nor among what is kept of the delivered ones")
        ended = await proof.find_ended(db, known.msisdn, known.generation)
        again = await proof.find_replays(db, known.messenger_id, notification_id)
        until = delivered.delivered_at if delivered else datetime.now(UTC)
        attempts = await proof.read_attempts(db, known.messenger_id, known.recorded_at, until, ATTEMPTS_TOLD)
    life: list[tuple[datetime, str]] = []
    if ended is not None and ended.ended_at is not None:
        life.append((ended.ended_at, f"the contract ended ({ended.end_reason}); it had begun {ended.started_at:%F}"))
    life.append((known.recorded_at, "the registry wrote the notification"))
    for a in attempts:
        answer = a.error or f"status {a.http_status}"
        life.append((a.attempted_at, f"push of {a.notifications} on its lane: {a.outcome}, {answer}, {a.latency_ms} ms"))
    if delivered is not None:
        life.append((delivered.delivered_at, _delivery(delivered)))
    for replay in again:
        life.append((replay.asked_at, "a replay was asked for"))
        if replay.replayed_at is not None:
            life.append((replay.replayed_at, "owed again by the replay"))
        if replay.delivered_at is not None:
            life.append((replay.delivered_at, f"delivered again by {replay.via}"))
    life.append((known.deadline_at, "the deadline"))
    if pending is not None:
        error = f"; last: {pending.last_error}" if pending.last_error else ""
        life.append((pending.not_before, f"its next attempt is due; {pending.attempts} have failed{error}"))
    life.sort(key=lambda event: event[0])
    if as_json:
        events = [{"at": rfc3339(at), "what": what} for at, what in life]
        click.echo(orjson.dumps({**_notification(notification_id, pending, delivered), "life": events}))
        return
    for label, value in _notification(notification_id, pending, delivered).items():
        out.print(f"{label:<20} {value}", markup=False)
    for at, what in life:
        out.print(f"{rfc3339(at):<25} {what}", markup=False, soft_wrap=True)


@notifications.command()
@click.argument("name", metavar="MESSENGER")
@click.option("--since", type=Moment(), help="What was delivered from this time on, such as 2026-11-24T00:00Z.")
@click.option("--until", type=Moment(), help="What was delivered before this time; default: now.")
@click.option("--id", "ids", type=click.UUID, multiple=True, help="This notification; repeatable.")
@click.option("--ids-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The notifications of a file, an id a line.")
@click.option(
    "--per-second", type=click.IntRange(1, 10_000), default=20, show_default=True, help="No faster than this, and no more waiting at once."
)
@click.option("--dry-run", is_flag=True, help="Count, and change nothing.")
@_JSON
@pass_context
@command
async def replay(
    context: Context,
    *,
    name: str,
    since: datetime | None,
    until: datetime | None,
    ids: tuple[UUID, ...],
    ids_file: Path | None,
    per_second: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Deliver notifications again under the same ids: those delivered in a period, or those named by id. The first proof stays.

    The replay waits while a notification that was never delivered is due to that messenger.
    """
    if (since is None) == (not ids and ids_file is None):
        fail("say what: --since TIME, or --id ID or --ids-file FILE", Exit.USAGE)
    wanted = [*ids, *(_ids(ids_file) if ids_file else [])]
    async with context.messenger(name) as (_, found):
        choice = Choice(found.messenger_id, since or EVER, until or datetime.now(UTC), wanted if since is None else None)
        # A connection of its own: choosing among millions may take longer than the pool allows a statement.
        connection = await connect(context.settings.file.database.dsn, password=context.password)
        try:
            count = await (replays.count(connection, choice) if dry_run else replays.ask(connection, choice, per_second))
        finally:
            await connection.close()
    takes = timedelta(seconds=count / per_second)
    if as_json:
        click.echo(orjson.dumps({"notifications": count, "dryRun": dry_run, "perSecond": per_second, "seconds": takes.total_seconds()}))
        return
    out.print(
        f"{count:,} notifications {'would be' if dry_run else 'will be'} delivered again, {per_second} a second: {_span(takes)} at least"
    )


@notifications.command()
@click.argument("name", metavar="MESSENGER")
@click.argument("file", type=click.Path(path_type=Path))
@_JSON
@pass_context
@command
async def export(context: Context, *, name: str, file: Path, as_json: bool) -> None:
    """Write all that is owed to FILE, signed, for delivery by hand. It stays owed, and can be pulled, until `acknowledge`."""
    box = signing_box(context.settings.credentials)
    async with context.messenger(name) as (db, found):
        live = await signing_secrets(db, box, found.messenger_id)
        if not live:
            fail(f"{name} has no live signing secret: registryd messenger rotate-secret {name}")
        try:
            digest = await exporting.write(db, found, live, file)
        except FileExistsError:
            fail(f"{file} is there already", Exit.USAGE)
        except OSError as error:
            fail(f"{file}: {error.strerror}")
    sha256 = _sha256(file).hex()
    if as_json:
        click.echo(orjson.dumps({"notifications": digest.notifications, "file": str(file), "sha256": sha256}))
        return
    out.print(f"{digest.notifications:,} notifications in {file}, SHA-256 {sha256}", markup=False, soft_wrap=True)
    out.print(f"once received: registryd notifications acknowledge {name} --channel CHANNEL --file {file}", markup=False, soft_wrap=True)


@notifications.command()
@click.argument("name", metavar="MESSENGER")
@click.option("--channel", required=True, help="How they were delivered, in a word: courier, sftp, email; it is kept with the proof.")
@click.option(
    "--file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The exported file, or a receipt with an id a line."
)
@click.option("--id", "ids", type=click.UUID, multiple=True, help="This notification; repeatable.")
@_JSON
@pass_context
@command
async def acknowledge(context: Context, *, name: str, channel: str, file: Path | None, ids: tuple[UUID, ...], as_json: bool) -> None:
    """Settle what was delivered by hand, once the messenger has it."""
    if (file is None) == (not ids):
        fail("say what was delivered: --file FILE, or --id ID", Exit.USAGE)
    if not proof.CHANNEL.fullmatch(channel):
        fail("a channel's name is 1 to 63 of a-z, 0-9, dot, underscore and hyphen", Exit.USAGE)
    given = sorted({*ids, *(_ids(file) if file else [])})
    async with context.messenger(name) as (db, found):
        settled = await proof.settle_by_hand(db, found.messenger_id, given, channel, _sha256(file) if file else None)
    if as_json:
        click.echo(orjson.dumps({"given": len(given), "settled": settled, "channel": channel}))
        return
    out.print(f"{settled:,} of {len(given):,} settled by {channel}; the others were settled before, or never owed to {name}")


def _ids(file: Path) -> list[UUID]:
    try:
        return exported.ids_in(file)
    except exported.BadFile as error:
        fail(f"{file}: {error}", Exit.USAGE)


def _sha256(file: Path) -> bytes:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").digest()


def _backlog(b: Backlog) -> dict[str, object]:
    slack, eta, age = b.slack, b.eta, b.age
    return {
        "messenger": b.name,
        "pending": b.pending,
        "overdue": b.overdue,
        "replayed": b.replayed,
        "oldestDeadlineAt": rfc3339(b.deadline_at) if b.deadline_at else None,
        "slackSeconds": round(slack.total_seconds()) if slack is not None else None,
        "ageSeconds": round(age.total_seconds()) if age is not None else None,
        "perSecond": round(b.per_second, 3),
        "etaSeconds": round(eta.total_seconds()) if eta is not None else None,
        "tooSlow": b.is_too_slow,
        "endpoint": "none" if not b.has_endpoint else "gated" if b.is_gated else "healthy",
        "lastError": b.last_error,
        "secondChannel": b.needs_second_channel,
    }


def _endpoint(b: Backlog) -> str:
    if not b.has_endpoint:
        return "pulls"
    if b.needs_second_channel:
        return f"fails for hours: {b.last_error}; hand over: registryd notifications export {b.name} FILE"
    return f"gated: {b.last_error}" if b.is_gated else "healthy"


def _notification(notification_id: UUID, pending: Pending | None, delivered: Delivered | None) -> dict[str, object]:
    known = delivered or pending
    assert known is not None, "it is one of both"
    is_late = (delivered.delivered_at if delivered else datetime.now(UTC)) > known.deadline_at
    return {
        "notificationId": str(notification_id),
        "messenger": known.name,
        "state": ("owed again" if pending else "delivered") if delivered else "pending",
        "number": masked_number(known.msisdn),
        "generation": known.generation,
        "identificationCode": masked_code(known.identification_code),
        "terminatedAt": rfc3339(known.terminated_at),
        "deadlineAt": rfc3339(known.deadline_at),
        "deliveredAt": rfc3339(delivered.delivered_at) if delivered else None,
        "via": (delivered.channel or delivered.via) if delivered else None,
        "verdict": ("late" if is_late else "in time") if delivered else ("overdue" if is_late else "owed"),
    }


def _delivery(d: Delivered) -> str:
    if d.via == "hand":
        file = f", file SHA-256 {d.file_sha256.hex()}" if d.file_sha256 else ""
        return f"delivered by hand: {d.channel}{file}"
    return f"delivered by {d.via}" + (f", attempt {d.attempts}" if d.via == "push" else "")


def _span(span: timedelta | None) -> str:
    """`1 d 02:03:04`, with a minus where it is over."""
    if span is None:
        return ""
    seconds = round(abs(span.total_seconds()))
    days, seconds = divmod(seconds, 86_400)
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return ("-" if span < timedelta(0) else "") + (f"{days} d " if days else "") + clock
