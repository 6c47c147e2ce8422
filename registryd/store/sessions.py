"""Sessions of the console. Of a session's token only SHA-256 is kept; a session ends with its key."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from registryd.store.pool import Database, fetch
from registryd.store.queries import Nothing, Query

IDLE = timedelta(minutes=15)
"""After how long without a page a session ends."""
LONGEST = timedelta(hours=12)
SESSIONS_PER_KEY = 10
"""How many sessions of one key are open at most; the one used least lately goes first."""


class Person(NamedTuple):
    """Whose session it is: the operator key that the person logged in with."""

    key_id: str
    name: str
    scopes: list[str]
    asked_at: datetime
    """Now, by the database's clock: what the page's times are told from."""


OPEN_SESSION = Query("sessions", "open_session", Nothing, bytes, str)
FORGET_SESSIONS = Query("sessions", "forget_sessions", Nothing, timedelta, timedelta, str, int)
FIND_SESSION = Query("sessions", "find_session", Person, bytes, timedelta, timedelta, bool)
END_SESSION = Query("sessions", "end_session", Nothing, bytes)


async def begin(db: Database, session_sha256: bytes, key_id: str) -> None:
    async with db.transaction() as connection:
        await fetch(connection, FORGET_SESSIONS, IDLE, LONGEST, key_id, SESSIONS_PER_KEY - 1)
        await fetch(connection, OPEN_SESSION, session_sha256, key_id)


async def find(db: Database, session_sha256: bytes, *, by_person: bool) -> Person | None:
    """Whose session it is; None where it has ended. `by_person`: a person asked for a page, so it is not idle."""
    found = await db.fetch(FIND_SESSION, session_sha256, IDLE, LONGEST, by_person)
    return found[0] if found else None


async def end(db: Database, session_sha256: bytes) -> None:
    await db.fetch(END_SESSION, session_sha256)
