"""What the pages tell of a registry full of life, and what they never show."""

from __future__ import annotations

import asyncio
import re

import pytest

from registryd.console import pages
from tests.console import life
from tests.console.conftest import Browser, Desk, Shown

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


def test_the_law_in_force_and_the_planned_one_are_told_apart(lively: Desk) -> None:
    async def run() -> None:
        async with lively.logged_in() as browser:
            told = await text_of(browser, "/console/policy")
            planned = "Planned from .* Decree 77 of 2026.* notice_within 24:00:00 12:00:00"
            assert re.search(f"{planned} .*In force from 28 Feb 2022, 21:00 UTC", told)

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
