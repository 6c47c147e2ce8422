"""The pages that only show: a table of what each reads and by which template it is written."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from registryd.store import actions
from registryd.store.pool import Database

ACTIONS_SHOWN = 200


class Page(NamedTuple):
    path: str
    name: str
    """In the menu."""
    template: str
    read: Callable[[Database, Mapping[str, str]], Awaitable[Mapping[str, Any]]]
    refreshes: bool = True
    """Whether the page asks for itself again every few seconds."""


async def _actions(db: Database, query: Mapping[str, str]) -> Mapping[str, Any]:
    done = query.get("done", "")
    return {"actions": await actions.read(db, ACTIONS_SHOWN), "done": int(done) if done.isascii() and done.isdigit() else None}


async def _nothing(_: Database, __: Mapping[str, str]) -> Mapping[str, Any]:
    return {}


PAGES = (
    Page("/", "Duty now", "duty.html", _nothing),
    Page("/console/actions", "Action log", "actions.html", _actions),
)
"""In the order of the menu."""
