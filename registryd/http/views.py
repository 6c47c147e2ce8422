"""The views of the operator API: what the console shows, as JSON, for keys of scope `read`.

They have a few connections of their own, read-only, with a bound on each statement's time: whoever looks takes nothing from who works.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from registryd.domain.errors import InvalidArgument, NoSuchThing
from registryd.http.reply import Reply
from registryd.http.routes import Budget, Call, Route, Routes
from registryd.store.operators import Operator
from registryd.store.pool import Database
from registryd.views import alarms, backlog, breakglass, duty, evidence, feed, find, keys, lanes, policy, presence, processes, reports
from registryd.views.shape import NothingThere, Shape, encode

FINDABLE = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
PHONE_NUMBER = re.compile("[0-9]{10,15}", re.ASCII)
BUDGET = Budget(at_once=4, per_minute=600)
PREFIX = "/operator/v1"

PLAIN: dict[str, Callable[[Database], Awaitable[Shape]]] = {
    "duty": duty.read,
    "backlog": backlog.read,
    "lanes": lanes.read,
    "presence": presence.read,
    "alarms": alarms.read,
    "feed": feed.read,
    "policy": policy.read,
    "processes": processes.read,
    "evidence": evidence.read,
    "breakglass": breakglass.read,
    "keys": keys.read,
    "reports": reports.list_all,
}
NAMED: dict[str, Callable[[Database, str], Awaitable[Shape]]] = {
    "lanes": lanes.read_one,
    "reports": reports.read,
}
"""Of one thing each, whose name ends the path."""


def view_routes(db: Database) -> Routes[Operator]:
    """`db`: a small pool that nobody else uses."""
    plain = {f"{PREFIX}/{name}": {"GET": _route(name, _whole(db, read))} for name, read in PLAIN.items()}
    named = {f"{PREFIX}/{name}/{{name}}": {"GET": _route(f"{name}_one", _one(db, read))} for name, read in NAMED.items()}
    return plain | named | {f"{PREFIX}/find": {"GET": _route("find", _find(db), frozenset({"id"}))}}


def _route(name: str, handle: Callable[[Call[Operator]], Awaitable[Reply]], parameters: frozenset[str] = frozenset()) -> Route[Operator]:
    return Route(f"view_{name}", handle, BUDGET, parameters=parameters, shares_pool=True, scope="read")


def _whole(db: Database, read: Callable[[Database], Awaitable[Shape]]) -> Callable[[Call[Operator]], Awaitable[Reply]]:
    async def handle(_: Call[Operator]) -> Reply:
        return Reply(encode(await read(db)))

    return handle


def _one(db: Database, read: Callable[[Database, str], Awaitable[Shape]]) -> Callable[[Call[Operator]], Awaitable[Reply]]:
    async def handle(call: Call[Operator]) -> Reply:
        try:
            return Reply(encode(await read(db, call.name)))
        except NothingThere:
            raise NoSuchThing from None

    return handle


def _find(db: Database) -> Callable[[Call[Operator]], Awaitable[Reply]]:
    async def handle(call: Call[Operator]) -> Reply:
        wanted = call.request.rel_url.query.get("id", "")
        if FINDABLE.fullmatch(wanted) is None or PHONE_NUMBER.fullmatch(wanted):
            raise InvalidArgument(("id", "must be the id of a notification, a query or a batch, or a messenger's name; never a number"))
        return Reply(encode(await find.find(db, wanted)))

    return handle
