"""`contracts import` and `ranges import`."""

from __future__ import annotations

import time
from pathlib import Path

import click
import orjson
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from registryd.cli.running import Context, command, err, out, pass_context
from registryd.feed import snapshot

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def contracts() -> None:
    """Billing's contracts in bulk."""


@contracts.command("import")
@click.argument("file", type=_FILE)
@click.option("--dry-run", is_flag=True, help="Check and count everything, and change nothing.")
@click.option("--json", "as_json", is_flag=True)
@pass_context
@command
async def import_contracts(context: Context, *, file: Path, dry_run: bool, as_json: bool) -> None:
    """Import contracts from CSV with the columns msisdn, generation, status, holder, end_user, started_at, ended_at, end_reason.

    All or nothing, in one transaction. Contracts that are there already are left as they are.
    """
    started = time.perf_counter()
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=as_json) as progress:
        task = progress.add_task("contracts", total=file.stat().st_size)
        imported = await snapshot.import_contracts(
            context.settings.file.database.dsn,
            context.password,
            file,
            dry_run=dry_run,
            progress=lambda sent: progress.advance(task, sent),
        )
    seconds = time.perf_counter() - started
    if as_json:
        click.echo(orjson.dumps({"lines": imported.lines, "inserted": imported.inserted, "dryRun": dry_run, "seconds": round(seconds, 2)}))
        return
    would = "would be " if dry_run else ""
    there = imported.lines - imported.inserted
    rate = imported.lines / seconds
    out.print(
        f"{imported.lines:,} lines: {imported.inserted:,} {would}inserted, {there:,} there already; {seconds:.1f} s, {rate:,.0f} lines/s"
    )


@click.group()
def ranges() -> None:
    """The operator's numbering capacity."""


@ranges.command("import")
@click.argument("file", type=_FILE)
@pass_context
@command
async def import_ranges(context: Context, *, file: Path) -> None:
    """Make the ranges of a CSV (first_msisdn, last_msisdn, region, note) the whole numbering capacity: numbers outside answer absent."""
    count = await snapshot.import_ranges(context.settings.file.database.dsn, context.password, file)
    out.print(f"{count:,} ranges are the numbering capacity now")
