"""`breakglass request | list | approve | look | reinstate | withdraw`, under each person's own role. A number is never an argument, because
other users can see arguments.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TextIO
from uuid import UUID

import click
import orjson

from registryd.cli.kinds import Moment, NoticeId, Whole
from registryd.cli.printing import Table, words
from registryd.cli.progress import progress
from registryd.cli.running import Exit, command, err, fail, json_option, present
from registryd.domain.contract import END_REASONS
from registryd.domain.identifiers import MSISDN, Msisdn, parse_msisdn
from registryd.domain.wire import camel
from registryd.store import breakglass as store
from registryd.store.breakglass import Ends, Notices

_FILE = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)

_dsn = click.option("--dsn", required=True, help="Connect as yourself, such as postgresql://anna@db1/registryd: the log names who did it.")
_dry_run = click.option("--dry-run", is_flag=True, help="Count, and change nothing. Who approves requests may do that too.")


@click.group()
def breakglass() -> None:
    """What nobody may do alone: look at one number unmasked, undo mistaken ends, withdraw notifications.

    One person asks for a reason and another approves; all of it is logged.
    """


@breakglass.command()
@click.option("--kind", type=click.Choice(("look", "reinstate", "withdraw")), default="look", show_default=True, help="What is asked for.")
@click.option("--reason", required=True, help="Why, for whoever approves and audits it.")
@click.option("--from", "since", type=Moment(), help="reinstate: ends that were recorded from this time on.")
@click.option("--until", type=Moment(), help="reinstate: ends that were recorded before this time; default: now.")
@click.option("--end-reason", "end_reasons", type=click.Choice(END_REASONS), multiple=True, help="reinstate: only such ends; repeatable.")
@click.option("--numbers-file", type=_FILE, help="reinstate: the latest ends of the numbers of a file (- is stdin), one a line.")
@click.option("--wave", type=Whole(1), help="reinstate: the ends of this held wave. withdraw: all that is held of it.")
@click.option("--messenger", help="withdraw: what this messenger refuses and is overdue.")
@click.option("--due-before", type=Moment(), help="withdraw: of the messenger's, those whose deadline lies before this time; default: now.")
@click.option("--id", "ids", type=NoticeId(), multiple=True, help="withdraw: of the messenger's, this one; repeatable.")
@click.option("--ids-file", type=_FILE, help="withdraw: of the messenger's, those of a file, an id a line.")
@_dsn
@json_option
@command
async def request(
    *,
    kind: str,
    reason: str,
    since: datetime | None,
    until: datetime | None,
    end_reasons: tuple[str, ...],
    numbers_file: Path | None,
    wave: int | None,
    messenger: str | None,
    due_before: datetime | None,
    ids: tuple[UUID, ...],
    ids_file: Path | None,
    dsn: str,
    as_json: bool,
) -> None:
    """Ask for one of the three, for somebody else to approve. Needs the role registryd_breakglass.

    A look is for one number, which is read from the terminal or stdin.
    """
    ends = Ends(since, until, list(end_reasons) or None, wave, _numbers(numbers_file) if numbers_file else None)
    named = [*ids, *(_ids(ids_file) if ids_file else [])]
    notices = Notices(messenger, due_before, named or None, wave)
    foreign = {"look": (*ends, *notices), "reinstate": notices[:3], "withdraw": (*ends[:3], ends.numbers)}[kind]
    if any(option is not None for option in foreign):
        fail(f"an option given here does not belong to --kind {kind}: see --help", Exit.USAGE)
    msisdn = _number() if kind == "look" else None
    async with store.session(dsn) as connection:
        if msisdn is not None:
            number = await store.request(connection, msisdn, reason)
        elif kind == "reinstate":
            number = await store.request_reinstate(connection, ends, reason)
        else:
            number = await store.request_withdraw(connection, notices, reason)
    wait = "the service prepares it within seconds; then somebody" if kind == "look" else "somebody"
    present(
        as_json,
        {"request": number, "kind": kind},
        f"request {number}: {wait} else approves it, within a day:",
        f"registryd breakglass approve {number}",
    )


@breakglass.command("list")
@_dsn
@json_option
@command
async def list_requests(*, dsn: str, as_json: bool) -> None:
    """Show the requests that wait for an approval or to be carried out; numbers masked."""
    async with store.session(dsn) as connection:
        requests = await store.open_requests(connection)
    facts = [asked._asdict() | {"scope": _scope(asked)} for asked in requests]
    table = Table("request", "kind", "of", "asked by", "reason", "state", "until")
    for asked in requests:
        of = asked.number or [f"{camel(name)} {words(value)}" for name, value in _scope(asked).items()]
        state = f"approved by {asked.approved_by}" if asked.approved_by else "not approved" if asked.is_prepared else "not prepared yet"
        table.add(str(asked.request), asked.kind, of, asked.requested_by, asked.reason, state, asked.ends_at)
    present(as_json, facts, table)


@breakglass.command()
@click.argument("number", type=Whole(1))
@_dsn
@json_option
@command
async def approve(*, number: int, dsn: str, as_json: bool) -> None:
    """Approve somebody else's request. Needs the role registryd_approver."""
    async with store.session(dsn) as connection:
        ends_at = await store.approve(connection, number)
    told = f"request {number} is approved: who asked may carry it out once, until {words(ends_at)}"
    present(as_json, {"request": number, "approved": True, "endsAt": ends_at}, told)


