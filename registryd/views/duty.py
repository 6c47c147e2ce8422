"""The duty now: is everybody answered and told in time, and what must a person do?"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, cast

from registryd.domain.identifiers import without_numbers
from registryd.store import answering, backlogs, changes, days, evidence, feed, guard, policy, processes, seals, server
from registryd.store.pool import Database
from registryd.store.reading import Reading
from registryd.views import answering as answers
from registryd.views import backlog, problems
from registryd.views.answering import Answering
from registryd.views.backlog import Backlogs
from registryd.views.feed import mean_lag
from registryd.views.problems import Problem
from registryd.views.shape import Shape, Time, looking


class Tightest(Shape, frozen=True):
    """The messenger whose earliest deadline is nearest."""

    messenger: str
    deadline_at: Time
    slack_seconds: float
    """Negative: overdue."""
    eta_seconds: float | None
    """How long its backlog takes at its pace; None: nothing was acknowledged lately."""
    is_too_slow: bool


class RoleUp(Shape, frozen=True):
    role: Literal["answer", "deliver", "operate"]
    processes: int
    """How many were heard of in the last 30 seconds."""


class LawInForce(Shape, frozen=True):
    effective_from: Time
    lapses_at: Time | None
    """When it lapses without a successor that is planned by then."""
    note: str
    next_from: Time | None
    """When the next planned policy begins."""


class Duty(Shape, frozen=True):
    seen_at: Time
    problems: list[Problem]
    """The worst first; empty: nothing needs a person."""
    registry_complete: bool
    pending: int
    overdue: int
    held: int
    """Of pending, those in held waves."""
    late_today: int
    """Notifications that were delivered today (UTC) after their deadline."""
    tightest: Tightest | None
    answering: Answering
    feed_lag_seconds: float | None
    """The mean lag of today's events; None: none came."""
    last_event_at: Time | None
    alarms_in_force: int
    lanes_gated: int
    holds: int
    """Holds by hand in force."""
    waves_held: int
    roles: list[RoleUp]
    """All three roles."""
    law: LawInForce


async def read(db: Database) -> Duty:
    """Raises: Unavailable."""
    async with looking(db) as (moment, seen_at):
        return await read_in(moment, seen_at)


async def read_in(moment: Reading, seen_at: datetime) -> Duty:
    owed = await backlog.read_in(moment, seen_at)
    today, minutes = await answering.presence_today(moment), await answering.read_minutes(moment, answers.NOW_MINUTES)
    facts = problems.Facts(
        backlogs=owed,
        late_today=await backlogs.late_today(moment),
        answering=await answers.now(moment, today, minutes),
        feed=await feed.read_status(moment.connection),
        waiting=await feed.count_long_waiting(moment),
        alarms=[a for a in await guard.read_alarms(moment, 200) if a.in_force],
        roles=await processes.count_roles(moment),
        law=await policy.read_law(moment.connection),
        thresholds=await backlogs.read_thresholds(moment),
        retention=await moment.fetch(days.READ_RETENTION),
        unsealed_s=await seals.unsealed_s(moment),
        verified=await evidence.verified(moment),
        changes=[change for change in await changes.read_all(moment) if change.state == "waiting"],
        rules_off=await server.rules_off(moment),
    )
    lags = await feed.read_lag(moment.connection)
    return Duty(
        seen_at=seen_at,
        problems=problems.found(facts),
        registry_complete=facts.feed.complete,
        pending=owed.pending,
        overdue=owed.overdue,
        held=owed.held,
        late_today=facts.late_today,
        tightest=_tightest(owed),
        answering=facts.answering,
        feed_lag_seconds=mean_lag(lags),
        last_event_at=facts.feed.last_event_at,
        alarms_in_force=len(facts.alarms),
        lanes_gated=sum(b.endpoint == "gated" for b in owed.messengers),
        holds=len(owed.holds),
        waves_held=len(owed.waves),
        roles=[RoleUp(role=cast("Literal['answer', 'deliver', 'operate']", r.role), processes=r.up) for r in facts.roles],
        law=LawInForce(
            effective_from=facts.law.effective_from,
            lapses_at=facts.law.lapses_at,
            note=without_numbers(facts.law.note),
            next_from=facts.law.next_from,
        ),
    )


def _tightest(owed: Backlogs) -> Tightest | None:
    first = owed.messengers[0] if owed.messengers else None
    if first is None or first.oldest_deadline_at is None or first.slack_seconds is None:
        return None
    return Tightest(
        messenger=first.messenger,
        deadline_at=first.oldest_deadline_at,
        slack_seconds=first.slack_seconds,
        eta_seconds=first.eta_seconds,
        is_too_slow=first.too_slow,
    )
