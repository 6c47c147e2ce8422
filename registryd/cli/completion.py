"""What the shell completes: names of messengers, reports and operator keys, and columns of the policy, as the database has them.

Where the database does not answer within a second, or there is no configuration, nothing is offered and nothing is said.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Awaitable, Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from registryd.store.pool import Connection

PATIENCE_S = 1.0
SET_BY_THE_DATABASE = ("effective_from", "note", "recorded_at", "recorded_by", "superseded_at", "in_force")
"""Columns of report.policy that `policy set` does not take by name."""
Names = Callable[["Connection"], Awaitable[list[str]]]


def _completes(read: Names) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Makes a completer for click of `read`: click asks it for the words that may stand in a place."""

    @functools.wraps(read)
    def offer(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
        path = ctx.find_root().params.get("path") or os.environ.get("REGISTRYD_CONFIG")
        return [name for name in _within_patience(read, Path(path) if path else None) if name.startswith(incomplete)]

    return offer


def _within_patience(read: Names, path: Path | None) -> list[str]:
    """What `read` finds; nothing where that takes too long: a thread that hangs ends with the process."""
    import asyncio
    import threading

    from registryd.cli.running import Context

    found: list[str] = []

    async def look() -> None:
        async with Context(path).database() as db, db.connection() as connection:
            found.extend(await read(connection))

    def run() -> None:
        with suppress(Exception):  # a shell that completes is no place for a message
            asyncio.run(look())

    thread = threading.Thread(target=run, daemon=True)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        thread.start()
        thread.join(PATIENCE_S)
    return list(found)


@_completes
async def messengers(connection: Connection) -> list[str]:
    from registryd.store import messengers as store

    return [messenger.name for messenger in await store.read_all(connection)]


@_completes
async def operators(connection: Connection) -> list[str]:
    from registryd.store import operators as store

    return sorted({key.name for key in await store.read_keys(connection)})


@_completes
async def reports(connection: Connection) -> list[str]:
    from registryd.store import reports as store

    return [view.name for view in await store.list_views(connection)]


@_completes
async def policy_columns(connection: Connection) -> list[str]:
    from registryd.store import policy as store

    columns = (await store.read(connection))[-1]
    return [f"{name}=" for name in columns if name not in SET_BY_THE_DATABASE and not name.endswith("_seconds")]


messenger_name = functools.partial(click.argument, "name", shell_complete=messengers)
"""The argument that names a messenger."""
