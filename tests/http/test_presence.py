"""Presence queries and batches over HTTP: what is told, what is journaled, what is bound."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from registryd.domain.identifiers import Msisdn, msisdn_digest
from tests.conftest import TestMessenger, client
from tests.http.conftest import OUTSIDE, Answer, Service, ask, new_number

TWENTY_MINUTES = timedelta(minutes=20)


def query(service: Service, messenger: TestMessenger, number: int, code: str | None = None) -> Answer:
    body = {"phoneNumber": f"+{number}"} | ({} if code is None else {"identificationCode": code})
    return ask(service.api, "POST", "/v1/presence", body, headers=messenger.headers)


def batch(service: Service, messenger: TestMessenger, *items: tuple[int, str | None]) -> Any:
    queries = [{"phoneNumber": f"+{number}"} | ({} if code is None else {"identificationCode": code}) for number, code in items]
    answer = ask(service.api, "POST", "/v1/presence/batch", {"queries": queries}, headers=messenger.headers)
    assert answer.status == 200
    return answer.body


def journaled(service: Service, query_id: str) -> Any:
    [row] = service.sql("SELECT * FROM registry.find_query($1)", UUID(query_id))
    return row


def live_bindings(service: Service, messenger: TestMessenger) -> dict[int, str]:
    rows = service.sql(
        "SELECT msisdn, identification_code FROM registry.binding WHERE messenger_id = $1 AND ended_at IS NULL", messenger.messenger_id
    )
    return {row["msisdn"]: row["identification_code"] for row in rows}


DIGEST_KEYS: dict[Path, bytes] = {}


def digest(service: Service, number: int) -> bytes:
    site = service.site
    key = DIGEST_KEYS.get(site.path) or DIGEST_KEYS.setdefault(site.path, asyncio.run(site.digest_key()))
    return msisdn_digest(key, Msisdn(number))


def absent_numbers(service: Service) -> dict[str, int]:
    """A number of each kind of absence."""
    numbers = dict(zip(("ended", "ported_out", "holder_changed", "unregistered", "sole_trader"), service.contracts(5), strict=True))
    for kind in ("ended", "ported_out"):
        reason = "terminated" if kind == "ended" else kind
        service.sql(
            "UPDATE registry.contract SET ended_at = now(), end_reason = $2::text::registry.end_reason WHERE msisdn = $1",
            numbers[kind],
            reason,
        )
    service.sql("UPDATE registry.contract SET ended_at = now(), end_reason = 'holder_changed' WHERE msisdn = $1", numbers["holder_changed"])
    for kind, holder in (("unregistered", "organisation"), ("sole_trader", "sole_trader")):
        service.sql(
            "UPDATE registry.contract SET holder = $2::text::registry.holder, end_user = 'unregistered' WHERE msisdn = $1",
            numbers[kind],
            holder,
        )
    return numbers | {"never_issued": new_number(), "out_of_ranges": OUTSIDE, "too_short": 10_000, "too_long": 999_999_999_999_999}


def test_an_answer_leads_to_its_journal_page(service: Service) -> None:
    messenger = service.messenger()
    [present] = service.contracts()
    for number, expected in ((present, True), (new_number(), False)):
        answer = query(service, messenger, number)
        assert answer.status == 200
        assert list(answer.body) == ["queryId", "present", "binding", "generation", "receivedAt", "answeredAt", "deadlineAt"]
        assert (answer.body["present"], answer.body["binding"]) == (expected, None)
        received, answered, deadline = (datetime.fromisoformat(answer.body[name]) for name in ("receivedAt", "answeredAt", "deadlineAt"))
        assert received <= answered < deadline == received + TWENTY_MINUTES
        row = journaled(service, answer.body["queryId"])
        assert (row["messenger_id"], row["present"]) == (messenger.messenger_id, expected)
        assert row["msisdn_digest"] == digest(service, number)
        assert abs(row["received_at"] - received) <= timedelta(milliseconds=2), "told and journaled in whole milliseconds"
        assert received <= row["answered_at"] <= answered + timedelta(milliseconds=1)


def test_the_journal_holds_no_number(service: Service) -> None:
    messenger = service.messenger()
    [number] = service.contracts()
    answer = query(service, messenger, number)
    [page] = service.sql("SELECT p::text AS text FROM registry.journal_page AS p WHERE $1 = ANY (p.messenger_ids)", messenger.messenger_id)
    row = journaled(service, answer.body["queryId"])
    for trace in (str(number), number.to_bytes(8, "big").hex(), hashlib.blake2b(number.to_bytes(8, "big"), digest_size=16).hexdigest()):
        assert trace not in page["text"]
        assert trace not in str(tuple(row))


def test_all_absences_look_alike(service: Service) -> None:
    messenger = service.messenger()
    [number] = service.contracts()
    present = query(service, messenger, number)
    codes = (f"c{i:03}" for i in itertools.count())
    for kind, absent in absent_numbers(service).items():
        for code in (None, next(codes)):
            answer = query(service, messenger, absent, code)
            assert answer.status == present.status, kind
            assert answer.body["present"] is False, kind
            assert list(answer.body) == list(present.body), kind
            assert list(answer.headers) == list(present.headers), kind
            assert len(answer.raw) == len(present.raw), kind
            assert answer.body["binding"] is None, kind
            row = journaled(service, answer.body["queryId"])
            assert row["present"] is False
            assert row["msisdn_digest"] == digest(service, absent)
    assert live_bindings(service, messenger) == {}


def test_a_subscriber_whose_number_was_ported_in_is_present(service: Service) -> None:
    """The live contract decides; the numbering capacity only advises."""
    messenger = service.messenger()
    ported_in = OUTSIDE + 1
    asyncio.run(service.site.add_contracts(ported_in))
    answer = query(service, messenger, ported_in, "ported-in")
    assert (answer.status, answer.body["present"], answer.body["binding"]) == (200, True, "recorded")


@pytest.mark.parametrize(
    "facts",
    [
        {"status": "suspended"},
        {"holder": "organisation", "end_user": "registered"},
        {"holder": "sole_trader", "end_user": "registered"},
        {"generation": "7"},
    ],
    ids=lambda facts: ",".join(facts.values()),
)
def test_the_policy_says_who_is_present(service: Service, facts: dict[str, str]) -> None:
    messenger = service.messenger()
    [number] = service.contracts(1, **facts)
    assert query(service, messenger, number, "code").body["present"] is True
    assert batch(service, messenger, (number, None))["results"] == [{"present": True, "binding": None, "generation": None}]


def test_a_code_binds_to_a_present_number(service: Service) -> None:
    messenger, other = service.messenger(), service.messenger()
    first, second = service.contracts(2)
    assert query(service, messenger, first, "a").body["binding"] == "recorded"
    assert query(service, messenger, first, "a").body["binding"] == "unchanged"
    assert query(service, messenger, first, "b").body["binding"] == "replaced"
    assert query(service, messenger, second, "a").body["binding"] == "recorded", "a replaced code is free"
    assert query(service, other, first, "b").body["binding"] == "recorded", "codes are each messenger's own"
    assert live_bindings(service, messenger) == {first: "b", second: "a"}
    [row] = service.sql(
        "SELECT ended_at, end_reason::text FROM registry.binding WHERE messenger_id = $1 AND ended_at IS NOT NULL", messenger.messenger_id
    )
    assert row["end_reason"] == "replaced"
    [owed] = service.sql("SELECT count(*) FROM registry.notification WHERE messenger_id = $1", messenger.messenger_id)
    assert owed["count"] == 0, "a replaced binding owes nothing"


def test_a_code_in_use_elsewhere_is_refused_and_journaled(service: Service) -> None:
    messenger = service.messenger()
    first, second = service.contracts(2)
    query(service, messenger, first, "taken")
    answer = query(service, messenger, second, "taken")
    assert (answer.status, answer.body.get("code")) == (409, "CODE_IN_USE")
    assert live_bindings(service, messenger) == {first: "taken"}
    [count] = service.sql("SELECT count(*) FROM registry.presence_query WHERE messenger_id = $1", messenger.messenger_id)
    assert count["count"] == 2
    usage = ask(service.api, "GET", "/v1/account", headers=messenger.headers).body["quota"]
    assert usage["used"] == 2, "a refusal that tells presence is paid for"


def test_a_batch_answers_in_its_order(service: Service) -> None:
    messenger = service.messenger()
    present = service.contracts(3)
    absent = [new_number() for _ in range(3)]
    order = [present[2], absent[0], present[0], absent[2], absent[1], present[1]]
    answer = batch(service, messenger, *((number, None) for number in order))
    assert list(answer) == ["batchId", "receivedAt", "answeredAt", "deadlineAt", "results"]
    assert [result["present"] for result in answer["results"]] == [number in present for number in order]
    received, deadline = datetime.fromisoformat(answer["receivedAt"]), datetime.fromisoformat(answer["deadlineAt"])
    assert deadline == received + TWENTY_MINUTES
    [page] = service.sql("SELECT * FROM registry.journal_page WHERE $1 = ANY (messenger_ids)", messenger.messenger_id)
    assert page["page_id"] == UUID(answer["batchId"])
    assert page["queries"] == len(order)
    assert page["digests"] == b"".join(digest(service, number) for number in order)
    assert journaled(service, answer["batchId"])["present"] is True


def test_a_batch_is_as_its_queries_one_after_another(service: Service) -> None:
    messenger = service.messenger()
    one, two, three = service.contracts(3)
    absent = new_number()
    query(service, messenger, three, "elsewhere")
    items = [
        (one, "a", "recorded"),
        (one, "a", "unchanged"),
        (one, "b", "replaced"),
        (two, "b", "code_in_use"),
        (two, "a", "recorded"),
        (absent, "x", None),
        (absent, "x", None),
        (two, None, None),
        (two, "elsewhere", "code_in_use"),
        (one, "b", "unchanged"),
    ]
    results = batch(service, messenger, *((number, code) for number, code, _ in items))["results"]
    assert [(result["present"], result["binding"]) for result in results] == [(number != absent, outcome) for number, _, outcome in items]
    assert [result["generation"] for result in results] == [1 if outcome not in (None, "code_in_use") else None for _, _, outcome in items]
    assert live_bindings(service, messenger) == {one: "b", two: "a", three: "elsewhere"}
    [count] = service.sql("SELECT count(*) FROM registry.presence_query WHERE messenger_id = $1", messenger.messenger_id)
    assert count["count"] == 1 + len(items)


def test_ten_thousand_queries_are_answered_in_parts_and_in_their_order(service: Service) -> None:
    messenger = service.messenger()
    numbers = service.contracts(5_000)
    items = [(number, f"u-{number}") for number in numbers] + [(new_number(), None) for _ in numbers]
    results = batch(service, messenger, *items)["results"]
    recorded = {"present": True, "binding": "recorded", "generation": 1}
    absent = {"present": False, "binding": None, "generation": None}
    assert results == [recorded] * 5_000 + [absent] * 5_000
    pages = service.sql(
        "SELECT queries, bit_count(present) FROM registry.journal_page WHERE $1 = ANY (messenger_ids)", messenger.messenger_id
    )
    assert sorted(tuple(page) for page in pages) == [(1_000, 0)] * 5 + [(1_000, 1_000)] * 5
    assert live_bindings(service, messenger) == dict(items[:5_000])


def test_concurrent_queries_ride_together(service: Service) -> None:
    messengers = [service.messenger() for _ in range(2)]
    present = service.contracts(100)
    absent = [new_number() for _ in range(100)]
    groups = service.metric("registryd_query_group_size_count")
    grouped = service.metric("registryd_query_group_size_sum")

    async def run() -> list[tuple[TestMessenger, int, Any]]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(service.api, connector=connector) as session:

            async def one(messenger: TestMessenger, number: int, warm: bool) -> tuple[TestMessenger, int, Any]:
                if warm:  # opens a connection
                    async with session.get("/v1/nowhere") as response:
                        assert response.status == 404
                        return messenger, number, None
                async with session.post("/v1/presence", json={"phoneNumber": f"+{number}"}, headers=messenger.headers) as response:
                    assert response.status == 200
                    return messenger, number, await response.json()

            pairs = list(zip(itertools.cycle(messengers), present + absent, strict=False))
            await asyncio.gather(*(one(messenger, number, True) for messenger, number in pairs))
            return await asyncio.gather(*(one(messenger, number, False) for messenger, number in pairs))

    answers = asyncio.run(run())
    ids = {body["queryId"] for _, _, body in answers}
    assert len(ids) == 200
    rows = service.sql("SELECT q.* FROM unnest($1::uuid[]) AS id, registry.find_query(id) AS q", sorted(ids))
    found = {str(row["query_id"]): (row["messenger_id"], row["msisdn_digest"], row["present"]) for row in rows}
    for messenger, number, body in answers:
        assert body["present"] is (number in present)
        assert found[body["queryId"]] == (messenger.messenger_id, digest(service, number), body["present"])
    pages = service.sql(
        "SELECT queries FROM registry.journal_page WHERE messenger_ids && $1", [messenger.messenger_id for messenger in messengers]
    )
    assert sum(page["queries"] for page in pages) == 200
    assert len(pages) < 60, "one page for each group"
    assert service.metric("registryd_query_group_size_sum") - grouped == 200
    assert service.metric("registryd_query_group_size_count") - groups < 60


def test_a_day_s_budget_is_kept_by_concurrent_queries_too(service: Service) -> None:
    messenger = service.messenger(daily_quota=10)

    async def run() -> list[int]:
        async with client(service.api, messenger) as session:

            async def one() -> int:
                async with session.post("/v1/presence", json={"phoneNumber": f"+{new_number()}"}) as response:
                    assert response.status == 200 or 1 <= int(response.headers["Retry-After"]) <= 86_400
                    return response.status

            return await asyncio.gather(*(one() for _ in range(40)))

    statuses = asyncio.run(run())
    assert sorted(statuses) == [200] * 10 + [429] * 30
    for path, body in (
        ("/v1/presence", {"phoneNumber": "+79160000000"}),
        ("/v1/presence/batch", {"queries": [{"phoneNumber": "+79160000000"}]}),
        ("/v1/bindings", {"phoneNumber": "+79160000000", "identificationCode": "x"}),
    ):
        answer = ask(service.api, "POST", path, body, headers=messenger.headers)
        assert (answer.status, answer.body["code"]) == (429, "QUOTA_EXCEEDED")
        assert 1 <= int(answer.headers["retry-after"]) <= 86_400
    [count] = service.sql("SELECT count(*) FROM registry.presence_query WHERE messenger_id = $1", messenger.messenger_id)
    assert count["count"] == 10, "what is refused is not journaled"


def test_a_batch_over_the_budget_is_refused_whole(service: Service) -> None:
    messenger = service.messenger(daily_quota=5)
    numbers = service.contracts(6)
    body = {"queries": [{"phoneNumber": f"+{number}"} for number in numbers]}
    assert ask(service.api, "POST", "/v1/presence/batch", body, headers=messenger.headers).status == 429
    assert len(batch(service, messenger, *((number, None) for number in numbers[:5]))["results"]) == 5
    assert query(service, messenger, numbers[5]).status == 429
