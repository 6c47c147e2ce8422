"""Actions: a form, a page that shows the count, and then the deed with one line in the log."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from registryd.console.deeds import DEEDS
from registryd.store import changes
from tests.conftest import Daemon, daemon, receiving
from tests.console import life
from tests.console.conftest import Browser, Desk, Shown

WHY = "a person has asked for it"


async def look(browser: Browser, kind: str, fields: dict[str, str]) -> Shown:
    """Sends the form; nothing is done yet."""
    form = await browser.get(f"/console/do/{kind}")
    assert form.status == 200, form.text
    return await browser.post(f"/console/do/{kind}", {"token": form.field("token"), **fields})


def confirmed(page: Shown, fields: dict[str, str]) -> dict[str, str]:
    """What the confirmation page sends."""
    assert page.status == 200, page.text
    names = ("token", "confirmation", "counted", *fields, *(("until",) if 'name="until"' in page.text else ()))
    return {name: page.field(name) for name in names}


async def act(browser: Browser, kind: str, fields: dict[str, str]) -> Shown:
    """Form, confirmation, deed; returns the page of the result."""
    sent = confirmed(await look(browser, kind, fields), fields)
    answer = await browser.post(f"/console/do/{kind}", sent)
    assert answer.status == 303, answer.text
    return await browser.get(answer.headers["location"])


async def lines(desk: Desk) -> list[Any]:
    return await desk.sql("SELECT kind, person, counted, reason, outcome, what FROM registry.action ORDER BY action_id")


def id_of(name: str) -> str:
    return f"(SELECT messenger_id FROM registry.messenger WHERE name = '{name}')"


async def value(desk: Desk, statement: str) -> Any:
    [row] = await desk.sql(statement)
    return row[0]


def test_a_hold_and_its_release_are_confirmed_done_and_told_once_each(lively: Desk) -> None:
    async def run() -> None:
        async with lively.logged_in() as browser:
            fields = {"messenger": life.LATE, "reason": WHY}
            before = len(await lines(lively))
            page = await look(browser, "hold", fields)
            assert "<b>41</b> notifications are owed now" in page.text
            held = f"SELECT count(*) FROM registry.hold WHERE released_at IS NULL AND messenger_id = {id_of(life.LATE)}"
            assert (await value(lively, held), len(await lines(lively))) == (0, before), "a look does nothing"
            sent = confirmed(page, fields)
            answers = [await browser.post("/console/do/hold", sent) for _ in range(2)]
            assert {(answer.status, answer.headers["location"]) for answer in answers} == {(303, answers[0].headers["location"])}
            assert await value(lively, held) == 1
            [line] = (await lines(lively))[before:]
            assert (line["kind"], line["counted"], line["reason"], line["person"][:7]) == ("hold", 41, WHY, "person.")
            result = await browser.get(answers[0].headers["location"])
            assert "Hold the notifications of north-chat. Held: no new push begins" in result.text
            again = await look(browser, "hold", fields)
            done = await browser.post("/console/do/hold", confirmed(again, fields))
            assert (done.status, "held already" in done.text, len(await lines(lively))) == (409, True, before + 1)
            await act(browser, "release", fields)
            assert await value(lively, held) == 0
            by = await lively.sql("SELECT held_by, released_by FROM registry.hold ORDER BY hold_id DESC LIMIT 1")
            assert [tuple(row) for row in by] == [(line["person"], line["person"])], "whoever looks at a hold sees whom to ask"

    asyncio.run(run())


def test_a_wave_is_released_after_its_count_was_shown(desk_of_its_own: Desk) -> None:
    async def run() -> None:
        async with desk_of_its_own.logged_in() as browser:
            fields = {"wave": "1", "reason": WHY}
            assert "<b>1,000</b> notifications are held in it" in (await look(browser, "release_wave", fields)).text
            result = await act(browser, "release_wave", fields)
            assert "Released 1,000 notifications." in result.text
            assert await value(desk_of_its_own, "SELECT count(*) FROM registry.notification_held") == 0
            person = (await lines(desk_of_its_own))[-1]["person"]
            assert await value(desk_of_its_own, "SELECT released_by FROM report.wave WHERE wave_id = 1") == person
            gone = await look(browser, "release_wave", fields)
            assert (gone.status, "no wave of that number" in gone.text) == (409, True)

    asyncio.run(run())


def test_a_count_that_has_changed_is_shown_again_and_nothing_is_done(lively: Desk) -> None:
    async def run() -> None:
        async with lively.logged_in() as browser:
            fields = {"messenger": life.SEARCHING, "reason": WHY}
            sent = confirmed(await look(browser, "clear_alarm", fields), fields)
            before = len(await lines(lively))
            page = await browser.post("/console/do/clear_alarm", {**sent, "counted": "2"})
            assert (page.status, "changed since you looked" in page.text, len(await lines(lively))) == (200, True, before)
            fresh = confirmed(page, fields)
            assert fresh["counted"] == "1"
            assert fresh["confirmation"] != sent["confirmation"]

    asyncio.run(run())


def test_an_alarm_is_cleared(desk_of_its_own: Desk) -> None:
    async def run() -> None:
        async with desk_of_its_own.logged_in() as browser:
            result = await act(browser, "clear_alarm", {"messenger": life.SEARCHING, "reason": WHY})
            assert "Clear the alarms of scanner: consecutive. Cleared 1" in result.text
            in_force = "SELECT count(*) FROM registry.enumeration_alarm WHERE cleared_at IS NULL AND ends_at > now()"
            assert await value(desk_of_its_own, in_force) == 0

    asyncio.run(run())


def test_a_quota_is_changed_from_what_was_seen(lively: Desk) -> None:
    async def run() -> None:
        async with lively.logged_in() as browser:
            fields = {"messenger": life.USED_UP, "quota": "9,000", "reason": WHY}
            page = await look(browser, "set_quota", fields)
            assert "from 5,000 numbers to 9,000 numbers" in page.text
            result = await act(browser, "set_quota", fields)
            assert "from 5,000 numbers to 9,000 numbers. Changed" in result.text
            quota = f"SELECT daily_quota FROM registry.messenger WHERE name = '{life.USED_UP}'"
            assert await value(lively, quota) == 9000
            result = await act(browser, "set_quota", fields | {"quota": "5000"})
            assert await value(lively, quota) == 5000

    asyncio.run(run())


def test_delivered_notifications_are_delivered_again_by_period_and_by_id(desk_of_its_own: Desk) -> None:
    async def run() -> None:
        desk = desk_of_its_own
        async with desk.logged_in() as browser:
            fields = {"messenger": life.BUSY, "since": "2026-01-01T00:00", "until": "", "id": "", "per_second": "20", "reason": WHY}
            result = await act(browser, "replay", fields)
            assert "41 will be delivered again, 20 a second at most" in result.text
            delivered = f"SELECT notification_id FROM registry.notification_delivered WHERE messenger_id = {id_of(life.BUSY)} LIMIT 1"
            one = str(await value(desk, delivered))
            result = await act(browser, "replay", fields | {"since": "", "id": one})
            assert "1 will be delivered again" in result.text
            assert [line["counted"] for line in await lines(desk) if line["kind"] == "replay"] == [41, 1]
            nothing = await look(browser, "replay", fields | {"messenger": life.PULLS})
            assert (nothing.status, "Nothing was delivered" in nothing.text) == (409, True)

    asyncio.run(run())


def test_a_confirmation_that_is_sent_twice_is_carried_out_once(desk_of_its_own: Desk) -> None:
    async def run() -> None:
        desk = desk_of_its_own
        async with desk.logged_in() as browser:
            until = await value(desk, "SELECT to_char(now() + interval '2 days', 'YYYY-MM-DD\"T\"HH24:MI')")
            fields = {"ends": "70", "until": until, "reason": WHY}
            sent = confirmed(await look(browser, "allow_ends", fields), fields)
            answers = await asyncio.gather(*(browser.post("/console/do/allow_ends", sent) for _ in range(4)))
            answers.append(await browser.post("/console/do/allow_ends", sent))
            assert len({(answer.status, answer.headers["location"]) for answer in answers}) == 1
            assert await value(desk, "SELECT count(*) FROM registry.wave_allowance WHERE ends = 70") == 1
            assert [line["counted"] for line in await lines(desk) if line["kind"] == "allow_ends"] == [70]

    asyncio.run(run())


def test_a_known_wave_is_let_through(lively: Desk) -> None:
    async def run() -> None:
        async with lively.logged_in() as browser:
            until = await value(lively, "SELECT to_char(now() + interval '2 days', 'YYYY-MM-DD\"T\"HH24:MI')")
            result = await act(browser, "allow_ends", {"ends": "1500", "until": until, "reason": WHY})
            assert "Let 1,500 ends through beyond the bound" in result.text
            assert await value(lively, "SELECT sum(ends - used) FROM registry.wave_allowance") == 1500
            made_by = await value(lively, "SELECT made_by FROM registry.wave_allowance ORDER BY allowance_id DESC LIMIT 1")
            assert made_by == (await lines(lively))[-1]["person"]
            late = await look(browser, "allow_ends", {"ends": "1", "until": "2020-01-01T00:00", "reason": WHY})
            assert (late.status, "within a week" in late.text) == (409, True)
        await lively.sql("UPDATE registry.wave_allowance SET until_at = now()")

    asyncio.run(run())


def test_a_test_push_tells_what_the_endpoint_answered(desk: Desk) -> None:
    async def run(running: Daemon) -> None:
        made = await desk.site.add_messenger("receiver")
        async with receiving(made.secret) as (receiver, inbox), desk.logged_in() as browser:
            await desk.sql("UPDATE registry.messenger SET endpoint_url = $1 WHERE name = 'receiver'", receiver.url)
            result = await act(browser, "test_push", {"messenger": "receiver"})
            assert "Push a test event to receiver. Delivered in" in result.text
            assert len(inbox.receipts) == 1
            [line] = [line for line in await lines(desk) if line["kind"] == "test_push"]
            assert line["outcome"].endswith("ms: status 204.")

    with daemon(desk.site, "deliver") as running:
        asyncio.run(run(running))


def test_a_request_of_a_messenger_is_confirmed_or_refused_by_a_person(desk_of_its_own: Desk) -> None:
    async def run() -> None:
        desk = desk_of_its_own
        async with desk.logged_in() as browser, desk.site.database.pool(1) as db:
            url = f"SELECT endpoint_url FROM registry.messenger WHERE messenger_id = {id_of(life.BUSY)}"
            [waiting] = await changes.read_all(db)
            listed = await browser.get("/console/changes")
            assert "https://new.example.net/hooks?…" in listed.text
            assert life.TOKEN not in listed.text
            fields = {"change": str(waiting.change_id), "reason": WHY}
            page = await look(browser, "confirm_change", fields)
            assert ("may be a thief" in page.text, life.TOKEN in page.text) == (True, False)
            assert await value(desk, url) != life.WANTED
            assert "Confirmed, in force within seconds." in (await act(browser, "confirm_change", fields)).text
            assert await value(desk, url) == life.WANTED
            [decided] = await changes.read_all(db)
            assert (decided.state, (decided.decided_by or "")[:7]) == ("confirmed", "person.")
            again = await look(browser, "refuse_change", fields)
            assert (again.status, "It waits no more: it is confirmed already." in again.text) == (409, True)
            asked = await changes.request_endpoint(db, waiting.messenger_id, waiting.requested_by, f"{life.WANTED}2")
            page = await look(browser, "refuse_change", {"change": str(asked.change_id), "reason": WHY})
            assert "with another query" in page.text, "what is shown of both is the same"
            asked = await changes.request_endpoint(db, waiting.messenger_id, waiting.requested_by, "https://other.example.net/")
            await act(browser, "refuse_change", {"change": str(asked.change_id), "reason": WHY})
            assert (await changes.find(db, asked.change_id)).reason == WHY
            assert await value(desk, url) == life.WANTED
            other = await changes.request_endpoint(db, waiting.messenger_id, waiting.requested_by, f"{life.WANTED}-of-a-thief")
            page = await look(browser, "confirm_change", {"change": str(other.change_id), "reason": WHY})
            assert ("with another query" in page.text, life.TOKEN in page.text) == (True, False)

    asyncio.run(run())


@pytest.mark.parametrize("kind", DEEDS)
def test_who_may_only_look_does_nothing(lively: Desk, kind: str) -> None:
    async def run() -> None:
        async with lively.logged_in("read") as browser:
            before = len(await lines(lively))
            assert (await browser.get(f"/console/do/{kind}")).status == 403
            fields = {"messenger": life.LATE, "wave": "1", "quota": "1", "ends": "1", "reason": WHY, "token": await browser.token()}
            confirmation = {"confirmation": "0b6ae4f6-3a1f-4a53-9d3a-0d4a0d0f8a52", "counted": "1"}
            for form in (fields, fields | confirmation):
                assert (await browser.post(f"/console/do/{kind}", form)).status == 403
            assert len(await lines(lively)) == before

    asyncio.run(run())


def test_an_action_from_elsewhere_does_nothing(lively: Desk) -> None:
    async def run() -> None:
        async with lively.logged_in() as browser:
            fields = {"messenger": life.LATE, "reason": WHY}
            sent = confirmed(await look(browser, "hold", fields), fields)
            before = len(await lines(lively))
            assert (await browser.post("/console/do/hold", sent | {"token": "zebra"})).status == 403
            assert (await browser.post("/console/do/hold", sent, Origin="https://elsewhere.example")).status == 403
            assert len(await lines(lively)) == before

    asyncio.run(run())


@pytest.mark.parametrize("reason", ["", "  ", "no", "x" * 501, "asked by +7 916 070-00-09", "by (8) (916) (070) 0", "by 79160700009"])
def test_a_reason_is_wanted_and_holds_no_number(lively: Desk, reason: str) -> None:
    async def run() -> None:
        async with lively.logged_in() as browser:
            answer = await look(browser, "hold", {"messenger": life.LATE, "reason": reason})
            assert (answer.status, "070-00" in answer.text, "79160700" in answer.text) == (409, False, False)

    asyncio.run(run())


def test_a_reason_may_hold_a_date(lively: Desk) -> None:
    async def run() -> None:
        async with lively.logged_in() as browser:
            answer = await look(browser, "hold", {"messenger": life.LATE, "reason": "moves its data centre until 2026-12-01 06:00"})
            assert answer.status == 200, answer.text

    asyncio.run(run())


def test_what_is_written_of_an_action_stays(lively: Desk) -> None:
    async def run() -> None:
        async with lively.logged_in() as browser:
            await act(browser, "hold", {"messenger": "messenger-050", "reason": WHY})
            await act(browser, "release", {"messenger": "messenger-050", "reason": WHY})
        async with lively.site.database.connect("registryd_app") as app:
            for statement in (
                "UPDATE registry.action SET outcome = 'zebra'",
                "DELETE FROM registry.action",
                "UPDATE registry.action SET person = 'zebra'",
                "TRUNCATE registry.action",
            ):
                with pytest.raises(Exception, match=r"stays|permission denied"):
                    await app.execute(statement)

    asyncio.run(run())
