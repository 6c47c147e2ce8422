"""A primary and its standby on this machine, and a registry whose DSN names both."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from registryd.demo import embedded
from registryd.domain.identifiers import Msisdn, msisdn_digest
from tests.conftest import Daemon, Site, TestDatabase, TestMessenger, daemon, digest_key, make_site, prepare_database, psql
from tests.http.test_database_away import PRESENT, Away, Told, frozen, load, more
from tests.servers import workplace

NAME = "registry"
# A killed process loses nothing that the kernel has, so only the commit's wait for the standby is wanted of durability.
OPTIONS = {"synchronous_commit": "on", "wal_receiver_status_interval": "1s"}


class PairDatabase(TestDatabase):
    """The database of a pair, under a DSN of both hosts, the first one first."""

    def __init__(self, first: embedded.Server, second: embedded.Server) -> None:
        super().__init__(first, NAME)
        self.second = second

    def dsn(self, user: str = "postgres") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.server.port},127.0.0.1:{self.second.port}/{self.name}"


@dataclass
class Pair:
    """`first` streams to `second`, synchronously, until `promote`."""

    first: embedded.Server
    second: embedded.Server
    site: Site
    messenger: TestMessenger
    daemon: Daemon

    @property
    def as_away(self) -> Away:
        return Away(self.first, self.site, self.daemon, self.messenger)

    def sql(self, server: embedded.Server, *statements: str) -> str:
        """What psql prints on one of the two."""
        done = psql(server, server.dsn(NAME), "-At", *(word for statement in statements for word in ("-c", statement)))
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def promote(self) -> None:
        """Makes the second the primary; returns when it takes writes."""
        assert self.sql(self.second, "SELECT pg_promote()") == "t"


@contextlib.contextmanager
def pair(directory: Path, *, connect_timeout_s: float = 3.0, command_timeout_s: float = 10.0) -> Iterator[Pair]:
    """Makes both, waits until the standby is synchronous, and starts the daemon, with the timeouts of its default configuration."""
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(workplace())
        binaries = embedded.find_binaries()
        first = embedded.Server(binaries, place / "first", port=0, durable=False, options=OPTIONS)
        stack.callback(first.stop)
        first.start()
        asyncio.run(prepare_database(first, NAME))
        first.stop()
        second_options = OPTIONS | {"primary_conninfo": f"host={first.socket_directory} port={first.port} user=postgres"}
        second = embedded.Server(binaries, place / "second", port=0, durable=False, options=second_options)
        copy_cold(first, second)
        first.start()
        stack.callback(second.stop)
        second.start()
        site = make_site(PairDatabase(first, second), directory)
        site.write_config(database=f"connect_timeout_s = {connect_timeout_s}\ncommand_timeout_s = {command_timeout_s}")
        asyncio.run(site.slow_nobody())
        messenger = asyncio.run(site.add_messenger())
        asyncio.run(site.add_contracts(*PRESENT))
        made = Pair(first, second, site, messenger, stack.enter_context(daemon(site)))
        made.sql(first, "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
        while made.sql(first, "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") != "1":
            pass
        yield made


def copy_cold(primary: embedded.Server, standby: embedded.Server) -> None:
    """A base backup of a server that is stopped: its files, and the sign that says standby. pg_basebackup is not in every package."""
    source, target = primary.directory / "data", standby.directory / "data"
    standby.directory.mkdir(mode=0o711)
    subprocess.run(["cp", "-a", source, target], check=True)
    signal_file = target / "standby.signal"
    signal_file.touch()
    owner = target.stat()
    os.chown(signal_file, owner.st_uid, owner.st_gid)


@contextlib.contextmanager
def stopped(pair: Pair) -> Iterator[None]:
    """Shut down in order, as by its operator."""
    pair.first.stop()
    yield


@contextlib.contextmanager
def killed(pair: Pair) -> Iterator[None]:
    """All its processes at once, as by a loss of power."""
    pair.first.kill()
    yield


@contextlib.contextmanager
def hung(pair: Pair) -> Iterator[None]:
    """It accepts connections and answers none of them, as behind a network that has died in silence; then it goes on, and takes writes."""
    with frozen(pair.first):
        yield


FAILURES = {"stopped": stopped, "killed": killed, "hung": hung}


class Outcome(NamedTuple):
    """Times in seconds. `without_answers`: the longest time between two answers; `after_promotion`: the part of it after the standby took
    writes. `lost`: answers of which the new primary's journal does not hold the page."""

    without_answers: float
    after_promotion: float
    answers: int
    refused: int
    wrong: int
    lost: int


async def fail_over(pair: Pair, failure: str, answers: int = 300, delay_s: float = 0) -> Outcome:
    """Fails the first under load, promotes the second `delay_s` later, and goes on until both have answered enough."""
    async with load(pair.as_away) as told:
        await more(told, 200, answers)
        with FAILURES[failure](pair):
            await asyncio.sleep(delay_s)
            await asyncio.to_thread(pair.promote)
            promoted = time.monotonic()
            await more(told, 200, answers)
        await more(told, 200, answers)
    good = sorted((answer for answer in told if answer.status == 200), key=attrgetter("at"))
    without, back_at = max((after.at - before.at, after.at) for before, after in itertools.pairwise(good))
    wrong = sum(not is_right(answer) for answer in told)
    return Outcome(without, max(0.0, back_at - promoted), len(good), len(told) - len(good), wrong, await count_lost(pair, good))


def is_right(answer: Told) -> bool:
    """Whether it is true, or 503 with a time to come back."""
    if answer.status == 200:
        return answer.body["present"] is (answer.number in PRESENT)
    return answer.status == 503 and int(answer.retry_after or 0) >= 1 and "present" not in answer.body


async def count_lost(pair: Pair, answers: list[Told], server: embedded.Server | None = None) -> int:
    """How many answers are not in a server's journal as they were told; the second's unless another is named."""
    database = TestDatabase(server or pair.second, NAME)
    key = await digest_key(database, pair.site.journal_key)
    async with database.connect() as connection:
        ids = [answer.body["queryId"] for answer in answers]
        rows = await connection.fetch("SELECT q.* FROM unnest($1::uuid[]) AS id, registry.find_query(id) AS q", ids)
    found = {str(row["query_id"]): (row["msisdn_digest"], row["present"]) for row in rows}
    expected = {answer.body["queryId"]: (msisdn_digest(key, Msisdn(answer.number)), answer.body["present"]) for answer in answers}
    assert len(expected) == len(answers), "no id is told twice"
    return sum(found.get(query) != page for query, page in expected.items())
