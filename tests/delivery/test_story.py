"""Thirty hours of fifty messengers in fast time: the daemon's own decisions (domain/lane, pace, schedule) under a clock that jumps.

Each messenger is owed notifications by contracts that end over the first six hours, and its endpoint follows a script of outages. What is
simulated is the network and the table's rows; what is read, pushed, gated, probed, deferred and settled is decided by the code that serves.
The promise: no notification is late to a messenger whose endpoint was up for any ten minutes before its deadline.
"""

from __future__ import annotations

import heapq
import itertools
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from registryd.delivery.push import TOTAL_TIMEOUT_S
from registryd.delivery.timing import TIMING
from registryd.domain.identifiers import MessengerId
from registryd.domain.lane import LaneState, Lease
from registryd.domain.notification import BEGINNING, Acknowledged, Failed, Notification, Outcome, Rejected
from registryd.domain.pace import Pace, Throughput
from registryd.domain.push_queue import Batch
from registryd.domain.reading import LOOK_S

START = datetime(2026, 3, 1, tzinfo=UTC)
HOUR_S = 3600.0
STORY_S = 30 * HOUR_S
WINDOW_S = 600.0
NOTICES = 60

Answer = tuple[float, Outcome]
"""Seconds until the answer, and what it is."""


def receipt(took_s: float = 0.05) -> Answer:
    return took_s, Acknowledged(204)


def refused(status: int, retry_after_s: float | None = None) -> Answer:
    return 0.02, Failed(f"status {status}", status, timedelta(seconds=retry_after_s) if retry_after_s else None)


HANGS: Answer = (TOTAL_TIMEOUT_S, Failed("timeout"))
NO_CONNECTION: Answer = (0.001, Failed("no connection"))


@dataclass
class Script:
    """An endpoint's thirty hours. `up`: spans of hours in which it takes everything; `answers(now_s, batch, random)` outside of them."""

    name: str
    up: list[tuple[float, float]]
    down: Callable[[float, Batch, random.Random], Answer]
    upside: Callable[[float, Batch, random.Random], Answer] = lambda _, __, ___: receipt()

    def is_up(self, now_s: float) -> bool:
        return any(start * HOUR_S <= now_s < end * HOUR_S for start, end in self.up)

    def answer(self, now_s: float, batch: Batch, chance: random.Random) -> Answer:
        return (self.upside if self.is_up(now_s) else self.down)(now_s, batch, chance)

    def had_ten_minutes(self, owed_s: float, deadline_s: float) -> bool:
        spans = ((max(owed_s, start * HOUR_S), min(deadline_s, end * HOUR_S)) for start, end in self.up)
        return any(end - start >= WINDOW_S for start, end in spans)


class Limit:
    """429 beyond so many notifications a second."""

    def __init__(self, per_s: int, retry_after_s: float | None = None) -> None:
        self.per_s, self.retry_after_s = per_s, retry_after_s
        self.second, self.used = 0, 0

    def __call__(self, now_s: float, batch: Batch, chance: random.Random) -> Answer:
        if int(now_s) != self.second:
            self.second, self.used = int(now_s), 0
        self.used += len(batch)
        return receipt() if self.used <= self.per_s else refused(429, self.retry_after_s)


REFUSED: Answer = (0.02, Rejected(400))


def refuses_one(now_s: float, batch: Batch, chance: random.Random) -> Answer:
    return (0.02, Rejected(422)) if any(n.identification_code == "poison" for n in batch) else receipt()


def breaks_on_one(now_s: float, batch: Batch, chance: random.Random) -> Answer:
    return refused(500) if any(n.identification_code == "poison" for n in batch) else receipt()


