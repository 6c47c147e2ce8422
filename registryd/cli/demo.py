"""`demo`."""

from __future__ import annotations

from pathlib import Path

import click

from registryd.cli.kinds import Whole
from registryd.cli.running import command, fail


@click.command()
@click.option("--once", is_flag=True, help="End after the story; exit 1 if a step of it failed.")
@click.option(
    "--json", "as_json", is_flag=True, help="One line of JSON on stdout once it is ready, and no story; then serve until SIGTERM."
)
@click.option("--contracts", type=Whole(100, 10_000_000), default=20_000, show_default=True, help="How many contracts to make up.")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Keep the database here; default: a temporary one.")
@click.option("--api-port", type=Whole(0, 65535), default=8080, show_default=True, help="Messenger API; 0 takes a free one.")
@click.option("--operator-port", type=Whole(0, 65535), default=8081, show_default=True, help="Operator API; 0 takes a free one.")
@click.option("--receiver-port", type=Whole(0, 65535), default=8082, show_default=True, help="The story's receiver; 0 takes a free one.")
@command
def demo(*, once: bool, as_json: bool, contracts: int, data: Path | None, api_port: int, operator_port: int, receiver_port: int) -> None:
    """A private PostgreSQL, a registry of made-up contracts, the daemon, a receiver, and the whole story."""
    try:
        from registryd.demo.story import Options, run
    except ModuleNotFoundError:
        fail("the demo is not installed with the program: run `make demo` in a checkout of the source")
    if not run(Options(once, as_json, contracts, data, api_port, operator_port, receiver_port)):
        fail("a step of the story failed")
