"""Break-glass: what nobody may do alone. One person asks for a reason, another approves, the first carries it out, and all of it is logged:
a look at one number unmasked, the undoing of mistaken ends, the withdrawal of notifications.

The database keeps the rules: sql/code/breakglass.sql. Each call here is its own transaction, under the person's own role.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg

from registryd.domain.errors import Refusal
from registryd.domain.identifiers import Msisdn
from registryd.store.bulk import connect
from registryd.store.pool import Connection, fetch
from registryd.store.queries import Query

NO_ROLE = "Connect as yourself; a DBA grants you registryd_breakglass, to ask and to carry out, or registryd_approver, to approve"
"""What a person lacks whom no function of the schema refused."""


class BreakglassRefused(Refusal):
    """The database refuses the step: the message says why, and what to do."""


class RequestId(NamedTuple):
    request: int


class EndsAt(NamedTuple):
    ends_at: datetime


class OpenRequest(NamedTuple):
    request: int
    kind: str
    requested_at: datetime
    requested_by: str
    number: str | None
    """Masked; of a look alone."""
    scope: str
    """Which contracts or notifications, as JSON; empty for a look."""
    reason: str
    is_prepared: bool
    approved_by: str | None
    ends_at: datetime


class Seen(NamedTuple):
    """What is known of the number: a contract, a binding (detail: the code) or a query (detail: its id)."""

    kind: str
    began_at: datetime
    ended_at: datetime | None
    generation: int | None
    messenger: str | None
    detail: str
    outcome: str


class Undone(NamedTuple):
    """How many contracts, bindings or notifications had an outcome; with a number, one for which nothing was made."""

    what: str
    outcome: str
    messenger: str | None
    quantity: int
    number: int | None
    generation: int | None
    identification_code: str | None


class Withdrawn(NamedTuple):
    outcome: str
    messenger: str
    notifications: int


class Ends(NamedTuple):
    """The mistaken ends that a request names: recorded in a period, some reasons alone; of a wave; or of numbers."""

    recorded_from: datetime | None = None
    recorded_until: datetime | None = None
    end_reasons: list[str] | None = None
    wave: int | None = None
    numbers: list[int] | None = None


class Notices(NamedTuple):
    """The notifications that a request names: what a messenger refused, by deadline or by ids; or what is held of a wave."""

    messenger: str | None = None
    due_before: datetime | None = None
    ids: list[UUID] | None = None
    wave: int | None = None


REQUEST_LOOK = Query("breakglass", "request_look", RequestId, int, str)
REQUEST_REINSTATE = Query("breakglass", "request_reinstate", RequestId, str, datetime, datetime, list[str], int, list[int])
REQUEST_WITHDRAW = Query("breakglass", "request_withdraw", RequestId, str, str, datetime, list[UUID], int)
APPROVE_REQUEST = Query("breakglass", "approve_request", EndsAt, int)
LIST_REQUESTS = Query("breakglass", "list_requests", OpenRequest)
USE_APPROVAL = Query("breakglass", "use_approval", Seen, int)
REINSTATE = Query("breakglass", "reinstate", Undone, int, bool, bool)
WITHDRAW = Query("breakglass", "withdraw", Withdrawn, int, bool)


@asynccontextmanager
async def session(dsn: str) -> AsyncIterator[Connection]:
    """A person's connection. Raises: Unavailable; BreakglassRefused, for what is done in it too."""
    try:
        connection = await connect(dsn)
        try:
            yield connection
        finally:
            await connection.close()
    except (asyncpg.InsufficientPrivilegeError, asyncpg.CheckViolationError) as error:
        is_grant_wanted = isinstance(error, asyncpg.InsufficientPrivilegeError) and error.server_source_function != "exec_stmt_raise"
        raise BreakglassRefused(f"{error.args[0]}. {NO_ROLE if is_grant_wanted else error.hint or ''}".strip()) from None


async def request(connection: Connection, msisdn: Msisdn, reason: str) -> int:
    """Asks for a look at a number and at the queries about it."""
    return (await fetch(connection, REQUEST_LOOK, msisdn, reason))[0].request


async def request_reinstate(connection: Connection, ends: Ends, reason: str) -> int:
    """Asks that mistaken ends be undone."""
    return (await fetch(connection, REQUEST_REINSTATE, reason, *ends))[0].request


async def request_withdraw(connection: Connection, notices: Notices, reason: str) -> int:
    """Asks that notifications be withdrawn."""
    return (await fetch(connection, REQUEST_WITHDRAW, reason, *notices))[0].request


async def approve(connection: Connection, request: int) -> datetime:
    """Approves another person's request; returns until when he may look."""
    return (await fetch(connection, APPROVE_REQUEST, request))[0].ends_at


async def open_requests(connection: Connection) -> list[OpenRequest]:
    return await fetch(connection, LIST_REQUESTS)


async def look(connection: Connection, request: int) -> list[Seen]:
    return await fetch(connection, USE_APPROVAL, request)


async def reinstate(connection: Connection, request: int, *, dry_run: bool = False, with_list: bool = False) -> list[Undone]:
    """Undoes the ends that a request names, or counts what that would do."""
    return await fetch(connection, REINSTATE, request, dry_run, with_list)


async def withdraw(connection: Connection, request: int, *, dry_run: bool = False) -> list[Withdrawn]:
    """Withdraws the notifications that a request names, or counts them."""
    return await fetch(connection, WITHDRAW, request, dry_run)