def scripts() -> list[Script]:
    always = [(0.0, 30.0)]
    ten_minutes = 1 / 6
    return [
        Script("healthy", always, lambda *_: NO_CONNECTION),
        Script("down 23 h, no connection", [(23.0, 30.0)], lambda *_: NO_CONNECTION),
        Script("down 23 h, hangs", [(23.0, 30.0)], lambda *_: HANGS),
        Script("up 10 min at 21:00, hangs else", [(21.0, 21.0 + ten_minutes)], lambda *_: HANGS),
        Script("up 10 min at 23:30", [(23.5, 23.5 + ten_minutes)], lambda *_: refused(502)),
        Script("flaps, 10 min of each 2 h", [(h, h + ten_minutes) for h in range(1, 30, 2)], lambda *_: HANGS),
        Script("flaps, 1 min of each 10", [(n / 6, n / 6 + 1 / 60) for n in range(180)], lambda *_: NO_CONNECTION),
        Script("slow, 8 s", always, lambda *_: HANGS, lambda *_: receipt(8.0)),
        Script("half of it 503", always, lambda *_: HANGS, lambda _, __, r: receipt() if r.random() < 0.5 else refused(503)),
        Script("429 beyond 5 a second", always, lambda *_: HANGS, Limit(5)),
        Script("429, Retry-After 7", always, lambda *_: HANGS, Limit(100, 7.0)),
        Script("429, Retry-After 1 day, for 22 h", [(22.0, 30.0)], lambda *_: refused(429, 86400.0)),
        Script("410 for 23 h", [(23.0, 30.0)], lambda *_: refused(410)),
        Script("refuses one for 20 h", [(20.0, 30.0)], refuses_one),
        Script("refuses all, up 10 min at 21:00", [(21.0, 21.0 + ten_minutes)], lambda t, *_: REFUSED if t < 21 * HOUR_S else HANGS),
        Script("breaks on one for 20 h", [(20.0, 30.0)], breaks_on_one),
        Script("redirects, then 401, then up", [(22.5, 30.0)], lambda t, *_: refused(302 if t < 10 * HOUR_S else 401)),
        Script("down for all of it", [], lambda *_: NO_CONNECTION),
    ]


@dataclass
class Row:
    notice: Notification
    owed_s: float
    due_s: float
    deadline_s: float


@dataclass
class Messenger:
    """One messenger's rows, lane and endpoint."""

    script: Script
    chance: random.Random
    batch_max: int
    rows: list[Row] = field(default_factory=list)
    attempts: int = 0
    received_s: dict[UUID, float] = field(default_factory=dict)

    low_water: UUID = BEGINNING
    look_back_s: float = 0.0
    gate_s: float = 0.0
    failures: int = 0

    def owe(self) -> None:
        for n in range(NOTICES):
            owed_s = self.chance.uniform(0, 6 * HOUR_S) if n % 3 else self.chance.choice((60.0, 2 * HOUR_S))
            self.add(n, owed_s, "poison" if n == 5 else f"c{n}")

    def add(self, n: int, owed_s: float, code: str) -> None:
        terminated_at = at(owed_s)
        deadline_at = terminated_at + timedelta(hours=24)
        notice = Notification(id_of(deadline_at, n), deadline_at, 79160000000 + n, 1, code, terminated_at, terminated_at, 0)
        self.rows.append(Row(notice, owed_s, owed_s, owed_s + 24 * HOUR_S))
        self.rows.sort(key=lambda row: row.notice.notification_id)

    def read_due(self, after: UUID, limit: int, now_s: float) -> list[Notification]:
        due = (row.notice for row in self.rows if row.due_s <= now_s and row.notice.notification_id > after)
        return list(itertools.islice(due, limit))

    def find_canary(self, now_s: float) -> list[Notification]:
        due = [row.notice for row in self.rows if row.due_s <= now_s]
        return [min(due, key=lambda notice: (notice.attempts, -notice.notification_id.int))] if due else []

    def run(self) -> None:
        """What the dispatcher does: a lease whenever the gate is open and something is due above the mark, or it is time to look back."""
        pace, throughput = Pace(16), Throughput()
        now_s = 0.0
        while self.rows and now_s < STORY_S:
            looked_back_s = max(self.look_back_s, min(row.due_s for row in self.rows))
            above = (row.due_s for row in self.rows if row.notice.notification_id > self.low_water)
            now_s = max(now_s, self.gate_s, min([looked_back_s, *above])) + self.chance.uniform(0, TIMING.poll_s)
            look_back_in = timedelta(seconds=max(0.0, self.look_back_s - now_s))
            lease = Lease(
                MessengerId(1), 1, self.failures, self.low_water, look_back_in, at(now_s), "m", "https://m.example/", self.batch_max, False
            )
            state = LaneState(lease, pace, throughput, self.chance.random, now_s)
            now_s = self.work(state, now_s)
            state.end()
            self.low_water, self.look_back_s = state.reading.low_water, now_s + state.reading.look_back_in_s(now_s)

    def work(self, state: LaneState, now_s: float) -> float:
        """What the lane does until it is given back; returns when."""
        ends: list[tuple[float, int, Batch, Outcome, float]] = []
        order = itertools.count()
        turn_ends_s = now_s + TIMING.turn_s
        while True:
            if now_s < turn_ends_s and state.wants_canary:
                state.offer_canary(self.find_canary(now_s), now_s)
            if now_s < turn_ends_s and (read := state.reads(now_s)) is not None:
                state.offer(self.read_due(*read, now_s), now_s, 0.001)
            while now_s < turn_ends_s and (batch := state.begin(now_s)) is not None:
                took_s, outcome = self.script.answer(now_s, batch, self.chance)
                heapq.heappush(ends, (now_s + took_s, next(order), batch, outcome, now_s))
            self.settle(state, now_s)
            if not ends and (state.closed or state.idle or now_s >= turn_ends_s):
                return now_s
            wait_s = min(state.waits_s() or LOOK_S, LOOK_S)
            now_s = min(now_s + wait_s, ends[0][0]) if ends else now_s + wait_s
            while ends and ends[0][0] <= now_s:
                _, _, batch, outcome, began_s = heapq.heappop(ends)
                self.attempts += 1
                state.note(batch, outcome, began_s, now_s)
                if isinstance(outcome, Acknowledged):
                    for notice in batch:
                        assert notice.notification_id not in self.received_s, "nothing is pushed twice"
                        self.received_s[notice.notification_id] = now_s

    def settle(self, state: LaneState, now_s: float) -> None:
        settlement = state.settle()
        if settlement is None:
            return
        gone = set(settlement.delivered)
        deferred = {d.notification_id: d.due_s for d in settlement.deferred}
        self.rows = [row for row in self.rows if row.notice.notification_id not in gone]
        for row in self.rows:
            if row.notice.notification_id in deferred:
                row.due_s = deferred[row.notice.notification_id]
                row.notice = row.notice._replace(attempts=min(row.notice.attempts + 1, 32767))
        state.settled(settlement, now_s)
        if settlement.reopens:
            self.failures = 0
        if settlement.gate is not None:
            self.gate_s, self.failures = settlement.gate.until_s, self.failures + 1


