"""The pages that only show: a table of what each reads and by which template it is written."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from registryd.store import actions
from registryd.store.pool import Database
from registryd.views import alarms, backlog, breakglass, duty, evidence, feed, keys, lanes, policy, presence, processes
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
    return {"actions": await actions.read(db, ACTIONS_SHOWN), "done": int(done) if done.isascii() and done.isdigit() else None}


PAGES = (
    Page("/", "Duty now", "duty.html", _view(duty.read)),
    Page("/console/backlog", "Backlog", "backlog.html", _view(backlog.read)),
    Page("/console/lanes", "Lanes", "lanes.html", _view(lanes.read)),
    Page("/console/presence", "Presence", "presence.html", _view(presence.read)),
    Page("/console/alarms", "Alarms", "alarms.html", _view(alarms.read)),
    Page("/console/feed", "Feed", "feed.html", _view(feed.read)),
    Page("/console/policy", "Policy", "policy.html", _view(policy.read)),
    Page("/console/processes", "Processes", "processes.html", _view(processes.read)),
    Page("/console/evidence", "Days and evidence", "evidence.html", _view(evidence.read)),
    Page("/console/breakglass", "Break-glass", "breakglass.html", _view(breakglass.read)),
    Page("/console/keys", "Keys", "keys.html", _view(keys.read)),
    Page("/console/actions", "Action log", "actions.html", _actions),
)
"""In the order of the menu."""
NAMES = {page.path.rpartition("/")[2]: page.name for page in PAGES}
"""What a link of a view leads to."""

LANE = "/console/lanes/"


async def lane(db: Database, name: str) -> Mapping[str, Any]:
    """The page of one lane. Raises: NothingThere."""
    return {"view": await lanes.read_one(db, name)}
