"""`make mutants`: plants each bug in a copy of the tree, and shows whether its test catches it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
import orjson
from rich.console import Console
from rich.table import Table

from tests.mutants.mutants import Mutant, Ran, Stale, copy_of_tree, read, run


def verdict(mutant: Mutant, without: Ran) -> Ran:
    """`caught`, or why not."""
    if without.outcome != "passed":
        return Ran(f"without it: {without.outcome}", without.detail)
    try:
        with copy_of_tree(mutant) as tree:
            ran = run(tree, [mutant.test])[mutant.test]
    except Stale as stale:
        return Ran("cannot be planted", str(stale))
    return {"assertion": Ran("caught", ran.detail), "passed": Ran("not caught")}.get(ran.outcome, ran)


@click.command()
@click.argument("words", nargs=-1)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the verdicts there too.")
def main(words: tuple[str, ...], json_path: Path | None) -> None:
    """Plant all bugs, or those whose name or file holds one of WORDS."""
    chosen = [mutant for mutant in read() if not words or any(word in mutant.name or word in mutant.file for word in words)]
    if not chosen:
        raise click.UsageError("no mutant has such a name")
    with copy_of_tree() as tree:
        without = run(tree, list(dict.fromkeys(mutant.test for mutant in chosen)))
    told = []
    for mutant in chosen:
        began = time.monotonic()
        ran = verdict(mutant, without[mutant.test])
        told.append({**mutant._asdict(), "verdict": ran.outcome, "detail": ran.detail, "seconds": round(time.monotonic() - began, 1)})
        click.echo(f"{ran.outcome}: {mutant.name}" + (f" ({ran.detail[:160]})" if ran.outcome != "caught" else ""), err=True)
    table = Table("bug", "file", "test", "verdict", "s")
    for row in told:
        table.add_row(row["name"], row["file"], row["test"].rpartition("::")[2], row["verdict"], str(row["seconds"]))
    Console(width=None if sys.stdout.isatty() else 220).print(table)
    caught = sum(row["verdict"] == "caught" for row in told)
    click.echo(f"{caught} of {len(told)} caught")
    if json_path is not None:
        json_path.write_bytes(orjson.dumps(told, option=orjson.OPT_INDENT_2))
    sys.exit(caught != len(told))


if __name__ == "__main__":
    main()
