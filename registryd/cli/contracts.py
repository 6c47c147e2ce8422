"""`contracts import`: histories, snapshots and events."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from registryd.cli.kinds import Moment, Whole, max_absent_option, max_terminations_option
from registryd.cli.printing import Shown, Table
from registryd.cli.progress import progress
from registryd.cli.rejects import RejectFile, beside
from registryd.cli.running import Context, command, err, json_option, pass_context, present
from registryd.domain.errors import Unavailable
from registryd.domain.files import ImportRefused
from registryd.feed import deltas, snapshot
from registryd.feed.events import ContractFeed
from registryd.feed.snapshot import FileImport
from registryd.store.bounds import ContractsMax
from registryd.store.imports import Imported
from registryd.store.snapshots import Reconciled, TooManyEnds

_FILE = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)


@click.group()
def contracts() -> None:
    """Import billing's contracts in bulk."""


@contracts.command("import")
@click.argument("file", type=_FILE)
@click.option("--snapshot", "kind", flag_value="snapshot", help="FILE is billing's whole table: what it does not name is terminated.")
@click.option(
    "--delta", "kind", flag_value="delta", help="FILE holds contract events in order, as POST /operator/v1/contract-events takes them."
)
@click.option("--as-of", type=Moment(), help="When the snapshot was true; default, where nothing feeds events: when FILE was written.")
@max_terminations_option
@max_absent_option
@click.option("--lines", type=Whole(0), help="How many lines there must be after the header: a file that was cut short changes nothing.")
@click.option("--max-rejects", type=Whole(0, 1_000_000), default=0, show_default=True, help="Go on without so many bad lines.")
@click.option(
    "--rejects",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where bad lines are told by number and reason; default: FILE.rejects.csv, of a pipe contracts.rejects.csv.",
)
@click.option("--whole", is_flag=True, help="The history holds every live contract: from now on queries are answered.")
@click.option("--dry-run", is_flag=True, help="Check and count everything, and change nothing.")
@json_option
@pass_context
@command
async def import_contracts(
    context: Context,
    *,
    file: Path,
    kind: str | None,
    as_of: datetime | None,
    max_terminations: ContractsMax | None,
    max_absent: ContractsMax | None,
    lines: int | None,
    max_rejects: int,
    rejects: Path | None,
    whole: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Import contracts from CSV: plain, gzip or zstd; - is standard input. The header names the columns, in any order.

    \b
    --snapshot  msisdn, holder, end_user, status, started_at: who holds what now; the registry is made to agree
    --delta     event_id, type, msisdn, occurred_at, holder, end_user: events, each applied once
    else        msisdn, generation, status, holder, end_user, started_at, ended_at, end_reason: contracts with
                their history; those that are there already are left as they are

    A snapshot, and contracts with history, go in whole or not at all, in one transaction. Events go in up to the
    first line that is no event.
    """
    if as_of is not None and kind != "snapshot":
        raise click.UsageError("--as-of is for snapshots: say --snapshot too")
    if whole and kind is not None:
        raise click.UsageError("--whole is for histories: a snapshot is whole, and events are not")
    done: Imported | Reconciled | deltas.AppliedEvents
    stopped: ImportRefused | Unavailable | None
    started = time.perf_counter()
    with RejectFile(rejects or beside(file)) as kept, progress("reading", "lines", file.stat().st_size if file.is_file() else None) as work:
        job = FileImport(file, max_rejects, dry_run, lines, whole, lambda position, read: work.move(position, count=read), work.step)
        try:
            if kind == "delta":
                done, stopped = await _apply_events(context, job, max_terminations, max_absent)
            else:
                done, stopped = await _import_whole(context, job, kind, as_of, max_terminations, max_absent)
        finally:
            if job.bad:
                kept.write(job.bad)
                err.print(f"{len(job.bad):,} lines were not taken: {kept.path}", markup=False, soft_wrap=True)
    seconds = time.perf_counter() - started
    # Refused events leave the others applied; a refused snapshot changes nothing.
    changed = not dry_run and not (stopped and kind == "snapshot")
    concurrency = context.settings.file.delivery.concurrency
    why = {"stopped": str(stopped)} if stopped else {}
    pace = f"{done.lines:,} lines in {seconds:.1f} s, {done.lines / seconds:,.0f} lines/s{'' if changed else '; nothing was changed'}"
    facts = {**_facts(done, concurrency), **why, "dryRun": dry_run, "seconds": round(seconds, 2)}
    present(as_json, facts, *_told(done, concurrency, is_changed=changed), pace)
    if stopped is not None:
        raise stopped


async def _import_whole(
    context: Context, job: FileImport, kind: str | None, as_of: datetime | None, *maxima: ContractsMax | None
) -> tuple[Imported | Reconciled, ImportRefused | None]:
    """Imports a snapshot, or a history. Returns the counts, and the refusal if there was one."""
    dsn = context.settings.file.database.dsn
    if kind is None:
        return await snapshot.import_contracts(dsn, context.password, job), None
    try:
        return await snapshot.reconcile(dsn, context.password, job, as_of, *maxima), None
    except TooManyEnds as error:
        return error.would, error


async def _apply_events(
    context: Context, job: FileImport, ends_max: ContractsMax | None, absent_max: ContractsMax | None
) -> tuple[deltas.AppliedEvents, ImportRefused | Unavailable | None]:
    """Applies events. Returns what was applied, and why it stopped or which events were refused."""
    stopped: ImportRefused | Unavailable | None = None
    async with context.database() as database:
        feed = ContractFeed(database, context.settings.credentials.key("feed-key"))
        try:
            run = deltas.rehearse if job.dry_run else deltas.apply_file
            done = await run(feed, job.path, ends_max, absent_max, job.progress, job.lines)
        except deltas.FileStopped as error:
            done, stopped = error.done, error.why
    job.bad.extend(sorted([*done.refused, *done.waiting]))
    if isinstance(stopped, deltas.NoEvent):
        job.bad.append(stopped.bad)
    if stopped is None and len(done.refused) > job.rejects_max:
        stopped = ImportRefused(f"{len(done.refused):,} events contradict the registry and were not applied")
    if stopped is None and done.waiting:
        stopped = ImportRefused(f"{len(done.waiting):,} events do not fit yet: import the file again when what they wait for is there")
    return done, stopped


def _told(done: Imported | Reconciled | deltas.AppliedEvents, concurrency: int, *, is_changed: bool) -> Iterator[Shown]:
    would = "" if is_changed else "would be "
    match done:
        case Imported():
            yield f"{done.inserted:,} {would}inserted, {done.lines - done.inserted:,} there already"
            yield from _outside(done)
        case deltas.AppliedEvents():
            yield (
                f"{done.applied:,} events {would}applied, {done.duplicates:,} were applied before, "
                f"{len(done.refused):,} refused, {len(done.waiting):,} not yet"
            )
            yield f"{done.ends:,} contracts {'' if is_changed else 'would '}end, {done.absent:,} numbers turn absent"
        case Reconciled():
            yield from _changes(done, is_changed=is_changed)
            yield from _owed(done, concurrency)
            yield from _outside(done)


def _outside(done: Imported | Reconciled) -> Iterator[str]:
    if done.outside:
        yield f"{done.outside:,} live contracts lie outside the numbering capacity: registryd report contract_outside_capacity"


def _changes(found: Reconciled, *, is_changed: bool) -> Iterator[Shown]:
    unchanged = found.live - found.ends - found.updated - found.newer - found.unread
    table = Table("contracts", "were" if is_changed else "would be")
    for what, number in (
        ("activated", found.activated),
        ("terminated", found.terminated),
        ("passed to the next holder", found.holder_changed),
        ("  of them, within a day of its start", found.near),
        ("updated", found.updated),
        ("unchanged", max(unchanged, 0)),
        ("left: changed after the snapshot was taken", found.newer),
        ("left: their lines are bad", found.unread),
    ):
        table.add(what, number)
    yield table
    yield f"{found.absent:,} of {found.live:,} live contracts {'turned' if is_changed else 'would turn'} absent"
    if is_changed and not found.is_complete:
        yield "the registry was not declared complete: the file is empty, lines were bad, or a newer snapshot was applied before"


def _owed(found: Reconciled, concurrency: int) -> Iterator[str]:
    for owed in found.owed:
        yield f"{owed.notifications:,} notifications to {owed.messenger}"
    if found.owed:
        hours = found.delivery_hours(concurrency)
        pace = "no push of the last day tells the pace" if hours is None else f"about {hours:.1f} h of one process's delivery"
        yield f"{found.notifications:,} notifications in all: {pace}"


def _facts(done: Imported | Reconciled | deltas.AppliedEvents, concurrency: int) -> dict[str, Any]:
    match done:
        case Imported():
            return {"lines": done.lines, "inserted": done.inserted, "complete": done.is_complete, "outside": done.outside}
        case deltas.AppliedEvents():
            return {
                "applied": done.applied,
                "duplicates": done.duplicates,
                "refused": len(done.refused),
                "notYet": len(done.waiting),
                "ends": done.ends,
                "absent": done.absent,
            }
        case Reconciled():
            hours = done.delivery_hours(concurrency)
            return {
                "lines": done.lines,
                "live": done.live,
                "activated": done.activated,
                "terminated": done.terminated,
                "holderChanged": done.holder_changed,
                "nextHolderWithinADay": done.near,
                "turnedAbsent": done.absent,
                "complete": done.is_complete,
                "outside": done.outside,
                "updated": done.updated,
                "newer": done.newer,
                "unread": done.unread,
                "notifications": [{"messenger": owed.messenger, "notifications": owed.notifications} for owed in done.owed],
                "deliverySeconds": None if hours is None else round(hours * 3600),
            }