def at(now_s: float) -> datetime:
    return START + timedelta(seconds=now_s)


def id_of(deadline_at: datetime, n: int) -> UUID:
    """As the fan-out makes them: it begins with the deadline in milliseconds."""
    return UUID(int=(int(deadline_at.timestamp() * 1000) << 80) + n)


def test_thirty_hours_of_fifty_messengers_are_told_in_time(capsys: pytest.CaptureFixture[str]) -> None:
    started = time.perf_counter()
    messengers = [Messenger(script, random.Random(seed), batch_max) for seed, batch_max in enumerate((1, 10, 100)) for script in scripts()]
    lines, broken = [], []
    for messenger in messengers:
        messenger.owe()
        owed = {row.notice.notification_id: row for row in messenger.rows}
        messenger.run()
        late = {i: messenger.received_s.get(i, STORY_S) - row.deadline_s for i, row in owed.items()}
        promised = [i for i, row in owed.items() if messenger.script.had_ten_minutes(row.owed_s, row.deadline_s)]
        broken += [messenger.script.name for i in promised if late[i] > 0]
        worst = max(late.values()) / 60
        told = f"{worst:+9.1f} min" if len(messenger.received_s) == NOTICES else "undelivered"
        lines.append(
            f"{messenger.script.name:34} batch {messenger.batch_max:3} {messenger.attempts:6} attempts  {told}  {len(promised):3} promised"
        )
    with capsys.disabled():
        sys.stdout.write("\nthirty hours; worst lateness against the legal deadline (minus: early)\n" + "\n".join(lines))
        sys.stdout.write(f"\n{len(messengers)} messengers in {time.perf_counter() - started:.1f} s\n")
    assert broken == []
    assert len(messengers) >= 50
    assert max(messenger.attempts for messenger in messengers) < 30 * 60 * 4, "a gated lane's probes, and no storm"


def test_notifications_that_are_refused_for_ever_do_not_keep_the_others_from_their_messenger() -> None:
    """500 that are refused have the earliest deadlines; one that is not comes every five minutes."""
    for status, refusal in (("422", (0.02, Rejected(422))), ("500", refused(500))):

        def answer(_: float, batch: Batch, __: random.Random, refusal: Answer = refusal) -> Answer:
            return refusal if any(n.identification_code == "poison" for n in batch) else receipt()

        messenger = Messenger(Script(f"refuses 500 by {status}", [(0.0, 30.0)], answer, answer), random.Random(1), 1)
        for n in range(500):
            messenger.add(n, 1.0, "poison")
        healthy = {n: 10.0 + 300.0 * (n - 500) for n in range(500, 848)}
        for n, owed_s in healthy.items():
            messenger.add(n, owed_s, "healthy")
        ids = {n: id_of(at(owed_s) + timedelta(hours=24), n) for n, owed_s in healthy.items()}
        messenger.run()
        delays = sorted(messenger.received_s.get(ids[n], STORY_S) - owed_s for n, owed_s in healthy.items())
        assert delays[-1] < 15 * 60, f"{status}: {delays[-5:]}"
        assert delays[len(delays) // 2] < 60, status
