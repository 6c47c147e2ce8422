"""What the pages tell of a registry full of life, and what they never show."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from registryd.console import pages
from registryd.domain.testnumbers import ID_PREFIX
from tests.console import life
from tests.console.conftest import Browser, Desk, Shown
from tests.store.conftest import write_page

LANE = pages.LANE + life.SHUT
PATHS = (*(page.path for page in pages.PAGES), LANE)


async def text_of(browser: Browser, path: str) -> str:
    """What a person reads: without markup, and with single blanks."""
    answer = await browser.get(path)
    assert answer.status == 200, (path, answer.text)
    return plain(answer)


def plain(answer: Shown) -> str:
    main = answer.text.partition("<main")[2]
    return " ".join(re.sub(r"<[^>]*>", " ", main).replace("&#39;", "'").split())


@pytest.mark.parametrize("path", PATHS)
def test_no_page_shows_a_number_a_code_a_key_or_an_endpoints_query(lively: Desk, path: str) -> None:
    async def run() -> None:
        async with lively.logged_in() as browser:
            answer = await browser.get(path)
            assert answer.status == 200, answer.text
            for trace in (str(life.FIRST)[:7], life.CODE, life.TOKEN, "ok_"):
                assert trace not in answer.text

    asyncio.run(run())


def test_the_start_page_says_who_is_late_what_is_shut_held_and_searching(lively: Desk) -> None:
    async def run() -> None:
        async with lively.logged_in() as browser:
            told = await text_of(browser, "/")
            for name in (life.LATE, life.SHUT, life.BY_HAND, life.SEARCHING, life.TOO_MUCH):
                assert name in told
            assert "messenger-050" not in told, "of whom nothing is to be said"

    asyncio.run(run())


def test_a_lane_says_why_it_is_shut_and_what_was_tried(lively: Desk) -> None:
    async def run() -> None:
        async with lively.logged_in() as browser:
            told = await text_of(browser, LANE)
            assert "shut : the connection was refused, 41 times in a row" in told
            assert told.count("the connection was refused") > 15
            assert "The last 20 pushes" in told

    asyncio.run(run())


def test_a_shut_lane_whose_time_has_come_waits_for_a_process_and_for_no_past_time(lively: Desk) -> None:
    async def run() -> None:
        of = "(SELECT messenger_id FROM registry.messenger WHERE name = $2)"
        gate = f"UPDATE registry.lane SET gate_until = now() + $1::interval WHERE messenger_id = {of}"
        async with lively.logged_in() as browser:
            await lively.sql(gate, timedelta(hours=1), life.SHUT)
            assert re.search("It is tried again in (59|60) min", await text_of(browser, LANE))
            await lively.sql(gate, timedelta(seconds=-5), life.SHUT)
            assert "It is tried again as soon as a deliver process works its lane" in await text_of(browser, LANE)
            assert re.search(f"{life.SHUT} ▲? ?shut the connection was refused 41 in a row due", await text_of(browser, "/console/lanes"))

    asyncio.run(run())


def test_what_others_wrote_is_no_markup_on_any_page(lively: Desk) -> None:
    """What a messenger's endpoint failed of, and what persons and messengers are called or said, as the database might hold it."""
    markup = "<script>zebra()</script>"
    shut = f"messenger_id = (SELECT messenger_id FROM registry.messenger WHERE name = '{life.SHUT}')"

    async def run() -> None:
        async with lively.logged_in() as browser:
            await lively.sql(f"UPDATE registry.lane SET last_error = $1 WHERE {shut}", markup)
            await lively.sql("UPDATE registry.hold SET reason = $1", markup)
            await lively.sql("UPDATE registry.process SET version = $1 WHERE host = 'host-b'", markup)
            pages_of_it = [await browser.get(path) for path in PATHS]
        assert [page.status for page in pages_of_it if markup in page.text or page.status != 200] == []
        assert sum("&lt;script&gt;zebra()" in page.text for page in pages_of_it) >= 5

    try:
        asyncio.run(run())
    finally:
        asyncio.run(lively.sql(f"UPDATE registry.lane SET last_error = 'the connection was refused' WHERE {shut}"))


def test_why_a_request_was_refused_is_told_without_a_number(lively: Desk) -> None:
    """A command takes any reason, and the console shows it to whoever may look."""
    made = (
        "INSERT INTO registry.messenger_key (key_id, messenger_id, secret_sha256) "
        f"SELECT 'zzzzzzzz', messenger_id, sha256('') FROM registry.messenger WHERE name = '{life.LATE}'",
        "INSERT INTO registry.change_request (messenger_id, kind, endpoint_url, requested_by, outcome, decided_at, decided_by, reason) "
        "SELECT messenger_id, 'endpoint', 'https://example.net/', key_id, 'refused', now(), 'anna', 'asked +7 916 000-00-01, 79160000001' "
        "FROM registry.messenger_key WHERE key_id = 'zzzzzzzz'",
    )
    gone = (
        "DELETE FROM registry.change_request WHERE requested_by = 'zzzzzzzz'",
        "DELETE FROM registry.messenger_key WHERE key_id = 'zzzzzzzz'",
    )

    async def run() -> None:
        async with lively.logged_in() as browser:
            for statement in made:
                await lively.sql(statement)
            told = await text_of(browser, "/console/changes")
            for statement in gone:
                await lively.sql(statement)
        assert "by anna asked +*, *" in told

    asyncio.run(run())


