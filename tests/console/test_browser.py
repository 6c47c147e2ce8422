"""The console in a real browser: what a person sees, reaches by the keyboard and does; and what no page may do.

Screenshots of each page stay in the directory that $REGISTRYD_SCREENSHOTS names, else in a temporary one beside those of other tests.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Route, expect

from registryd.console import pages
from tests.console import life
from tests.console.chromium import EXECUTABLE, MISSING, NARROW, WIDE, apart, chromium, overflow, window
from tests.console.conftest import Desk

pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason=MISSING)

SHOWN = {page.name: page.path for page in pages.PAGES} | {
    "Found": f"/console/find?messenger={life.SEARCHING}",
    "One lane": pages.LANE + life.SHUT,
    "Form": "/console/do/replay",
    "Nowhere": "/console/nowhere",
}
AXE = importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def browser(lively: Desk) -> Iterator[Browser]:
    """After the registry, because what sets that up runs loops of its own."""
    with chromium() as running:
        yield running


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_its_window_and_axe_finds_no_serious_fault(browser: Browser, lively: Desk, screenshots: Path, scheme: str) -> None:
    with window(browser, lively, color_scheme=scheme) as person:
        for name, path in SHOWN.items():
            person.page.set_viewport_size(WIDE)
            person.open(path)
            assert overflow(person.page) <= 0, f"{name} is wider than {WIDE['width']} pixels"
            person.page.screenshot(path=screenshots / f"{name.lower().replace(' ', '-')}-{scheme}.png", full_page=True)
            person.page.evaluate(AXE)
            found = person.page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
            serious = [(fault["id"], fault["nodes"][0]["html"]) for fault in found if fault["impact"] in SERIOUS]
            assert serious == [], name
            person.page.set_viewport_size(NARROW)
            assert overflow(person.page) <= 0, f"{name} is wider than {NARROW['width']} pixels"


def test_a_hundred_messengers_stand_on_one_page(browser: Browser, lively: Desk) -> None:
    with window(browser, lively) as person:
        for path in ("/console/backlog", "/console/lanes", "/console/presence"):
            person.open(path)
            assert person.page.locator("tbody tr", has=person.page.locator("a[href='/console/lanes/messenger-100']")).count() == 1
            box = person.page.locator(".box").last
            assert box.evaluate("each => each.scrollWidth - each.clientWidth") <= 0, f"{path} scrolls sideways in its box"


def test_the_start_page_leads_to_why_a_lane_is_shut(browser: Browser, lively: Desk) -> None:
    with window(browser, lively) as person:
        person.page.locator(".problems li", has_text=f"The endpoint of {life.SHUT} fails").get_by_role("link").click()
        expect(person.page.get_by_role("heading", level=1)).to_have_text(life.SHUT)
        expect(person.page.locator("main")).to_contain_text("the connection was refused, 41 times in a row")
        expect(person.page.get_by_role("region", name="Attempts").locator("tbody tr")).to_have_count(20)


def test_everything_is_reached_by_the_keyboard(browser: Browser, lively: Desk) -> None:
    """Tab comes to each control in turn, the first of which leads past the menu; what has the focus is seen to have it."""
    with window(browser, lively) as person:
        person.open("/console/alarms")
        wanted = person.page.evaluate("document.querySelectorAll('a[href], button, input:not([type=hidden]), [tabindex=\"0\"]').length")
        reached: set[str] = set()
        person.page.keyboard.press("Tab")
        assert person.page.evaluate("document.activeElement.textContent") == "Skip to the page"
        for _ in range(wanted + 5):
            number, outline = person.page.evaluate(
                "(() => { const at = document.activeElement; const all = [...document.querySelectorAll('*')];"
                " return [String(all.indexOf(at)), getComputedStyle(at).outlineStyle]; })()"
            )
            reached.add(number)
            assert outline != "none" or person.page.evaluate("document.activeElement === document.body")
            person.page.keyboard.press("Tab")
        assert len(reached) >= wanted
        person.page.get_by_role("link", name="Clear…").focus()
        person.page.keyboard.press("Enter")
        expect(person.page.get_by_role("heading", level=1)).to_have_text("Clear alarms")


def test_an_action_from_its_form_to_the_log(browser: Browser, lively: Desk, screenshots: Path) -> None:
    with window(browser, lively) as person:
        person.open(pages.LANE + life.LATE)
        person.page.get_by_role("link", name="Hold its notifications…").click()
        person.page.get_by_label("Why").fill("its data centre burns")
        person.page.get_by_role("button", name="Show what it would do").click()
        expect(person.page.locator(".count")).to_have_text("41 notifications are owed now")
        person.page.screenshot(path=screenshots / "confirm-light.png", full_page=True)
        person.page.get_by_role("button", name="Do it").click()
        expect(person.page.locator(".done")).to_contain_text("Held: no new push begins")
        person.page.screenshot(path=screenshots / "done-light.png", full_page=True)
        person.open(pages.LANE + life.LATE)
        person.page.get_by_role("link", name="Release…").click()
        person.page.get_by_label("Why").fill("it is over")
        person.page.get_by_role("button", name="Show what it would do").click()
        person.page.get_by_role("button", name="Do it").click()
        expect(person.page.locator(".done")).to_contain_text("Released: pushes begin at once.")


def test_a_page_refreshes_itself_and_disturbs_nobody_who_selects(browser: Browser, lively: Desk) -> None:
    with window(browser, lively) as person:
        person.open("/console/alarms")
        person.page.clock.install()
        person.open("/console/alarms")
        name = "document.querySelector('tbody th').textContent = 'zebra'"
        person.page.evaluate(name)
        person.page.evaluate("getSelection().selectAllChildren(document.querySelector('tbody th'))")
        person.page.clock.run_for(30_000)
        assert person.page.evaluate("document.querySelector('tbody th').textContent") == "zebra", "a selection stays"
        person.page.evaluate("getSelection().removeAllRanges()")
        person.page.get_by_role("button", name="Pause refreshing").click()
        person.page.clock.run_for(30_000)
        assert person.page.evaluate("document.querySelector('tbody th').textContent") == "zebra", "a pause holds"
        person.page.get_by_role("button", name="Go on refreshing").click()
        person.page.clock.run_for(6_000)
        expect(person.page.locator("tbody th").first).to_have_text(life.SEARCHING)


def test_a_page_that_got_no_answer_yet_does_not_ask_again(browser: Browser, lively: Desk) -> None:
    with window(browser, lively) as person:
        person.page.clock.install()
        person.open("/console/alarms")
        asked: list[Route] = []
        person.page.route("**/console/alarms", lambda route: asked.append(route))  # Playwright sets an attribute of it
        with person.page.expect_request("**/console/alarms"):
            person.page.clock.run_for(6_000)
        person.page.clock.run_for(60_000)
        assert len(asked) == 1, "a database that is slow would be asked more and more"
        person.page.evaluate("document.querySelector('tbody th').textContent = 'zebra'")
        asked[0].continue_()
        expect(person.page.locator("tbody th").first).to_have_text(life.SEARCHING)


def test_who_was_logged_out_meanwhile_comes_to_the_login_and_back(browser: Browser, lively: Desk) -> None:
    with window(browser, lively) as person:
        person.open("/console/feed")
        apart(lively.sql("DELETE FROM registry.console_session"))
        person.page.get_by_role("link", name="Policy").click()
        expect(person.page.get_by_role("heading", level=1)).to_have_text("registryd console")
        key = apart(lively.key())
        person.page.get_by_label("Your operator key").fill(key.shown)
        person.page.get_by_role("button", name="Log in").click()
        expect(person.page.get_by_role("heading", level=1)).to_have_text("Policy")


def test_pages_work_without_javascript(browser: Browser, lively: Desk) -> None:
    with window(browser, lively, java_script_enabled=False) as person:
        person.page.get_by_role("link", name="Presence", exact=True).click()
        expect(person.page.locator("main")).to_contain_text("Who was refused today")
        assert person.page.locator("svg.spark").count() == 4
        person.page.get_by_role("button", name="Log out").click()
        expect(person.page.get_by_role("heading", level=1)).to_have_text("registryd console")
