"""A mistaken UPDATE ends a fifth of all contracts. Nobody is told, other notices flow, two persons undo it, and all is as before.

    python -m tests.model.mistake [--scale S]      a million contracts by S, and 200,000 mistaken ends by S

Three messengers know the subscribers: two are pushed to over HTTP, one pulls. Prints a line for each thing that must hold, and says pass or
fail.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, TypeVar

import aiohttp

from registryd.demo import embedded
from registryd.feed.snapshot import FileImport, reconcile
from registryd.store import breakglass
from registryd.store.breakglass import Ends
from registryd.store.snapshots import Reconciled
from tests.bench.measure import bench_site
from tests.conftest import Inbox, Site, TestDatabase, TestMessenger, eventually, receiving
from tests.served import Served, serving
from tests.store.conftest import Connection

T = TypeVar("T")
FIRST = 79_160_000_000
CONTRACTS = 1_000_000
STARTED = "2020-01-01T00:00:00Z"
SHARES = (2, 3, 5)
"""The first messenger knows every second number, and so on."""
SAMPLE = 1_000
WITHIN_S = 10.0
"""By when another contract's end must have been told, while the wave is held."""
LIVE = "SELECT messenger_id, msisdn, identification_code FROM registry.binding WHERE ended_at IS NULL AND msisdn <> {other}"


class Line(NamedTuple):
    what: str
    value: str
    is_right: bool = True


class Persons(NamedTuple):
    """The DSNs of who asks and carries out, and of who approves."""

    asks: str
    approves: str


@contextmanager
def two_persons(database: TestDatabase) -> Iterator[Persons]:
    """Database roles of their own, as a DBA grants them."""
    anna, boris = (f"{name}_{secrets.token_hex(4)}" for name in ("anna", "boris"))

    def psql(statement: str) -> None:
        done = database.psql("-c", statement)
        assert done.returncode == 0, done.stderr

    psql(f"CREATE ROLE {anna} LOGIN IN ROLE registryd_breakglass; CREATE ROLE {boris} LOGIN IN ROLE registryd_approver")
    try:
        yield Persons(database.dsn(anna), database.dsn(boris))
    finally:
        psql(f"DROP ROLE {anna}, {boris}")


