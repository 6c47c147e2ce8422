"""`notifications replay | export | acknowledge`: deliver again, or by hand."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import click

from registryd.cli.completion import messenger_name
from registryd.cli.kinds import Moment, NoticeId, Whole
from registryd.cli.printing import duration
from registryd.cli.progress import progress
from registryd.cli.running import Context, Exit, command, fail, json_option, pass_context, present
from registryd.delivery import export as exporting
from registryd.delivery import exported
from registryd.store import notifications, proof, replays
from registryd.store.bulk import connect
from registryd.store.messengers import signing_secrets
from registryd.store.replays import EVER, Choice
from registryd.store.secretbox import signing_box


@click.command()
@messenger_name(metavar="MESSENGER")
@click.option("--since", type=Moment(), help="What was delivered from this time on, such as 2026-11-24T00:00Z.")
@click.option("--until", type=Moment(), help="What was delivered before this time; default: now.")
@click.option("--id", "ids", type=NoticeId(), multiple=True, help="This notification; repeatable.")
@click.option("--ids-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The notifications of a file, an id a line.")
@click.option(
    "--per-second", type=Whole(1, 10_000), default=20, show_default=True, help="No faster than this, and no more waiting at once."
)
@click.option("--dry-run", is_flag=True, help="Count, and change nothing.")
@json_option
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
            with progress("choosing"):
                count = await (replays.count(connection, choice) if dry_run else replays.ask(connection, choice, per_second))
        finally:
            await connection.close()
    takes = timedelta(seconds=count / per_second)
    present(
        as_json,
        {"notifications": count, "dryRun": dry_run, "perSecond": per_second, "takes": takes},
        f"{count:,} notifications {'would be' if dry_run else 'will be'} delivered again, "
        f"{per_second} a second: {duration(takes)} at least",
    )


@click.command()
@messenger_name(metavar="MESSENGER")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
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
            owed = await notifications.count_pending(db, found.messenger_id)
            with progress("writing", "notifications", owed.pending) as work:
                digest = await exporting.write(db, found, live, file, work.advance)
        except FileExistsError:
            fail(f"{file} is there already", Exit.USAGE)
        except OSError as error:
            fail(f"{file}: {error.strerror}")
    sha256 = _sha256(file).hex()
    present(
        as_json,
        {"notifications": digest.notifications, "file": str(file), "sha256": sha256},
        f"{digest.notifications:,} notifications in {file}, SHA-256 {sha256}",
        f"once received: registryd notifications acknowledge {name} --channel CHANNEL --file {file}",
    )


@click.command()
@messenger_name(metavar="MESSENGER")
@click.option("--channel", required=True, help="How they were delivered, in a word: courier, sftp, email; it is kept with the proof.")
@click.option(
    "--file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The exported file, or a receipt with an id a line."
)
@click.option("--id", "ids", type=NoticeId(), multiple=True, help="This notification; repeatable.")
@json_option
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
        with progress("settling"):
            settled = await proof.settle_by_hand(db, found.messenger_id, given, channel, _sha256(file) if file else None)
    present(
        as_json,
        {"given": len(given), "settled": settled, "channel": channel},
        f"{settled:,} of {len(given):,} settled by {channel}; the others were settled before, or never owed to {name}",
    )


def _ids(file: Path) -> list[UUID]:
    try:
        return exported.ids_in(file)
    except exported.BadFile as error:
        fail(f"{file}: {error}", Exit.USAGE)


def _sha256(file: Path) -> bytes:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").digest()
