"""`ranges import`: the operator's numbering capacity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from registryd.cli.kinds import ContractsMax
from registryd.cli.running import Context, command, fail, json_option, pass_context, present
from registryd.feed import ranges as feed
from registryd.feed.ranges import Whose
from registryd.store.ranges import TooManyAbsent


@click.group()
def ranges() -> None:
    """Import the operator's numbering capacity."""


@ranges.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--operator", help="Of the regulator's register, the lines of this operator: its name as published.")
@click.option("--inn", help="Of the regulator's register, the lines of this taxpayer number (ИНН).")
@click.option(
    "--max-absent", type=ContractsMax(), default="1%", show_default=True, help="Refuse ranges that turn more live contracts absent."
)
@click.option("--dry-run", is_flag=True, help="Check and count, and change nothing.")
@json_option
@pass_context
@command
async def import_ranges(
    context: Context,
    *,
    file: Path,
    operator: str | None,
    inn: str | None,
    max_absent: Callable[[int], int],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make a CSV's ranges the numbering capacity, at once: numbers outside answer absent.

    FILE has the columns first_msisdn, last_msisdn, region, note, and is the whole capacity; or it is the regulator's published
    register, in UTF-8 or windows-1251, of which --operator or --inn says whose lines are meant. A register replaces what a register
    brought before: ranges made by hand stay.
    """
    whose, dsn = Whose(operator, inn), context.settings.file.database.dsn
    refusal = ""
    try:
        found, counted = await feed.import_ranges(dsn, context.password, file, whose, absent_max=max_absent, dry_run=dry_run)
    except TooManyAbsent as error:
        found, counted, refusal = error.ranges, error.would, str(error)
    numbers = sum(one.last - one.first + 1 for one in found)
    facts = {"ranges": len(found), "numbers": numbers, "kept": counted.kept, "live": counted.live, "turnedAbsent": counted.absent}
    are, turn = ("would be", "would turn") if dry_run or refusal else ("are", "turned")
    beside = f", beside {counted.kept:,} made by hand" if counted.kept else ""
    present(
        as_json,
        {**facts, "dryRun": dry_run},
        f"{len(found):,} ranges of {numbers:,} numbers {are} the numbering capacity{beside}",
        f"{counted.absent:,} of {counted.live:,} live contracts {turn} absent",
    )
    if refusal:
        fail(refusal)
