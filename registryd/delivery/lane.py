"""One messenger's lane, from its lease to its release.

Reads what is due by key, earliest deadline first; pushes with bounded concurrency; settles in batches while further pushes run. No row
is locked and no transaction is open across HTTP.

Invariants: a receipt is recorded even when the lane was lost meanwhile, and kept while the database is away; a failure only under the
lane's token. No push is begun that could outlive the lease. A failing endpoint closes the lane with one row, and comes back through one
canary and a ramp; the canary is the notification that has failed least, and what failed comes back in half the batch, so that one which
breaks the endpoint cannot stand in the others' way. Content that is refused (400, 413, 422) is split until the one item is found.
Nothing is dropped.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, assert_never
from uuid import UUID

from registryd import observe
from registryd.delivery.push import TOTAL_TIMEOUT_S, Pushed, Pusher
from registryd.domain.errors import Unavailable
from registryd.domain.identifiers import MessengerId
from registryd.domain.notification import Acknowledged, Failed, Notification, Rejected
from registryd.domain.schedule import PROBE_MAX, next_attempt, next_probe
from registryd.store import lanes, notifications
from registryd.store.lanes import Lease
from registryd.store.messengers import SigningSecret, WrongSecretsKey
from registryd.store.notifications import Attempt, Deferral
from registryd.store.pool import Database

RENEW_S = 15.0
LEASE_MARGIN_S = 5.0
SECRETS_KEPT_S = 5.0
UNSETTLED_MAX = 5_000
READ_MAX = 1_000
SETTLE_RETRY_S = 0.5
TURN_S = 60.0
"""A busy lane is given back after this, so that a new endpoint or agreement takes effect and other lanes get their turn."""
STOP_PATIENCE_S = 18.0
"""How long a stopped lane waits for its last push and for the database."""


class Gate(NamedTuple):
    """Why and until when the lane closes."""

    error: str
    until: datetime


class Lane:
    """Works one lease. `jitter()` gives 0 to 1; `stop()` ends it after what is in flight."""

    def __init__(self, db: Database, pusher: Pusher, lease: Lease, concurrency: int, jitter: Callable[[], float]) -> None:
        self._db = db
        self._pusher = pusher
        self._lease = lease
        self._concurrency = concurrency
        self._jitter = jitter
        self._allowed = 1 if lease.failures else concurrency
        self._failures = lease.failures
        self._stop_by: float | None = None
        self._held = True
        self._closed = False
        self._succeeded = False
        self._queue: deque[Sequence[Notification]] = deque()
        self._taken: set[UUID] = set()
        """Read and not yet settled: a re-read from the start must not push them twice."""
        self._after = notifications.BEGINNING
        self._pushes: set[asyncio.Task[tuple[Sequence[Notification], Pushed]]] = set()
        self._delivered: list[UUID] = []
        self._deferred: list[Deferral] = []
        self._attempts: list[Attempt] = []
        self._gate: Gate | None = None
        self._secrets: list[SigningSecret] = []
        self._secrets_read = self._renewed = time.monotonic()
        self._turn_ends = self._renewed + TURN_S

    @property
    def messenger_id(self) -> MessengerId:
        return self._lease.messenger_id

    def stop(self) -> None:
        self._stop_by = self._stop_by or time.monotonic() + STOP_PATIENCE_S

    async def run(self) -> None:
        """Until nothing is due, the endpoint fails, the turn is over, the lease is lost or `stop` is called. Raises: Unavailable."""
        try:
            with suppress(Unavailable):  # nothing can be read, but what is in flight is still waited for and settled
                await self._work()
            await self._finish()
        finally:
            for push in self._pushes:
                push.cancel()
        if self._held:
            await lanes.release(self._db, self._lease, succeeded=self._succeeded)

    async def _work(self) -> None:
        await self._read_secrets()
        while True:
            more = self._may_push() and await self._fill()
            self._launch()
            if not self._pushes and not more:
                return
            await self._collect()
            if not await self._settle():
                await asyncio.sleep(SETTLE_RETRY_S)
            await self._keep_lease()

    async def _finish(self) -> None:
        """Waits for what is in flight, and then for the database: a receipt that is forgotten is a notification sent twice."""
        while self._pushes:
            await self._collect()
            await self._settle()
        while not await self._settle():
            if self._stop_by is not None and time.monotonic() > self._stop_by:
                raise Unavailable
            await asyncio.sleep(SETTLE_RETRY_S)

    def _may_push(self) -> bool:
        now = time.monotonic()
        lease_safe_until = self._renewed + lanes.LEASE.total_seconds() - TOTAL_TIMEOUT_S - LEASE_MARGIN_S
        is_open = self._gate is None and not self._closed
        return self._held and is_open and self._stop_by is None and now < min(self._turn_ends, lease_safe_until)

    async def _fill(self) -> bool:
        """Reads on, or from the start again where the end was reached; whether there is something to push."""
        if len(self._queue) >= self._allowed or len(self._taken) >= UNSETTLED_MAX:
            return True
        if self._failures:
            return await self._pick_canary()
        for _ in range(2):
            limit = min(READ_MAX, self._allowed * self._lease.batch_max * 4)
            rows = await notifications.read_due(self._db, self._lease.messenger_id, self._after, limit)
            ended = len(rows) < limit
            fresh = [row for row in rows if row.notification_id not in self._taken]
            at_start = self._after == notifications.BEGINNING
            self._after = notifications.BEGINNING if ended else (rows[-1].deadline_at, rows[-1].notification_id)
            if fresh:
                self._taken.update(row.notification_id for row in fresh)
                self._queue.extend(sorted(_batches(fresh, self._lease.batch_max), key=lambda batch: batch[0].deadline_at))
                return True
            if ended and at_start:
                break
        return bool(self._queue)

    async def _pick_canary(self) -> bool:
        """One notification to probe with: that which failed least, lest the first always be the one that breaks the endpoint."""
        if self._pushes:
            return True
        rows = await notifications.read_due(self._db, self._lease.messenger_id, notifications.BEGINNING, READ_MAX)
        fresh = [row for row in rows if row.notification_id not in self._taken]
        if fresh:
            canary = min(fresh, key=lambda row: row.attempts)
            self._taken.add(canary.notification_id)
            self._queue.append((canary,))
        return bool(self._queue)

    def _launch(self) -> None:
        while self._queue and len(self._pushes) < self._allowed and self._may_push():
            batch = self._queue.popleft()
            self._pushes.add(asyncio.create_task(self._push(batch)))

    async def _push(self, batch: Sequence[Notification]) -> tuple[Sequence[Notification], Pushed]:
        lease = self._lease
        try:
            pushed = await self._pusher.push(lease.endpoint_url, self._secrets, batch, with_phone_number=lease.includes_phone_number)
        except Exception as error:
            # A fault of ours, with this content or these secrets: it must not take the lane's other receipts with it.
            observe.event("background_failed", "error", where="push", kind=type(error).__name__)
            pushed = Pushed(Failed("the registry failed to push"), datetime.now(UTC), 0)
        return batch, pushed

    async def _collect(self) -> None:
        """Waits for a push to end and notes what it came to."""
        if not self._pushes:
            return
        done, self._pushes = await asyncio.wait(self._pushes, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            batch, pushed = task.result()
            self._note(batch, pushed)

    def _note(self, batch: Sequence[Notification], pushed: Pushed) -> None:
        now = datetime.now(UTC)
        outcome = pushed.outcome
        error: str | None
        match outcome:
            case Acknowledged():
                kind, error = "acknowledged", None
                self._delivered += [n.notification_id for n in batch]
                self._allowed = min(self._concurrency, self._allowed * 2)
                late = sum(n.deadline_at < now and not n.replayed for n in batch)
                if late:
                    observe.notifications_late.labels(self._lease.name).inc(late)
                    observe.event("notification_overdue", "error", messenger=self._lease.name, notifications=late)
            case Rejected(status):
                kind, error = "rejected", f"status {status}"
                if len(batch) > 1:
                    middle = len(batch) // 2
                    self._queue.extendleft((batch[middle:], batch[:middle]))
                else:
                    self._defer(batch, error, now)
            case Failed():
                kind, error = "failed", outcome.error
                self._gate = self._gate or Gate(error, next_probe(now, self._failures + 1, self._jitter(), outcome.retry_after))
                # Due by the next probe: else there might be nothing to probe with.
                self._defer(batch, error, now, outcome.retry_after, by=self._gate.until if self._failures else now + PROBE_MAX)
                if outcome.http_status == 410:
                    observe.event("endpoint_gone", "error", messenger=self._lease.name)
            case _:
                assert_never(outcome)
        self._attempts.append(
            Attempt(pushed.attempted_at, len(batch), kind, outcome.http_status, pushed.latency_ms, error)  # type: ignore[arg-type]
        )
        observe.pushes.labels(self._lease.name, kind).inc()
        observe.push_seconds.labels(self._lease.name).observe(pushed.latency_ms / 1000)

    def _defer(
        self, batch: Sequence[Notification], error: str, now: datetime, retry_after: timedelta | None = None, *, by: datetime | None = None
    ) -> None:
        for n in batch:
            due = next_attempt(now, n.deadline_at, n.attempts + 1, self._jitter(), retry_after)
            self._deferred.append(Deferral(n.notification_id, min(due, by) if by else due, error))

    async def _settle(self) -> bool:
        """Writes what was noted; False while the database is away, and it is then kept for the next call."""
        delivered, deferred, attempts = self._delivered, self._deferred, self._attempts
        closes = self._gate if not self._pushes else None
        if not attempts and closes is None:
            return True
        reopens = bool(delivered) and self._failures > 0 and self._gate is None
        try:
            async with self._db.transaction() as connection:
                settled = await notifications.settle_push(
                    connection, self._lease.messenger_id, self._lease.token, delivered, deferred, attempts
                )
                if reopens:
                    await lanes.reopen(connection, self._lease)
                if closes is not None:
                    await lanes.gate(connection, self._lease, closes.until, closes.error)
        except Unavailable:
            return False
        self._delivered, self._deferred, self._attempts = [], [], []
        self._succeeded = self._succeeded or bool(delivered)
        self._taken.difference_update(delivered, (d.notification_id for d in deferred))
        observe.notifications_delivered.labels(self._lease.name, "push").inc(settled)
        if deferred:
            # Under a lost token nothing was deferred, and the same rows would be read again at once: look before going on.
            self._renewed = min(self._renewed, time.monotonic() - RENEW_S)
        if reopens:
            self._failures = 0
            observe.event("lane_opened", messenger=self._lease.name)
        if closes is not None:
            self._gate, self._closed = None, True
            observe.lane_gates.labels(self._lease.name).inc()
            observe.event("lane_gated", "warning", messenger=self._lease.name, error=closes.error, failures=self._failures + 1)
        return True

    async def _keep_lease(self) -> None:
        now = time.monotonic()
        if self._held and now - self._renewed >= RENEW_S:
            self._held = await lanes.renew(self._db, self._lease)
            self._renewed = now
            if not self._held:
                observe.event("lane_lost", "warning", messenger=self._lease.name)
        if now - self._secrets_read > SECRETS_KEPT_S:
            await self._read_secrets()

    async def _read_secrets(self) -> None:
        """Every live secret signs; rotated ones stop within seconds. Raises: Unavailable."""
        try:
            self._secrets = await self._pusher.secrets(self._lease.messenger_id)
        except WrongSecretsKey:
            observe.event("secrets_unreadable", "error", messenger=self._lease.name)
            until = next_probe(datetime.now(UTC), self._failures + 1, self._jitter())
            self._gate = self._gate or Gate("signing secrets cannot be decrypted", until)
        self._secrets_read = time.monotonic()


def _batches(rows: Sequence[Notification], batch_max: int) -> Iterator[Sequence[Notification]]:
    """Rows in batches, in order: those that failed n times in batches of `batch_max` / 2^n, so that a bad one is soon alone."""
    for attempts in {row.attempts for row in rows}:
        alike = [row for row in rows if row.attempts == attempts]
        size = max(1, batch_max >> attempts)
        yield from (alike[i : i + size] for i in range(0, len(alike), size))
