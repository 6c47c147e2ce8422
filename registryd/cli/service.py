"""`serve`, and one process of each role: `answer`, `deliver`, `operate`."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Coroutine
from importlib import import_module
from types import TracebackType
from typing import Any

import click
import uvloop

from registryd import sdnotify
from registryd.cli.kinds import Whole
from registryd.cli.running import Context, command, pass_context
from registryd.config import INSTANCES_MAX, Settings
from registryd.loglines import as_error, open_streams

INSTANCE = Whole(1, INSTANCES_MAX)


@click.command()
@click.option("--answer", "answers", type=INSTANCE, default=1, show_default=True, help="How many processes answer messengers.")
@click.option("--deliver", "delivers", type=INSTANCE, default=1, show_default=True, help="How many processes deliver notifications.")
@pass_context
@command
def serve(context: Context, *, answers: int, delivers: int) -> None:
    """Start every role, and serve until SIGTERM, which drains; SIGHUP goes on to all. For containers and development."""
    from registryd.roles import supervisor

    open_streams()
    sys.exit(uvloop.run(supervisor.serve(context.settings, answers, delivers)))


def _role(name: str, does: str, reloaded: str) -> click.Command:
    """The command that runs one process of the role. `reloaded`: what SIGHUP has it read again."""

    @click.command(name, help=f"{does} One process, until SIGTERM, which drains. SIGHUP reads {reloaded} again.")
    @click.option("--instance", type=INSTANCE, default=1, show_default=True, help=f"The N of registryd-{name}@N.")
    @pass_context
    @command
    def run(context: Context, *, instance: int) -> None:
        open_streams()
        sys.excepthook = tell_crash
        role: Callable[[Settings, int], Coroutine[Any, Any, None]] = getattr(import_module(f"registryd.roles.{name}"), name)
        uvloop.run(role(context.settings, instance))

    return run


KEYS = "API keys, TLS certificate and log level"


def tell_crash(kind: type[BaseException], _: BaseException, trace: TracebackType | None) -> None:
    """Tells where a fault of ours has ended a process, and not the exception's text, which may quote a row."""
    sdnotify.status(f"ended by a fault of registryd's own: {kind.__name__}")
    sys.stderr.write(as_error(f"{''.join(traceback.format_tb(trace))}{kind.__name__}", sys.stderr) + "\n")


answer = _role("answer", "Answer messengers: the messenger API.", KEYS)
deliver = _role("deliver", "Deliver notifications: pushes, retries, daily digests.", "the log level")
operate = _role("operate", "Take contract events, and do the work that is done once for all processes.", KEYS)
