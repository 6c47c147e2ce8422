"""`ranges import`: the operator's numbering capacity."""

from __future__ import annotations

from pathlib import Path

import click

from registryd.cli.running import Context, command, out, pass_context
from registryd.feed import ranges as feed
from registryd.feed.ranges import Whose


@click.group()
def ranges() -> None:
    """The operator's numbering capacity."""


@ranges.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--operator", help="Of the regulator's register, the lines of this operator: its name as published.")
@click.option("--inn", help="Of the regulator's register, the lines of this taxpayer number (ИНН).")
@click.option("--dry-run", is_flag=True, help="Check and count, and change nothing.")
@pass_context
@command
async def import_ranges(context: Context, *, file: Path, operator: str | None, inn: str | None, dry_run: bool) -> None:
    """Make a CSV's ranges the whole numbering capacity, at once: numbers outside answer absent.

    FILE has the columns first_msisdn, last_msisdn, region, note; or it is the regulator's published register, in UTF-8 or
    windows-1251, of which --operator or --inn says whose lines are meant.
    """
    whose = Whose(operator, inn)
    found = await feed.import_ranges(context.settings.file.database.dsn, context.password, file, whose, dry_run=dry_run)
    numbers = sum(one.last - one.first + 1 for one in found)
    out.print(
        f"{len(found):,} ranges of {numbers:,} numbers {'would be' if dry_run else 'are'} the numbering capacity{'' if dry_run else ' now'}"
    )