def test_the_law_in_force_and_the_planned_one_are_told_apart(lively: Desk) -> None:
    async def run() -> None:
        async with lively.logged_in() as browser:
            told = await text_of(browser, "/console/policy")
            planned = "Planned from .* Decree 77 of 2026.* notice_within 24 h 12 h"
            assert re.search(f"{planned} .*In force from 28 Feb 2022, 21:00 UTC", told)

    asyncio.run(run())


def test_the_evidence_says_who_verified_it_and_how_much(lively: Desk) -> None:
    async def run() -> None:
        async with lively.logged_in() as browser:
            told = await text_of(browser, "/console/evidence")
            assert re.search("as it was written .* by auditor: 1,234 pages", told)

    asyncio.run(run())


def test_who_may_only_look_is_offered_no_action(lively: Desk) -> None:
    async def run() -> None:
        async with lively.logged_in("read") as looker, lively.logged_in() as actor:
            for path in PATHS:
                assert "/console/do/" not in (await looker.get(path)).text
            assert "/console/do/" in (await actor.get("/console/backlog")).text

    asyncio.run(run())


def test_an_unknown_messenger_has_no_lane(lively: Desk) -> None:
    async def run() -> None:
        async with lively.logged_in() as browser:
            answer = await browser.get(pages.LANE + "zebra")
            assert (answer.status, "zebra" in answer.text) == (404, False)

    asyncio.run(run())


async def find(browser: Browser, text: str) -> Shown:
    answer = await browser.post("/console/find", {"token": await browser.token(), "text": text})
    assert answer.status == 303, answer.text
    return await browser.get(answer.headers["location"])


def test_a_search_tells_what_happened_to_one_notification(lively: Desk) -> None:
    async def run() -> None:
        owed = "SELECT n.notification_id, m.name FROM registry.notification AS n JOIN registry.messenger AS m USING (messenger_id)"
        [late] = await lively.sql(f"{owed} WHERE m.name = '{life.LATE}' AND n.deadline_at < now() LIMIT 1")
        [delivered] = await lively.sql("SELECT notification_id FROM registry.notification_delivered ORDER BY deadline_at DESC LIMIT 1")
        async with lively.logged_in() as browser:
            told = plain(await find(browser, f" {str(late['notification_id']).upper()} "))
            wanted = ("Notification to north-chat", "overdue", "the contract ended", "the deadline", "the registry wrote the notification")
            assert re.search(" .*".join(wanted), told)
            told = plain(await find(browser, str(delivered["notification_id"])))
            assert re.search("delivered in time .*delivered by push", told)

    asyncio.run(run())


def test_a_search_by_name_tells_all_of_a_messenger(lively: Desk) -> None:
    async def run() -> None:
        async with lively.logged_in() as browser:
            told = plain(await find(browser, life.SEARCHING))
            wanted = (
                "scanner active",
                "slowed down by an alarm",
                "ID-2026/3",
                "77.1 % absent",
                "slowed down by an alarm 388",
                "numbers in a row",
            )
            assert re.search(".*".join(wanted), told)

    asyncio.run(run())


@pytest.mark.parametrize("text", ["79160700009", "+7 916 070-00-09", f"{life.CODE}9", "zebra", "", "00000000-0000-0000-0000-000000000000"])
def test_a_search_for_what_is_not_ours_is_in_no_address_and_on_no_page(lively: Desk, text: str) -> None:
    async def run() -> None:
        async with lively.logged_in() as browser:
            answer = await browser.post("/console/find", {"token": await browser.token(), "text": text})
            page = await browser.get(answer.headers["location"])
            assert "Nothing is known by that id or name" in plain(page)
            assert not text or text.startswith("0") or (text not in answer.headers["location"] and text not in page.text)
            assert not text or text not in lively.daemon.written()

    asyncio.run(run())


def test_a_search_for_a_test_numbers_answer_says_that_it_is_kept_nowhere(lively: Desk) -> None:
    async def run() -> None:
        async with lively.logged_in() as browser:
            assert "an answer about a test number" in plain(await find(browser, f"{ID_PREFIX}00000000000a"))

    asyncio.run(run())


def test_a_search_tells_how_a_query_was_answered_and_with_which_others(lively: Desk) -> None:
    async def run() -> None:
        async with lively.site.database.connect() as dba, lively.logged_in() as browser:
            batch = await write_page(dba, datetime.now(UTC), 9)
            told = plain(await find(browser, str(batch)))
            assert re.search("Query of messenger-009 .*Answered present .*Its batch .*of which this is the first 3", told)
            third = UUID(int=batch.int + 2)
            assert re.search(
                "Query of messenger-009 .*Answered absent .*its minute is not sealed yet", plain(await find(browser, str(third)))
            )

    asyncio.run(run())
