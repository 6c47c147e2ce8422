"""`ranges import`: the operator's numbering capacity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from registryd.cli.progress import progress
from registryd.cli.running import Context, command, json_option, pass_context, present
from registryd.feed import ranges as feed
from registryd.feed.register import Whose


@click.group()
def ranges() -> None:
    """Import the operator's numbering capacity."""


@ranges.command("import")
@click.argument(
    "files",
    metavar="FILE…",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
)
@click.option(
    "--operator", "operators", multiple=True, help="Of the regulator's register, the lines of this operator: its name as published."
)
@click.option("--inn", "inns", multiple=True, help="Of the regulator's register, the lines of this taxpayer number (ИНН).")
@click.option("--dry-run", is_flag=True, help="Check and count, and change nothing.")
@json_option
@pass_context
@command
async def import_ranges(
    context: Context, *, files: Sequence[Path], operators: Sequence[str], inns: Sequence[str], dry_run: bool, as_json: bool
) -> None:
    """Make the ranges of CSV files the numbering capacity, all at once. It decides no answer: imports and reports tell who lies outside.

    FILE is plain, gzip or zstd; - is standard input. It has the columns first_msisdn, last_msisdn, region, note, and all FILEs are the
    whole capacity; or all are files of the regulator's published register, in UTF-8 or windows-1251, of which --operator and --inn,
    which may be given several times, say whose lines are meant. A name stands for its ИНН. A register replaces what a register brought
    before: ranges made by hand stay.
    """
    whose, dsn = Whose(operators, inns), context.settings.file.database.dsn
    with progress("importing"):
        done = await feed.import_ranges(dsn, context.password, files, whose, dry_run=dry_run)
    counted, numbers = done.counted, sum(one.last - one.first + 1 for one in done.ranges)
    beside = f", beside {counted.kept:,} made by hand" if counted.kept else ""
    gone = "would be gone" if dry_run else "are gone"
    dropped = f"{done.dropped:,} numbers of the capacity before {gone}: one import replaces another, so give all files at once"
    present(
        as_json,
        {
            "ranges": len(done.ranges),
            "numbers": numbers,
            "kept": counted.kept,
            "live": counted.live,
            "outside": counted.outside,
            "droppedNumbers": done.dropped,
            "notes": done.notes,
            "dryRun": dry_run,
        },
        *done.notes,
        f"{len(done.ranges):,} ranges of {numbers:,} numbers {'would be' if dry_run else 'are'} the numbering capacity{beside}",
        f"{counted.outside:,} of {counted.live:,} live contracts {'would lie' if dry_run else 'lie'} outside it",
        *([dropped] if done.dropped else []),
    )
