"""One messenger's lane, from its lease to its release.

Reads what is due by key, earliest deadline first; pushes with bounded concurrency; settles in batches while further pushes run. No row
is locked and no transaction is open across HTTP.

Invariants: a receipt is recorded even when the lane was lost meanwhile; a failure only under the lane's token. A failing endpoint
closes the lane with one row, and comes back through one canary and a ramp; the notification that failed is put behind the others, so
that one which breaks the endpoint cannot stand in their way. Content that is refused (400, 413, 422) is split until the one item is
found, and retried alone. Nothing is dropped.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import assert_never
from uuid import UUID

from registryd import observe
from registryd.delivery.push import Pushed, Pusher
from registryd.domain.errors import Unavailable
from registryd.domain.identifiers import MessengerId
from registryd.domain.notification import Acknowledged, Failed, Notification, Rejected
from registryd.domain.schedule import next_attempt, next_probe
from registryd.store import lanes, notifications
from registryd.store.lanes import Lease
from registryd.store.messengers import SigningSecret, WrongSecretsKey
from registryd.store.notifications import Attempt, Deferral
from registryd.store.pool import Database

RENEW_S = 15.0
SECRETS_KEPT_S = 5.0
UNSETTLED_MAX = 5_000
READ_MAX = 1_000
SETTLE_RETRY_S = 0.5


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
        self._stopping = False
        self._held = True
        self._succeeded = False
        self._queue: deque[Sequence[Notification]] = deque()
        self._taken: set[UUID] = set()
        """Read and not yet settled: a re-read from the start must not push them twice."""
        self._after = notifications.BEGINNING
        self._pushes: set[asyncio.Task[tuple[Sequence[Notification], Pushed]]] = set()
        self._delivered: list[UUID] = []
        self._deferred: list[Deferral] = []
        self._attempts: list[Attempt] = []
        self._gate: Failed | None = None
        self._secrets: list[SigningSecret] = []
        self._secrets_read = self._renewed = time.monotonic()

    @property
    def messenger_id(self) -> MessengerId:
        return self._lease.messenger_id

    def stop(self) -> None:
        self._stopping = True

    async def run(self) -> None:
        """Until nothing is due, the endpoint fails, the lease is lost or `stop` is called. Raises: Unavailable."""
        try:
            self._secrets = await self._pusher.secrets(self._lease.messenger_id)
        except WrongSecretsKey:
            observe.event("secrets_unreadable", "error", messenger=self._lease.name)
            async with self._db.transaction() as connection:
                await lanes.gate(connection, self._lease, self._probe_at(Failed("")), "signing secrets cannot be decrypted")
            await lanes.release(self._db, self._lease, succeeded=False)
            return
        try:
            while True:
                more = await self._fill() if self._may_push() else False
                self._launch()
                if not self._pushes and not more:
                    break
                await self._collect()
                await self._settle()
                await self._keep_lease()
        finally:
            while self._pushes:
                await self._collect()
            await self._settle(patience_s=5.0)
        if self._held:
            await lanes.release(self._db, self._lease, succeeded=self._succeeded)

    def _may_push(self) -> bool:
        return self._held and not self._stopping and self._gate is None

    async def _fill(self) -> bool:
        """Reads on, or from the start again where the end was reached; whether there is something to push."""
        if len(self._queue) >= self._allowed or len(self._taken) >= UNSETTLED_MAX:
            return True
        for _ in range(2):
            limit = min(READ_MAX, self._allowed * self._lease.batch_max * 4)
            rows = await notifications.read_due(self._db, self._lease.messenger_id, self._after, limit)
            ended = len(rows) < limit
            fresh = [row for row in rows if row.notification_id not in self._taken]
            at_start = self._after == notifications.BEGINNING
            self._after = notifications.BEGINNING if ended else (rows[-1].deadline_at, rows[-1].notification_id)
            if fresh:
                self._taken.update(row.notification_id for row in fresh)
                size = self._lease.batch_max
                self._queue.extend(fresh[i : i + size] for i in range(0, len(fresh), size))
                return True
            if ended and at_start:
                break
        return bool(self._queue)

    def _launch(self) -> None:
        while self._queue and len(self._pushes) < self._allowed and self._may_push():
            batch = self._queue.popleft()
            self._pushes.add(asyncio.create_task(self._push(batch)))

    async def _push(self, batch: Sequence[Notification]) -> tuple[Sequence[Notification], Pushed]:
        lease = self._lease
        pushed = await self._pusher.push(lease.endpoint_url, self._secrets, batch, with_phone_number=lease.includes_phone_number)
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
                late = sum(n.deadline_at < now for n in batch)
                if late:
                    observe.notifications_late.labels(self._lease.name).inc(late)
                    observe.event("notification_overdue", "error", messenger=self._lease.name, notifications=late)
            case Rejected(status):
                kind, error = "rejected", f"status {status}"
                if len(batch) > 1:
                    middle = len(batch) // 2
                    self._queue.extendleft((batch[middle:], batch[:middle]))
                else:
                    self._defer(batch, error, outcome, now)
            case Failed():
                kind, error = "failed", outcome.error
                self._defer(batch, error, outcome, now)
                self._gate = self._gate or outcome
                if outcome.http_status == 410:
                    observe.event("endpoint_gone", "error", messenger=self._lease.name)
            case _:
                assert_never(outcome)
        self._attempts.append(
            Attempt(pushed.attempted_at, len(batch), kind, outcome.http_status, pushed.latency_ms, error)  # type: ignore[arg-type]
        )
        observe.pushes.labels(self._lease.name, kind).inc()
        observe.push_seconds.labels(self._lease.name).observe(pushed.latency_ms / 1000)

    def _defer(self, batch: Sequence[Notification], error: str, outcome: Rejected | Failed, now: datetime) -> None:
        retry_after = outcome.retry_after if isinstance(outcome, Failed) else None
        self._deferred += [
            Deferral(n.notification_id, next_attempt(now, n.deadline_at, n.attempts + 1, self._jitter(), retry_after), error) for n in batch
        ]

    async def _settle(self, patience_s: float = 0.0) -> None:
        """Writes what was noted. While the database is away it is kept for the next call; with `patience_s`, `Unavailable` after that."""
        give_up = time.monotonic() + patience_s
        while self._attempts or (self._gate is not None and not self._pushes):
            delivered, deferred, attempts = self._delivered, self._deferred, self._attempts
            closes = self._gate if not self._pushes else None
            reopens = bool(delivered) and self._failures > 0 and self._gate is None
            try:
                async with self._db.transaction() as connection:
                    settled = await notifications.settle_push(
                        connection, self._lease.messenger_id, self._lease.token, delivered, deferred, attempts
                    )
                    if reopens:
                        await lanes.reopen(connection, self._lease)
                    if closes is not None:
                        await lanes.gate(connection, self._lease, self._probe_at(closes), closes.error)
            except Unavailable:
                if time.monotonic() >= give_up and patience_s:
                    raise
                await asyncio.sleep(SETTLE_RETRY_S)
                if not patience_s:
                    return
                continue
            self._delivered, self._deferred, self._attempts = [], [], []
            self._succeeded = self._succeeded or bool(delivered)
            self._taken.difference_update(delivered, (d.notification_id for d in deferred))
            observe.notifications_delivered.labels(self._lease.name, "push").inc(settled)
            if reopens:
                self._failures = 0
                observe.event("lane_opened", messenger=self._lease.name)
            if closes is not None:
                self._stopping, self._gate = True, None
                self._queue.clear()
                observe.lane_gates.labels(self._lease.name).inc()
                observe.event("lane_gated", "warning", messenger=self._lease.name, error=closes.error, failures=self._failures + 1)

    def _probe_at(self, failed: Failed) -> datetime:
        return next_probe(datetime.now(UTC), self._failures + 1, self._jitter(), failed.retry_after)

    async def _keep_lease(self) -> None:
        now = time.monotonic()
        if self._held and now - self._renewed > RENEW_S:
            self._held = await lanes.renew(self._db, self._lease)
            self._renewed = now
            if not self._held:
                observe.event("lane_lost", "warning", messenger=self._lease.name)
        if now - self._secrets_read > SECRETS_KEPT_S:
            self._secrets = await self._pusher.secrets(self._lease.messenger_id)
            self._secrets_read = now
