"""Health of one process: `/healthz`, `/readyz` and `/metrics`, on a listener of its own and without a key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from registryd import observe
from registryd.config import Api
from registryd.domain.errors import Unavailable
from registryd.http import wire
from registryd.http.admission import Admission
from registryd.http.app import App
from registryd.http.reply import Reply
from registryd.http.routes import Budget, Call, Route, Routes
from registryd.store import migrations
from registryd.store.pool import Database, fetch

Checks = Callable[[], Awaitable[Mapping[str, str]]]
"""What a process needs for its work, by name: "ok", or why it is not."""

READY_TIMEOUT_S = 2.0
AWAY = {"database": "away", "schema": "unknown"}
BUDGET = Budget(at_once=64)


async def database_checks(db: Database) -> Mapping[str, str]:
    """Whether the database takes writes and has a schema that this release works with."""
    checks = {"database": "ok", "schema": "ok"}
    try:
        async with db.connection() as connection:
            if not (await fetch(connection, migrations.IS_WRITABLE))[0].writable:
                checks["database"] = "read-only: a standby, or a primary that was demoted"
            try:
                await migrations.check(connection)
            except migrations.SchemaMismatch as mismatch:
                checks["schema"] = str(mismatch)
    except Unavailable:
        return AWAY
    return checks


def health_routes(checks: Checks) -> Routes[Any]:
    async def healthz(_: Call[Any]) -> Reply:
        return Reply(b"ok\n", content_type="text/plain; charset=utf-8")

    async def readyz(_: Call[Any]) -> Reply:
        # A server that hangs must be told from one that answers before whoever asks loses patience.
        look = asyncio.ensure_future(checks())
        done, _pending = await asyncio.wait({look}, timeout=READY_TIMEOUT_S)
        look.cancel()
        found = look.result() if done else AWAY
        is_ready = all(state == "ok" for state in found.values())
        return wire.json_response({"ready": is_ready, "checks": found}, 200 if is_ready else 503)

    async def metrics(_: Call[Any]) -> Reply:
        return Reply(observe.exposition(), content_type="text/plain; version=0.0.4; charset=utf-8")

    return {
        f"/{name}": {"GET": Route(name, handle, BUDGET, parameters=None, is_open=True)}
        for name, handle in (("healthz", healthz), ("readyz", readyz), ("metrics", metrics))
    }


def health_app(limits: Api, checks: Checks) -> App[Any]:
    return App("health", limits, health_routes(checks), Admission())
