"""The pages that only show: a table of what each reads and by which template it is written."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple
from uuid import UUID

from registryd.console.decisions import shown_url
from registryd.domain.identifiers import without_numbers
from registryd.store import actions, changes
from registryd.store.pool import Database
from registryd.views import alarms, backlog, breakglass, duty, evidence, feed, find, keys, lanes, policy, presence, processes
from registryd.views.shape import Shape

ACTIONS_SHOWN = 200


class Page(NamedTuple):
    path: str
    name: str
    """In the menu."""
    template: str
    read: Callable[[Database, Mapping[str, str]], Awaitable[Mapping[str, Any]]]


def _view(read: Callable[[Database], Awaitable[Shape]]) -> Callable[[Database, Mapping[str, str]], Awaitable[Mapping[str, Any]]]:
    async def find(db: Database, _: Mapping[str, str]) -> Mapping[str, Any]:
        return {"view": await read(db)}

    return find


async def _actions(db: Database, query: Mapping[str, str]) -> Mapping[str, Any]:
    done = query.get("done", "")
    return {"actions": await actions.read(db, ACTIONS_SHOWN), "done": int(done) if re.fullmatch("[0-9]{1,15}", done) else None}


async def _changes(db: Database, _: Mapping[str, str]) -> Mapping[str, Any]:
    found = [change._replace(reason=change.reason and without_numbers(change.reason)) for change in await changes.read_all(db)]
    return {"changes": found, "shown_url": shown_url}


async def _found(db: Database, query: Mapping[str, str]) -> Mapping[str, Any]:
    """What `searched` led to. The address holds an id or a messenger's name, and never what was typed."""
    wanted = query.get("id") or query.get("messenger")
    return {"view": await find.find(db, wanted) if wanted else None}


PAGES = (
    Page("/", "Duty now", "duty.html", _view(duty.read)),
    Page("/console/backlog", "Backlog", "backlog.html", _view(backlog.read)),
    Page("/console/lanes", "Lanes", "lanes.html", _view(lanes.read)),
    Page("/console/changes", "Change requests", "changes.html", _changes),
    Page("/console/presence", "Presence", "presence.html", _view(presence.read)),
    Page("/console/alarms", "Alarms", "alarms.html", _view(alarms.read)),
    Page("/console/feed", "Feed", "feed.html", _view(feed.read)),
    Page("/console/policy", "Policy", "policy.html", _view(policy.read)),
    Page("/console/processes", "Processes", "processes.html", _view(processes.read)),
    Page("/console/evidence", "Days and evidence", "evidence.html", _view(evidence.read)),
    Page("/console/breakglass", "Break-glass", "breakglass.html", _view(breakglass.read)),
    Page("/console/keys", "Keys", "keys.html", _view(keys.read)),
    Page("/console/find", "Find", "find.html", _found),
    Page("/console/actions", "Action log", "actions.html", _actions),
)
"""In the order of the menu."""
NAMES = {page.path.rpartition("/")[2]: page.name for page in PAGES}
"""What a link of a view leads to."""

LANE = "/console/lanes/"
FIND = "/console/find"


async def lane(db: Database, name: str) -> Mapping[str, Any]:
    """The page of one lane. Raises: NothingThere."""
    return {"view": await lanes.read_one(db, name)}


async def searched(db: Database, text: str) -> str:
    """The address of what was typed. A text that is nothing of ours, such as a number, is in none."""
    try:
        return f"{FIND}?id={UUID(text.strip())}"
    except ValueError:
        found = await find.find(db, text)
        return f"{FIND}?messenger={found.messenger.messenger}" if found.messenger else f"{FIND}?id=none"