@breakglass.command()
@click.argument("number", type=Whole(1))
@_dsn
@json_option
@command
async def look(*, number: int, dsn: str, as_json: bool) -> None:
    """Show, once, the number's contracts and bindings and which messengers asked about it. Reads the whole journal."""
    async with store.session(dsn) as connection:
        with progress("reading the journal"):
            seen = await store.look(connection, number)
    table = Table("", "began", "ended", "generation", "messenger", "detail", "outcome")
    for row in seen:
        table.add(row.kind, row.began_at, row.ended_at, row.generation, row.messenger, row.detail, row.outcome)
    present(as_json, seen, *([table] if seen else []))
    if not seen:
        err.print("nothing is known of this number")


@breakglass.command()
@click.argument("number", type=Whole(1))
@_dry_run
@click.option("--list", "path", type=click.Path(path_type=Path), help="Write what is not undone, with its numbers, to a new file.")
@_dsn
@json_option
@command
async def reinstate(*, number: int, dry_run: bool, path: Path | None, dsn: str, as_json: bool) -> None:
    """Undo the ends that a request names: contracts and bindings begin again, and messengers that may have been told hear of it."""
    file = _new_file(path) if path else None
    try:
        async with store.session(dsn) as connection:
            with progress("counting" if dry_run else "undoing"):
                rows = await store.reinstate(connection, number, dry_run=dry_run, with_list=file is not None)
    except BaseException:
        if file is not None and path is not None:
            file.close()
            path.unlink()
        raise
    if file is not None:
        _write_list(file, [row for row in rows if row.number is not None])
    counts = [row for row in rows if row.number is None]
    table = Table("what", "outcome", "messenger", "how many", title="nothing was changed" if dry_run else "")
    for row in counts:
        table.add(row.what, row.outcome, row.messenger, row.quantity)
    facts = [{"what": row.what, "outcome": row.outcome, "messenger": row.messenger, "quantity": row.quantity} for row in counts]
    present(as_json, {"request": number, "dryRun": dry_run, "outcomes": facts}, table)


@breakglass.command()
@click.argument("number", type=Whole(1))
@_dry_run
@_dsn
@json_option
@command
async def withdraw(*, number: int, dry_run: bool, dsn: str, as_json: bool) -> None:
    """Withdraw the notifications that a request names: they are not told, and not counted as delivered."""
    async with store.session(dsn) as connection:
        with progress("counting" if dry_run else "withdrawing"):
            rows = await store.withdraw(connection, number, dry_run=dry_run)
    table = Table("outcome", "messenger", "notifications", title="nothing was changed" if dry_run else "")
    for row in rows:
        table.add(row.outcome, row.messenger, row.notifications)
    present(as_json, {"request": number, "dryRun": dry_run, "outcomes": rows}, table)


def _scope(asked: store.OpenRequest) -> dict[str, object]:
    return dict(orjson.loads(asked.scope)) if asked.scope else {}


def _number() -> Msisdn:
    try:
        return parse_msisdn(click.prompt("number", err=True))
    except ValueError as error:
        fail(f"the number {error}", Exit.USAGE)


def _lines(path: Path) -> list[str]:
    with click.open_file(str(path), encoding="utf-8-sig", errors="replace") as file:
        return [line.strip() for line in file if line.strip()]


def _numbers(path: Path) -> list[int]:
    numbers = [line.removeprefix("+") for line in _lines(path)]
    for place, number in enumerate(numbers, 1):
        if MSISDN.fullmatch(number) is None:
            fail(f"{path}: the {place}. number is not 5 to 15 digits", Exit.USAGE)
    return list(map(int, numbers))


def _ids(path: Path) -> list[UUID]:
    ids = []
    for place, line in enumerate(_lines(path), 1):
        try:
            ids.append(UUID(line))
        except ValueError:
            fail(f"{path}: the {place}. line is not a notification's id", Exit.USAGE)
    return ids


def _new_file(path: Path) -> TextIO:
    """A new file that only its owner may read; it is there before anything is changed."""
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8", newline="")
    except OSError as error:
        fail(f"{path}: {error.strerror}", Exit.USAGE)


def _write_list(file: TextIO, rows: Sequence[store.Undone]) -> None:
    with file:
        writer = csv.writer(file)
        writer.writerow(("what", "outcome", "messenger", "msisdn", "generation", "identification_code"))
        writer.writerows((r.what, r.outcome, r.messenger, r.number, r.generation, r.identification_code) for r in rows)
        file.flush()
        with suppress(OSError):  # a pipe
            os.fsync(file.fileno())
