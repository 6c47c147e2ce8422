"""Admission: what one messenger does costs the others nothing, and each refusal is counted for whom and why."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from registryd.domain.errors import TooManyCalls
from registryd.http.admission import NOBODY, POOL_REST, POOL_REST_MAX_S, POOL_SHARE, REFUSALS_PER_MINUTE, Admission, pool_rest_s
from registryd.http.auth import Directory
from registryd.http.reply import Reply
from registryd.http.routes import Budget, Call, Route
from registryd.store.messengers import Messenger
from registryd.store.pool import Database
from tests.conftest import TestMessenger, client, eventually
from tests.http.conftest import Service, ask

ONE, OTHER = (Messenger(n, name, "active", None, 1, False, None, []) for n, name in enumerate(("one", "other"), 1))  # type: ignore[arg-type]


async def nothing(_: Call[Messenger]) -> Reply:
    return Reply(b"")


def fresh_admission() -> Admission[Messenger]:
    """Of an API where everybody may do everything; no key is looked at."""
    db = Database("", size=1, connect_timeout_s=1, command_timeout_s=1)
    return Admission(Directory(db), lambda _caller, _route: None)


def route(name: str, budget: Budget) -> Route[Messenger]:
    return Route(name, nothing, budget)


def test_a_budget_is_one_caller_s_on_one_route() -> None:
    async def run() -> None:
        admission = fresh_admission()
        narrow, wide = route("narrow", Budget(at_once=2)), route("wide", Budget(at_once=100))
        first, _second = admission.enter(ONE, narrow), admission.enter(ONE, narrow)
        with pytest.raises(TooManyCalls):
            admission.enter(ONE, narrow)
        admission.enter(ONE, wide)
        admission.enter(OTHER, narrow)
        admission.leave(first, narrow)
        admission.enter(ONE, narrow)

    asyncio.run(run())


def test_a_budget_of_calls_a_minute_says_when_the_next_one_fits() -> None:
    async def run() -> None:
        admission = fresh_admission()
        slow = route("slow", Budget(at_once=1, per_minute=4))
        for _ in range(4):
            admission.leave(admission.enter(ONE, slow), slow)
        with pytest.raises(TooManyCalls) as refused:
            admission.enter(ONE, slow)
        assert refused.value.retry_after_s == 15

    asyncio.run(run())


def test_a_caller_s_share_of_the_pool_leaves_the_others_theirs() -> None:
    async def run() -> None:
        admission = fresh_admission()
        some = route("some", Budget(at_once=100))
        one, other = admission.enter(ONE, some), admission.enter(OTHER, some)
        for _ in range(POOL_SHARE):
            await one.pool.acquire()
        async with admission.pool_share(other):
            with pytest.raises(TooManyCalls):
                await admission.pool_share(one).__aenter__()
        one.pool.release()
        async with admission.pool_share(one):
            pass

    asyncio.run(run())


def test_a_caller_s_place_in_the_pool_rests_after_a_call_and_nobody_else_s_does() -> None:
    """So that one who calls without a pause leaves processors to the others. Nobody need wait for long after a call that took long."""

    async def run() -> None:
        admission = fresh_admission()
        some = route("some", Budget(at_once=100))
        one, other = admission.enter(ONE, some), admission.enter(OTHER, some)
        for _ in range(POOL_SHARE):
            async with admission.pool_share(one):
                pass
        assert one.pool.locked(), "both places rest"
        assert not other.pool.locked()
        async with admission.pool_share(one):
            pass

    asyncio.run(run())
    assert pool_rest_s(0.002) == POOL_REST * 0.002
    assert pool_rest_s(1.0) == POOL_REST_MAX_S


def test_who_is_refused_again_and_again_waits_for_it_and_nobody_else_does() -> None:
    async def run() -> None:
        admission = fresh_admission()
        for _ in range(REFUSALS_PER_MINUTE):
            await admission.refuse(ONE, "budget")
        held = asyncio.ensure_future(admission.refuse(ONE, "budget"))
        await admission.refuse(ONE, "database", is_ours=True)
        await admission.refuse(OTHER, "budget")
        await admission.refuse(None, "no_key")
        assert not held.done()
        held.cancel()

    asyncio.run(run())


def test_a_refusal_is_counted_for_whom_and_why(service: Service) -> None:
    limited, plain, suspended = service.messenger(daily_quota=1), service.messenger(), service.messenger()
    service.sql("UPDATE registry.messenger SET state = 'suspended', suspended_at = now() WHERE messenger_id = $1", suspended.messenger_id)
    service.reload()
    [number] = service.contracts()
    before = refusals(service)
    for messenger, path, body in (
        *[(limited, "/v1/presence", {"phoneNumber": f"+{number}"})] * 3,
        (plain, "/v1/presence", {"phoneNumber": "7"}),
        (plain, "/v1/bindings/retrieve", {"identificationCode": "nobody's"}),
        (suspended, "/v1/presence", {"phoneNumber": f"+{number}"}),
    ):
        ask(service.api, "POST", path, body, headers=messenger.headers)
    ask(service.api, "GET", "/v1/account", headers={"Authorization": "Bearer x"})
    assert refusals(service) - before == Counter(
        {(limited.name, "quota"): 2, (plain.name, "invalid"): 1, (suspended.name, "suspended"): 1, (NOBODY, "no_key"): 1}
    )


def refusals(service: Service) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for line in service.daemon.metrics().splitlines():
        if line.startswith("registryd_requests_refused_total{"):
            series, _, value = line.rpartition(" ")
            _, messenger, _, reason, _ = series.split('"')
            found[messenger, reason] = int(float(value))
    return found


def test_calls_that_wait_for_a_lock_keep_nobody_else_from_the_database(service: Service) -> None:
    """Each holds a connection while it waits; a messenger's others wait outside of the pool."""
    waiting, other = service.messenger(), service.messenger()
    numbers = service.contracts(2)
    for messenger, number in zip((waiting, other), numbers, strict=True):
        ask(service.api, "POST", "/v1/bindings", {"phoneNumber": f"+{number}", "identificationCode": "u"}, headers=messenger.headers)
    service.sql("UPDATE registry.contract SET ended_at = now() WHERE msisdn = ANY ($1)", numbers)
    [row] = service.sql("SELECT notification_id FROM registry.notification WHERE messenger_id = $1", waiting.messenger_id)

    async def run() -> None:
        async with service.site.database.connect() as dba, client(service.api, waiting) as session:
            async with dba.transaction():
                await dba.execute("SELECT FROM registry.notification WHERE notification_id = $1 FOR UPDATE", row["notification_id"])
                pending = [asyncio.create_task(acknowledge(session, row["notification_id"])) for _ in range(16)]
                await eventually(lambda: waiters(service))
                await others_are_served(service, other, numbers[1])
                assert not any(task.done() for task in pending)
            assert sum([body.get("acknowledged", 0) for body in await asyncio.gather(*pending)]) == 1

    asyncio.run(run())


