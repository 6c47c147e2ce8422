"""Break-glass: an unmasked look at one number by one person, for a reason, approved by another, logged before it answers.

The database keeps the rules: sql/code/breakglass.sql. Each call here is its own transaction, under the person's own role.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import NamedTuple

import asyncpg

from registryd.domain.errors import Refusal
from registryd.domain.identifiers import Msisdn
from registryd.store.pool import Connection, connect, fetch
from registryd.store.queries import Query

NO_ROLE = "Connect as yourself; a DBA grants you registryd_breakglass, to ask and to look, or registryd_approver, to approve"
"""What a person lacks whom no function of the schema refused."""


class BreakglassRefused(Refusal):
    """The database refuses the step: the message says why, and what to do."""


class RequestId(NamedTuple):
    request: int


class EndsAt(NamedTuple):
    ends_at: datetime


class OpenRequest(NamedTuple):
    request: int
    requested_at: datetime
    requested_by: str
    number: str
    """Masked."""
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


REQUEST_LOOK = Query("breakglass", "request_look", RequestId, int, str)
APPROVE_REQUEST = Query("breakglass", "approve_request", EndsAt, int)
LIST_REQUESTS = Query("breakglass", "list_requests", OpenRequest)
USE_APPROVAL = Query("breakglass", "use_approval", Seen, int)


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


async def approve(connection: Connection, request: int) -> datetime:
    """Approves another person's request; returns until when he may look."""
    return (await fetch(connection, APPROVE_REQUEST, request))[0].ends_at


async def open_requests(connection: Connection) -> list[OpenRequest]:
    return await fetch(connection, LIST_REQUESTS)


async def look(connection: Connection, request: int) -> list[Seen]:
    return await fetch(connection, USE_APPROVAL, request)
