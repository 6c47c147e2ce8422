"""How every command runs: its settings, its event loop, and errors as exit codes."""

from __future__ import annotations

import functools
import math
import re
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from enum import IntEnum
from pathlib import Path
from typing import Any, NoReturn

import click
import uvloop
from rich.console import Console

from registryd import config, daemon
from registryd.config import ConfigError, Settings
from registryd.domain.errors import Unavailable
from registryd.domain.files import ImportRefused
from registryd.embedded import EmbeddedError
from registryd.store import messengers, pool
from registryd.store.breakglass import BreakglassRefused
from registryd.store.messengers import Messenger, WrongSecretsKey
from registryd.store.migrations import SchemaMismatch
from registryd.store.pool import Database

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


class Exit(IntEnum):
    DONE = 0
    FAILED = 1
    USAGE = 2
    CONFIG = 3
    DATABASE_AWAY = 4
    SCHEMA = 5


class ContractsMax(click.ParamType[Callable[[int], int]]):
    """A number of contracts, or a share of the live ones: 500 or 1%. Of a small registry's share, one at least."""

    name = "number|share%"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Callable[[int], int]:
        found = re.fullmatch(r"([0-9]{1,12})|([0-9]{1,3}(?:\.[0-9]{1,4})?)%", str(value), re.ASCII)
        if found is None:
            self.fail("a number of contracts such as 500, or a share of the live ones such as 1%", param, ctx)
        if found[1]:
            number = int(found[1])
            return lambda _: number
        share = float(found[2]) / 100
        return lambda live: math.ceil(live * share)


class Context:
    """What the group's options say; settings are read when a command first needs them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @functools.cached_property
    def settings(self) -> Settings:
        """Raises: ConfigError."""
        return config.load(self.path)

    def database(self) -> Database:
        """The daemon's own database, for one command's work."""
        return daemon.database(self.settings, "registryd command")

    @property
    def owner_dsn(self) -> str:
        """Where a role connects that may SET ROLE registryd_owner."""
        return self.settings.file.database.owner_dsn or self.settings.file.database.dsn

    @property
    def password(self) -> str | None:
        return self.settings.credentials.text("database-password")


def command(run: Callable[..., Coroutine[Any, Any, None] | None]) -> Callable[..., None]:
    """Runs a command, on an event loop where it is a coroutine; its errors become one line and an exit code."""

    @functools.wraps(run)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            result = run(*args, **kwargs)
            if result is not None:
                uvloop.run(result)
        except (ConfigError, WrongSecretsKey) as error:
            fail(str(error), Exit.CONFIG)
        except Unavailable as error:
            fail(pool.explain(error), Exit.DATABASE_AWAY)
        except pool.NOT_ALLOWED as error:
            fail(f"{error.args[0]}: this role lacks a grant; connect as one that has it (see sql/README.md)")
        except pool.NO_SCHEMA:
            fail("the database has no registry schema, or another release's: run `registryd migrate`, or name another DSN", Exit.SCHEMA)
        except SchemaMismatch as error:
            fail(str(error), Exit.SCHEMA)
        except (ImportRefused, BreakglassRefused, EmbeddedError) as error:
            fail(str(error), Exit.FAILED)

    return wrapped


@asynccontextmanager
async def one_messenger(context: Context, name: str) -> AsyncIterator[tuple[Database, Messenger]]:
    """The database and the messenger of that name; ends the command where there is none."""
    async with context.database() as db:
        async with db.connection() as connection:
            found = await messengers.find(connection, name)
        if found is None:
            fail(f"there is no messenger {name}: registryd messenger list")
        yield db, found


def fail(message: str, code: Exit = Exit.FAILED) -> NoReturn:
    """Ends the command with one line on stderr."""
    err.print(f"registryd: {message}", style="red", markup=False, soft_wrap=True)
    sys.exit(code)


pass_context = click.pass_obj