async def waiters(service: Service) -> bool:
    async with service.site.database.connect() as dba:
        found = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        return bool(await dba.fetchval(found) == POOL_SHARE)


async def acknowledge(session: aiohttp.ClientSession, notification_id: UUID) -> dict[str, Any]:
    async with session.post("/v1/notifications/acknowledge", json={"notificationIds": [str(notification_id)]}) as response:
        return dict(await response.json(content_type=None))


async def others_are_served(service: Service, messenger: TestMessenger, number: int) -> None:
    async with client(service.api, messenger) as session:
        async with session.get("/v1/notifications") as response:
            assert len((await response.json())["notifications"]) == 1
        async with session.get("/v1/account") as response:
            assert (await response.json())["notifications"]["pending"] == 1
        async with session.post("/v1/presence", json={"phoneNumber": f"+{number}"}) as response:
            assert (await response.json())["present"] is False


def test_a_copy_of_the_keys_that_is_too_old_decides_nothing(service: Service) -> None:
    """Else a revoked key would work for as long as the keys cannot be read."""
    messenger = service.messenger()

    async def run() -> None:
        async with service.site.database.connect() as dba, client(service.api, messenger) as session, dba.transaction():
            await dba.execute("LOCK TABLE registry.messenger_key IN ACCESS EXCLUSIVE MODE")
            await eventually(lambda: account_is_closed(session))

    asyncio.run(run())


async def account_is_closed(session: aiohttp.ClientSession) -> bool:
    async with session.get("/v1/account") as response:
        assert response.status in (200, 503)
        return response.status == 503
