"""`serve`."""

from __future__ import annotations

import sys

import click
import uvloop

from registryd import daemon, workers
from registryd.cli.running import Context, command, pass_context


@click.command()
@click.option(
    "--instance",
    type=click.IntRange(1, 99),
    default=1,
    show_default=True,
    help="The N of registryd@N: adds N - 1 to the operator API's port.",
)
@click.option(
    "--workers",
    "count",
    type=click.IntRange(1, 99),
    help="Serve with N processes, instances 1 to N, on one listener, as registryd.socket does under systemd. For development.",
)
@pass_context
@command
def serve(context: Context, *, instance: int, count: int | None) -> None:
    """Serve until SIGTERM, which drains; SIGHUP reloads keys, messengers, the TLS certificate and the log level."""
    if count is not None:
        sys.exit(uvloop.run(workers.supervise(context.settings, count)))
    uvloop.run(daemon.serve(context.settings, instance))