class Story:
    """The mistake from its beginning to the end. `lines`: what was found."""

    def __init__(self, site: Site, persons: Persons, contracts: int) -> None:
        self.lines: list[Line] = []
        self._site = site
        self._persons = persons
        self._contracts = contracts
        self._mistaken = contracts // 5
        self._other = (FIRST + contracts - 1) // 30 * 30
        """A number of the others that all messengers know, and that ends as it should meanwhile."""

    def check(self, what: str, found: object, expected: object) -> None:
        said = f"{found:,}" if isinstance(found, int) else str(found)
        self.lines.append(Line(what, said if found == expected else f"{said}, not {expected}", found == expected))

    async def timed(self, what: str, work: Awaitable[T]) -> T:
        began = time.perf_counter()
        result = await work
        self.lines.append(Line(what, f"{time.perf_counter() - began:.1f} s"))
        return result

    async def run(self) -> None:
        messengers = [await self._site.add_messenger(name) for name in ("one", "many", "pulls")]
        await self._site.slow_nobody()  # numbers in their order look like a search
        async with told(messengers[:2]) as ((one_url, at_one), (many_url, at_many)), self._site.database.connect() as dba:
            change = "UPDATE registry.messenger SET endpoint_url = $2, batch_max = $3 WHERE messenger_id = $1"
            for messenger, url, batch_max in zip(messengers, (one_url, many_url), (1, 100), strict=False):
                await dba.execute(change, messenger.messenger_id, url, batch_max)
            await dba.execute("SELECT registry.change_policy('{\"ends_max\": 100, \"ends_max_share\": 0.001}', now(), 'the demonstration')")
            await self.timed("snapshot loaded", self._import(datetime.now(UTC) - timedelta(minutes=30)))
            for messenger, share in zip(messengers, SHARES, strict=True):
                await dba.execute(
                    "INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code) "
                    "SELECT c.msisdn, 1, $1, 'u-' || c.msisdn FROM registry.contract AS c WHERE c.msisdn % $2::int = 0",
                    messenger.messenger_id,
                    share,
                )
            await dba.execute(f"CREATE SCHEMA story; CREATE TABLE story.before AS {LIVE.format(other=self._other)}")
            with serving(self._site, "--answer", "2", "--deliver", "2") as served:
                await self._go_wrong(dba, served, messengers, (at_one, at_many))
                await self._undo(dba, served, messengers, (at_one, at_many))

    async def _go_wrong(self, dba: Connection, served: Served, messengers: Sequence[TestMessenger], inboxes: Sequence[Inbox]) -> None:
        pulls = messengers[-1]
        self.check("answered present of a sample, before", await present(served, messengers[0], self._sample()), SAMPLE)
        wrong = f"UPDATE registry.contract SET ended_at = now() WHERE msisdn < {FIRST + self._mistaken} AND ended_at IS NULL"
        expected = await dba.fetchval("SELECT count(*) FROM story.before WHERE msisdn < $1", FIRST + self._mistaken)
        await self.timed(f"{self._mistaken:,} contracts ended by one UPDATE", dba.execute(wrong))
        self.check("notices held", await dba.fetchval("SELECT count(*) FROM registry.notification_held"), expected)
        self.check("notices on their way", await dba.fetchval("SELECT count(*) FROM registry.notification"), 0)
        self.check("ends of the wave, by its report", await dba.fetchval("SELECT sum(ends)::bigint FROM report.wave"), self._mistaken)
        # Half of the sample lies among the mistaken ends.
        self.check("answered present of the sample, meanwhile", await present(served, messengers[0], self._sample()), SAMPLE // 2)
        self.check("pull of who is owed nothing else", await pull(served, pulls), 503)
        await self._end_other(served)
        began = time.monotonic()
        await eventually(lambda: all(len(inbox.notifications) == 1 for inbox in inboxes))
        took_s = time.monotonic() - began
        self.lines.append(Line("another contract's end was pushed after", f"{took_s:.1f} s", took_s < WITHIN_S))
        self.check("pushed in all, by messenger", [len(inbox.notifications) for inbox in inboxes], [1, 1])
        self.check("pull with that one notice", await pull(served, pulls), 1)
        await self.timed("the alarm was raised after", eventually(lambda: served.log("wave_held")))

    async def _undo(self, dba: Connection, served: Served, messengers: Sequence[TestMessenger], inboxes: Sequence[Inbox]) -> None:
        held = await dba.fetchval("SELECT count(*) FROM registry.notification_held")
        bound = await dba.fetchval("SELECT count(*) FROM story.before WHERE msisdn < $1", FIRST + self._mistaken)
        wave = await dba.fetchval("SELECT max(wave_id) FROM registry.wave")
        async with breakglass.session(self._persons.asks) as anna, breakglass.session(self._persons.approves) as boris:
            request = await breakglass.request_reinstate(anna, Ends(wave=wave), "a job ended them by mistake")
            await breakglass.approve(boris, request)
            await self.timed("dry run", breakglass.reinstate(anna, request, dry_run=True))
            rows = await self.timed("reinstated by two persons", breakglass.reinstate(anna, request))
        found = {(row.what, row.outcome): 0 for row in rows}
        for row in rows:
            found[row.what, row.outcome] += row.quantity
        self.check("contracts begun again", found.get(("contract", "reinstated"), 0), self._mistaken)
        self.check("bindings made again", found.get(("binding", "reinstated"), 0), bound)
        self.check("notices withdrawn", await dba.fetchval("SELECT count(*) FROM registry.notification_withdrawn"), held)
        self.check("notices held still", await dba.fetchval("SELECT count(*) FROM registry.notification_held"), 0)
        now = LIVE.format(other=self._other)
        differ = f"SELECT count(*) FROM ((TABLE story.before EXCEPT {now}) UNION ALL ({now} EXCEPT TABLE story.before)) AS d"
        self.check("bindings that differ from before", await self.timed("compared with before", dba.fetchval(differ)), 0)
        self.check("answered present of the sample, after", await present(served, messengers[0], self._sample()), SAMPLE)
        self.check("pushed in all, by messenger, in the end", [len(inbox.notifications) for inbox in inboxes], [1, 1])
        self.check("pull with the other notice alone", await pull(served, messengers[-1]), 1)
        at = await dba.fetchval("SELECT clock_timestamp()")
        done = await self.timed("the next snapshot", self._import(at))
        changed = (done.activated, done.terminated, done.holder_changed, done.updated, done.newer)
        self.check("contracts that the next snapshot changes", changed, (0, 0, 0, 0, 0))

    def _sample(self) -> list[int]:
        """Half of them among the mistaken ends, half among the others."""
        step = max(1, self._mistaken * 2 // SAMPLE)
        return [FIRST + i * step % self._mistaken for i in range(SAMPLE // 2)] + [
            FIRST + self._mistaken + i * step % self._mistaken for i in range(SAMPLE // 2)
        ]

    async def _import(self, as_of: datetime) -> Reconciled:
        """Billing's table: all numbers; once the other's contract has ended, all but that."""
        file = self._site.directory / "billing.csv"
        is_first = not file.exists()
        with file.open("w") as lines:
            lines.write("msisdn,holder,end_user,status,started_at\n")
            for number in range(FIRST, FIRST + self._contracts):
                if is_first or number != self._other:
                    lines.write(f"{number},individual,not_required,active,{STARTED}\n")
        return await reconcile(self._site.database.dsn("registryd_app"), None, FileImport(file), as_of)

    async def _end_other(self, served: Served) -> None:
        event = {"eventId": "other", "type": "terminated", "phoneNumber": f"+{self._other}", "occurredAt": datetime.now(UTC).isoformat()}
        async with (
            aiohttp.ClientSession(served.base("operator"), headers=self._site.operator_headers) as session,
            session.post("/operator/v1/contract-events", json={"events": [event]}) as response,
        ):
            answer = await response.json()
        self.check("billing's event of another end, meanwhile", answer["results"][0]["outcome"], "applied")


@asynccontextmanager
async def told(messengers: Sequence[TestMessenger]) -> AsyncIterator[tuple[tuple[str, Inbox], tuple[str, Inbox]]]:
    one, many = messengers
    async with receiving(one.secret) as (at_one, inbox_one), receiving(many.secret) as (at_many, inbox_many):
        yield (at_one.url, inbox_one), (at_many.url, inbox_many)


async def present(served: Served, messenger: TestMessenger, numbers: Sequence[int]) -> int:
    """How many of the numbers are answered present."""
    async with aiohttp.ClientSession(served.api, headers=messenger.headers) as session:
        queries = [{"phoneNumber": f"+{number}"} for number in numbers]
        async with session.post("/v1/presence/batch", json={"queries": queries}) as response:
            return sum(result["present"] for result in (await response.json())["results"])


async def pull(served: Served, messenger: TestMessenger) -> int:
    """How many notices there are to pull; else the status of the refusal."""
    async with (
        aiohttp.ClientSession(served.api, headers=messenger.headers) as session,
        session.get("/v1/notifications", params={"limit": 1000}) as response,
    ):
        return len((await response.json())["notifications"]) if response.status == 200 else response.status


async def tell(site: Site, persons: Persons, contracts: int) -> list[Line]:
    story = Story(site, persons, contracts)
    await story.run()
    return story.lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.model.mistake")
    parser.add_argument("--scale", type=float, default=1.0)
    contracts = int(CONTRACTS * parser.parse_args().scale)
    options = {"shared_buffers": "1GB", "max_wal_size": "8GB", "max_connections": "200"}
    with (
        tempfile.TemporaryDirectory() as directory,
        embedded.Server(embedded.find_binaries(), options=options) as server,
        bench_site(server, Path(directory)) as site,
        two_persons(site.database) as persons,
    ):
        site.admit_operator()
        lines = asyncio.run(tell(site, persons, contracts))
    for line in lines:
        sys.stdout.write(f"{'  ' if line.is_right else '! '}{line.what:<56} {line.value}\n")
    is_right = all(line.is_right for line in lines)
    sys.stdout.write(f"{'pass' if is_right else 'fail'}\n")
    sys.exit(0 if is_right else 1)


if __name__ == "__main__":
    main()
