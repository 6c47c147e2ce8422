"""`make patroni`: a Patroni cluster of three nodes loses its primary in ten ways under load, and what messengers saw meanwhile."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import get_args

import click
from rich.console import Console
from rich.table import Table

from tests import programs
from tests.patroni.campaign import Outcome, run
from tests.patroni.cluster import HAPROXY, NAMES, Cluster, Mode
from tests.patroni.faults import FAULTS, Kind
from tests.patroni.network import Network, enter

AFTER_PROMOTION_S = 1.0
"""From when the new primary confirms a commit."""
REQUEST_S = 3.0


def missed(outcome: Outcome, kind: Kind) -> list[str]:
    """The targets that were not reached."""
    targets = {
        "wrong > 0": outcome.wrong,
        "lost > 0": outcome.lost,
        "doubled > 0": outcome.doubled,
        "no answer any more": outcome.first_answer_after is None,
        "no promotion": kind.promotes and outcome.promoted_after is None,
        "no commit confirmed": kind.promotes and outcome.confirmed_after is None,
        f"first answer > {AFTER_PROMOTION_S:g} s after a commit": kind.promotes
        and outcome.first_answer_after is not None
        and outcome.confirmed_after is not None
        and outcome.first_answer_after - outcome.confirmed_after > AFTER_PROMOTION_S,
        f"a request > {REQUEST_S:g} s": outcome.longest_request > REQUEST_S,
    }
    return [target for target, is_missed in targets.items() if is_missed]


@click.command()
@click.argument("faults", nargs=-1, type=click.Choice(list(FAULTS)))
@click.option("--mode", type=click.Choice(get_args(Mode)), default="strict", show_default=True, help="synchronous_mode_strict, or none.")
@click.option("--haproxy", is_flag=True, help="The DSN names HAProxy instead of the three hosts.")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the outcomes there as well.")
def main(faults: tuple[str, ...], mode: Mode, haproxy: bool, json_path: Path | None) -> None:
    """Faults by name; all of them where none is named."""
    place = enter("tests.patroni", sys.argv[1:], lambda: (programs.debian("etcd"), programs.debian("haproxy"), programs.patroni()))
    told = []
    table = Table()
    table.add_column("fault", no_wrap=True)
    for column in ("promoted after, s", "confirms after, s", "no answer for, s", "first after, s", "longest, s", "answers", "503"):
        table.add_column(column)
    for column in ("cut off", "wrong", "lost", "doubled", "again", "targets"):
        table.add_column(column)
    console, progress = Console(width=160), Console(stderr=True)
    cluster = Cluster(Network(NAMES), place, mode)
    cluster.start()
    hosts = HAPROXY if haproxy else ",".join(f"{address}:5432" for address in cluster.network.addresses.values())
    for number, name in enumerate(faults or FAULTS):
        progress.print(f"{name}: {FAULTS[name].says}")
        outcome: Outcome | None = None
        try:
            outcome = asyncio.run(run(cluster, FAULTS[name], place, f"registry{number}", hosts))
            missing = missed(outcome, FAULTS[name]) if mode == "strict" else []
        except Exception as error:  # the other faults still tell something
            missing = [f"did not end: {type(error).__name__}: {str(error)[:300]}"]
        facts = outcome._asdict() if outcome else dict.fromkeys(Outcome._fields)
        told.append({"fault": name, "mode": mode, "haproxy": haproxy, "missed": missing, **facts})
        *figures, found = facts.values()
        shown = ("-" if v is None else f"{v:.2f}" if isinstance(v, float) else str(v) for v in figures)
        table.add_row(name, *shown, ", ".join(missing) or ("passed" if mode == "strict" else "-"))
        progress.print("\n".join(found or missing), markup=False)
    console.print(table)
    if json_path is not None:
        json_path.write_text(json.dumps(told, indent=1) + "\n")
    sys.exit(any(row["missed"] for row in told))


if __name__ == "__main__":
    main()
