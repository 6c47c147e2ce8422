"""What an id or a name stands for: a notification, a query, a batch or a messenger."""

from __future__ import annotations

import re
from typing import Literal, cast
from uuid import UUID

from registryd.domain.testnumbers import ID_PREFIX
from registryd.store import answering, backlogs, guard, lanes, messengers
from registryd.store.answering import Answer
from registryd.store.messengers import Described
from registryd.store.pool import Database
from registryd.store.reading import Reading
from registryd.views import alarms, backlog, notification, presence
from registryd.views import lanes as endpoints
from registryd.views.alarms import Alarm
from registryd.views.backlog import MessengerBacklog
from registryd.views.lanes import Lane
from registryd.views.notification import NotificationFound
from registryd.views.presence import MessengerPresence
from registryd.views.shape import Shape, Time, looking

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
"""What a messenger's name can be. Other texts do not reach the database."""


class QueryFound(Shape, frozen=True):
    """A presence query. The journal does not hold its number."""

    query_id: str
    messenger: str
    answered_at: Time
    present: bool | None
    """None: it was not answered, because its contract was being changed, but asked again."""
    bound: bool
    """Whether a binding of the messenger stood on the number after it."""
    waited_seconds: float
    """From the receipt of the first of the messenger's queries on its page until the database was asked."""
    is_sealed: bool


class BatchFound(Shape, frozen=True):
    """A page of the journal: queries that were answered together. A batch's id is that of its first query."""

    batch_id: str
    answered_at: Time
    queries: int
    messengers: list[str]
    is_sealed: bool


class MessengerFound(Shape, frozen=True):
    messenger: str
    state: Literal["active", "suspended"]
    agreement: str | None
    register_no: str | None
    created_at: Time
    suspended_at: Time | None
    includes_phone_number: bool
    batch_max: int
    lane: Lane
    backlog: MessengerBacklog
    today: MessengerPresence
    alarms: list[Alarm]
    """In force."""


class Found(Shape, frozen=True):
    """What is known by the id or name. A batch's id is its first query's as well, so both are there then."""

    seen_at: Time
    kind: Literal["notification", "query", "batch", "messenger", "test", "nothing"]
    """test: the id of an answer about a test number, which is kept nowhere."""
    notification: NotificationFound | None = None
    query: QueryFound | None = None
    batch: BatchFound | None = None
    messenger: MessengerFound | None = None


async def find(db: Database, text: str) -> Found:
    """`text`: the id of a notification, a query or a batch, or a messenger's name. Raises: Unavailable."""
    wanted = _id(text.strip())
    async with looking(db) as (moment, seen_at):
        if wanted is None:
            messenger = await _messenger(moment, text.strip())
            return Found(seen_at=seen_at, kind="messenger" if messenger else "nothing", messenger=messenger)
        if str(wanted).startswith(ID_PREFIX):
            return Found(seen_at=seen_at, kind="test")
        known = await notification.read_in(moment, seen_at, wanted)
        if known is not None:
            return Found(seen_at=seen_at, kind="notification", notification=known)
        answer = await answering.find(moment, wanted)
    if answer is None:
        return Found(seen_at=seen_at, kind="nothing")
    if wanted.int & 0xFFFF == 0 and answer.queries > 1 and len(answer.messengers) == 1:
        return Found(seen_at=seen_at, kind="batch", query=_query(wanted, answer), batch=_batch(wanted, answer))
    return Found(seen_at=seen_at, kind="query", query=_query(wanted, answer))


def _id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _query(query_id: UUID, a: Answer) -> QueryFound:
    return QueryFound(
        query_id=str(query_id),
        messenger=a.messenger,
        answered_at=a.answered_at,
        present=a.present,
        bound=a.bound,
        waited_seconds=a.waited_s,
        is_sealed=a.is_sealed,
    )


def _batch(batch_id: UUID, a: Answer) -> BatchFound:
    return BatchFound(batch_id=str(batch_id), answered_at=a.answered_at, queries=a.queries, messengers=a.messengers, is_sealed=a.is_sealed)


async def _messenger(moment: Reading, name: str) -> MessengerFound | None:
    known = await messengers.describe(moment, name) if NAME.fullmatch(name) else None
    if known is None:
        return None
    owed = next(b for b in await backlogs.look(moment) if b.name == name)
    (lane,) = await lanes.read_all(moment, name)
    today = next(t for t in await answering.presence_today(moment) if t.messenger == name)
    refused = [r for r in await answering.refused_today(moment) if r.messenger == name]
    raised = [a for a in await guard.read_alarms(moment, alarms.SHOWN_MAX) if a.messenger == name and a.in_force]
    return _described(known, endpoints.of(lane), backlog.of(owed), presence.of(today, refused), [alarms.of(a) for a in raised])


def _described(known: Described, lane: Lane, owed: MessengerBacklog, today: MessengerPresence, raised: list[Alarm]) -> MessengerFound:
    return MessengerFound(
        messenger=known.name,
        state=cast("Literal['active', 'suspended']", known.state),
        agreement=known.agreement,
        register_no=known.register_no,
        created_at=known.created_at,
        suspended_at=known.suspended_at,
        includes_phone_number=known.includes_phone_number,
        batch_max=known.batch_max,
        lane=lane,
        backlog=owed,
        today=today,
        alarms=raised,
    )
