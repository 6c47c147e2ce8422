"""How every command runs: its settings, its event loop, and errors as exit codes.

Imports what every command needs and nothing else; the database's modules come with the command that wants them.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from enum import IntEnum
from errno import EPIPE
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
import orjson
from rich.console import Console
from rich.text import Text

from registryd import config, sdnotify
from registryd.cli import printing
from registryd.cli.kinds import Decimals
from registryd.cli.printing import Shown
from registryd.config import ConfigError, Settings
from registryd.domain.errors import Refusal
from registryd.domain.wire import wired

if TYPE_CHECKING:
    from registryd.store.messengers import Messenger
    from registryd.store.pool import Database, PlainConnection

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


class Exit(IntEnum):
    """Exit codes. Those above 2 bear the names that systemd gives them, from sysexits.h: UNAVAILABLE, PROTOCOL and CONFIG."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    DATABASE_AWAY = 69
    SCHEMA = 76
    CONFIG = 78


class OutputLost(Refusal):
    """stdout did not take what the command had to show."""


class Context:
    """The options of the group. Settings are read when a command first needs them."""

    def __init__(self, path: Path | None) -> None:
        self.path = path or config.DEFAULT_PATH

    @functools.cached_property
    def settings(self) -> Settings:
        """Raises: ConfigError."""
        return config.load(self.path)

    @property
    def password(self) -> str | None:
        return self.settings.credentials.text("database-password")

    @property
    def owner_dsn(self) -> str:
        """The DSN of a role that may SET ROLE registryd_owner."""
        return self.settings.file.database.owner_dsn or self.settings.file.database.dsn

    def database(self) -> Database:
        """A pool to the daemon's database, not yet entered."""
        from registryd.store import pool

        return pool.of(self.settings, "registryd command", self.settings.file.database.pool_size)

    @asynccontextmanager
    async def owner(self, dsn: str | None) -> AsyncIterator[PlainConnection]:
        """One connection of a role that may SET ROLE registryd_owner. With `dsn`, from --dsn, the password is the person's own."""
        from registryd.store.bulk import connect

        connection = await connect(dsn) if dsn is not None else await connect(self.owner_dsn, password=self.password)
        try:
            yield connection
        finally:
            await connection.close()

    @asynccontextmanager
    async def messenger(self, name: str) -> AsyncIterator[tuple[Database, Messenger]]:
        """The database and the messenger of that name. Raises: NoMessenger."""
        from registryd.store import messengers

        async with self.database() as db:
            async with db.connection() as connection:
                found = await messengers.named(connection, name)
            yield db, found


pass_context = click.pass_obj
json_option = click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
overlap_option = click.option(
    "--overlap-hours", type=Decimals(0, 24 * 90), default=24, show_default=True, help="How long the former ones still work."
)


def command(run: Callable[..., Coroutine[Any, Any, None] | None]) -> Callable[..., None]:
    """Makes a function a command: a coroutine runs on an event loop, and errors become one line and an exit code."""

    @functools.wraps(run)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            result = run(*args, **kwargs)
            if result is not None:
                asyncio.run(result)
        except ConfigError as error:
            fail(str(error), Exit.CONFIG)
        except Refusal as error:
            fail(str(error))
        except BrokenPipeError as error:
            fail(str(_lost(error)))
        except Exception as error:
            from registryd.cli import failures  # imported only now: it brings the database's modules with it

            message, code = failures.explain(error)
            fail(message, code)

    return wrapped


def present(as_json: bool, facts: object, *shown: Shown) -> None:
    """Shows a command's result: `facts` as one line of JSON (see `wired`), or `shown` for people. Raises: OutputLost."""
    if sys.stdout is None:  # closed from the start: libraries would say nothing
        raise OutputLost("nobody took the output: stdout is closed")
    try:
        if as_json:
            click.echo(orjson.dumps(wired(facts)))
        else:
            printing.show(out, shown)
    except (OSError, SystemExit) as error:  # rich ends the program where a pipe is closed
        raise _lost(error) from error


def _lost(error: BaseException) -> OutputLost:
    with suppress(OSError, ValueError):  # what is still buffered has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    reason = "its pipe was closed" if not isinstance(error, OSError) or error.errno == EPIPE else str(error.strerror)
    return OutputLost(f"nobody took the output: {reason}")


def present_once(as_json: bool, facts: dict[str, object]) -> None:
    """Shows keys and secrets. They are not stored in this form, so this is the only time: show them before what makes them valid commits.

    Raises: OutputLost.
    """
    present(as_json, facts, printing.Record(facts), Text("Keys and secrets are shown this once: hand them over now.", "yellow"))


def fail(message: str, code: Exit = Exit.FAILED) -> NoReturn:
    """Ends the command with one line on stderr, with --json an object, which `systemctl status` shows too where it was a unit's process."""
    sdnotify.status(f"refusing: {message}")
    running = click.get_current_context(silent=True)
    if running is not None and running.params.get("as_json"):
        click.echo(orjson.dumps({"error": message, "exitCode": code}), err=True)
    else:
        from registryd.loglines import as_error

        err.print(as_error(f"registryd: {message}", sys.stderr), style="red", markup=False, soft_wrap=True)
    sys.exit(code)
