"""Who may look: login, the session's cookie and its ends, forms from elsewhere, and what stands on every answer."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta

import pytest

from registryd.console import replies
from registryd.console.pages import PAGES
from registryd.console.sessions import FAILURES_PER_MINUTE
from registryd.store import sessions
from tests.conftest import daemon
from tests.console.conftest import Browser, Desk, Shown
from tests.http.conftest import exchange

ELSEWHERE = {
    "another site": {"Sec-Fetch-Site": "cross-site", "Origin": "https://elsewhere.example"},
    "a sibling of ours": {"Sec-Fetch-Site": "same-site", "Origin": "https://sibling.example"},
    "an older browser elsewhere": {"Origin": "https://elsewhere.example"},
    "a sandbox": {"Origin": "null"},
}


async def is_in(browser: Browser) -> bool:
    answer = await browser.get("/")
    assert answer.status in (200, 303)
    return answer.status == 200


def test_who_has_not_logged_in_is_led_to_the_login_and_back(desk: Desk) -> None:
    async def run() -> None:
        key = await desk.key()
        async with desk.browser() as browser:
            for page in PAGES:
                answer = await browser.get(page.path)
                assert (answer.status, answer.headers["location"].partition("?")[0], answer.text) == (303, "/console/login", "")
            login = await browser.get("/console/login?next=/console/actions")
            assert login.field("next") == "/console/actions"
            answer = await browser.log_in(key.shown, next="/console/actions")
            assert (answer.status, answer.headers["location"]) == (303, "/console/actions")
            assert await is_in(browser)

    asyncio.run(run())


def test_the_login_leads_nowhere_else(desk: Desk) -> None:
    async def run() -> None:
        key = await desk.key()
        async with desk.browser() as browser:
            for target in ("https://elsewhere.example/", "//elsewhere.example", "/operator/v1/contract-events", "/console/\r\nX: y"):
                assert (await browser.log_in(key.shown, next=target)).headers["location"] == "/"

    asyncio.run(run())


def test_the_cookie_is_for_this_host_alone_and_no_script_reads_it(desk: Desk) -> None:
    async def run() -> None:
        key = await desk.key()
        async with desk.browser() as browser:
            cookie = (await browser.log_in(key.shown)).headers["set-cookie"]
            name_and_token, *flags = cookie.split("; ")
            assert name_and_token.startswith("registryd-console=")
            assert sorted(flags) == ["HttpOnly", "Path=/", "SameSite=Strict"]
            token = name_and_token.partition("=")[2]
            assert len(token) >= 43, "256 bits"
            [row] = await desk.sql("SELECT count(*) AS n FROM registry.console_session AS s WHERE s::text LIKE '%' || $1 || '%'", token)
            assert row["n"] == 0, "the database holds no token"

    asyncio.run(run())


@pytest.mark.parametrize("key", ["", "zebra", "rk_aaaaaaaaaaaaaaaa_bbbbbbbbbbbbbbbbbbbbbbbb", f"ok_aaaaaaaa_{'b' * 30}"])
def test_a_wrong_key_logs_nobody_in_and_is_counted_and_not_repeated(desk: Desk, key: str) -> None:
    def refused() -> float:
        found = re.findall(
            r'registryd_requests_refused_total\{messenger="-",reason="(?:no_key|unknown_key)"\} (\S+)', desk.daemon.metrics()
        )
        return sum(map(float, found))

    async def run() -> None:
        async with desk.browser() as browser:
            before = refused()
            answer = await browser.log_in(key)
            assert answer.status == 401
            assert "set-cookie" not in answer.headers
            assert not key or key not in answer.text
            assert not await is_in(browser)
            assert refused() == before + 1
            assert not key or key not in desk.daemon.written()

    asyncio.run(run())


def test_a_revoked_key_ends_its_sessions_at_once(desk: Desk) -> None:
    async def run() -> None:
        async with desk.logged_in() as browser, desk.logged_in() as other:
            [row] = await desk.sql("SELECT key_id FROM registry.console_session ORDER BY began_at DESC OFFSET 1 LIMIT 1")
            assert await is_in(browser)
            await desk.sql("UPDATE registry.operator_key SET revoked_at = now() WHERE key_id = $1", row["key_id"])
            assert not await is_in(browser)
            assert await is_in(other)

    asyncio.run(run())


def test_an_expired_key_ends_its_sessions(desk: Desk) -> None:
    async def run() -> None:
        async with desk.logged_in() as browser:
            await desk.sql("UPDATE registry.operator_key SET expires_at = now() WHERE name LIKE 'person.%' AND revoked_at IS NULL")
            assert not await is_in(browser)

    asyncio.run(run())


@pytest.mark.parametrize(("column", "after"), [("used_at", sessions.IDLE), ("began_at", sessions.LONGEST)])
def test_a_session_ends_when_it_is_idle_and_when_it_is_old(desk: Desk, column: str, after: timedelta) -> None:
    async def age(by: timedelta) -> None:
        await desk.sql(f"UPDATE registry.console_session SET {column} = now() - $1::interval", by)

    async def run() -> None:
        async with desk.logged_in() as browser:
            await age(after - timedelta(seconds=30))
            assert await is_in(browser)
            await age(after)
            assert not await is_in(browser)

    asyncio.run(run())


def test_what_a_page_asks_for_by_itself_does_not_keep_a_session(desk: Desk) -> None:
    async def run() -> None:
        async with desk.logged_in() as browser:
            await desk.sql("UPDATE registry.console_session SET used_at = now() - interval '14 minutes'")
            assert (await browser.get("/", **{"x-console-refresh": "1"})).status == 200
            [row] = await desk.sql("SELECT min(now() - used_at) AS idle FROM registry.console_session")
            assert row["idle"] >= timedelta(minutes=14)
            assert await is_in(browser)
            [row] = await desk.sql("SELECT min(now() - used_at) AS idle FROM registry.console_session")
            assert row["idle"] < timedelta(minutes=1)
            await desk.sql("DELETE FROM registry.console_session")
            answer = await browser.get("/", **{"x-console-refresh": "1"})
            assert (answer.status, answer.text) == (401, "")

    asyncio.run(run())


def test_one_key_opens_no_more_sessions_than_ten(desk: Desk) -> None:
    async def run() -> None:
        key = await desk.key()
        async with desk.site.database.pool(1) as db:
            for number in range(sessions.SESSIONS_PER_KEY + 3):
                await sessions.begin(db, bytes([number]) * 32, key.key_id)
        [row] = await desk.sql("SELECT count(*) AS n FROM registry.console_session WHERE key_id = $1", key.key_id)
        assert row["n"] == sessions.SESSIONS_PER_KEY

    asyncio.run(run())


def test_who_logs_out_is_out_though_the_cookie_is_shown_again(desk: Desk) -> None:
    async def run() -> None:
        async with desk.logged_in() as browser:
            [kept] = [cookie.value for cookie in browser.http.cookie_jar]
            answer = await browser.post("/console/logout", {"token": await browser.token()})
            assert (answer.status, answer.headers["location"]) == (303, "/console/login")
            assert "Max-Age=0" in answer.headers["set-cookie"]
            assert (await browser.get("/", Cookie=f"registryd-console={kept}")).status == 303

    asyncio.run(run())


@pytest.mark.parametrize("headers", ELSEWHERE.values(), ids=ELSEWHERE)
def test_a_form_from_elsewhere_does_nothing(desk: Desk, headers: dict[str, str]) -> None:
    async def run() -> None:
        key = await desk.key()
        async with desk.logged_in() as browser:
            token = await browser.token()
            async with browser.http.post(f"{browser.base}/console/logout", data={"token": token}, headers=headers) as answer:
                assert answer.status == 403
            assert await is_in(browser)
        async with (
            desk.browser() as browser,
            browser.http.post(f"{browser.base}/console/login", data={"key": key.shown}, headers=headers) as answer,
        ):
            assert (answer.status, "set-cookie" in answer.headers) == (403, False)

    asyncio.run(run())


def test_a_form_without_the_sessions_token_does_nothing(desk: Desk) -> None:
    async def run() -> None:
        async with desk.logged_in() as browser, desk.logged_in() as other:
            for token in ("", "zebra", await other.token()):
                assert (await browser.post("/console/logout", {"token": token})).status == 403
            async with browser.http.post(f"{browser.base}/console/logout", data={"token": await browser.token()}) as answer:
                assert answer.status == 403, "a browser says where a form comes from"
            assert await is_in(browser)

    asyncio.run(run())


def test_a_key_needs_the_scope_read(desk: Desk) -> None:
    async def run() -> None:
        key = await desk.key("feed", "act")
        async with desk.browser() as browser:
            answer = await browser.log_in(key.shown)
            assert (answer.status, "scope" in answer.text) == (403, True)
            assert not await is_in(browser)

    asyncio.run(run())


def test_logins_that_fail_slow_down_their_address_and_nobody_else(desk: Desk) -> None:
    async def fail(desk: Desk, address: str, times: int) -> list[Shown]:
        async with desk.browser(address) as browser:
            return [await browser.log_in("zebra") for _ in range(times)]

    async def run(desk: Desk) -> None:
        key = await desk.key()
        *first, over = await fail(desk, "127.0.0.2", FAILURES_PER_MINUTE + 2)
        assert {answer.status for answer in first} == {401}
        assert (over.status, 1 <= int(over.headers["retry-after"]) <= 60) == (429, True)
        async with desk.browser("127.0.0.2") as slowed, desk.browser("127.0.0.3") as other:
            assert (await slowed.log_in(key.shown)).status == 429, "also with a right key"
            assert (await other.log_in(key.shown)).status == 303
        for last in range(4, 12):
            await fail(desk, f"127.0.0.{last}", FAILURES_PER_MINUTE)
        async with desk.browser("127.0.0.200") as person:
            assert (await person.log_in(key.shown)).status == 303, "whoever has many addresses locks nobody out"

    with daemon(desk.site, "operate", instance=2) as running:
        asyncio.run(run(Desk(desk.site, running)))


def test_every_answer_has_the_headers_that_protect_it(desk: Desk) -> None:
    async def run() -> None:
        async with desk.logged_in() as browser, desk.browser() as stranger:
            answers = [await browser.get(page.path) for page in PAGES]
            answers += [await browser.get(path) for path in ("/console/login", "/console/nowhere", "/console/lanes/nobody", "/console")]
            answers += [await stranger.get("/"), await stranger.log_in("zebra"), await browser.post("/console/logout", {"token": "zebra"})]
            for answer in answers:
                for name, value in replies.HEADERS.items():
                    assert answer.headers[name.lower()] == value, answer.text
                assert answer.headers["x-correlator"]
                assert "<script>" not in answer.text
                assert " style=" not in answer.text
            assert "unsafe" not in replies.HEADERS["Content-Security-Policy"]

    asyncio.run(run())


def test_pages_are_found_and_only_looked_at(desk: Desk) -> None:
    async def run() -> None:
        async with desk.logged_in() as browser:
            assert (await browser.get("/console/nowhere")).status == 404
            async with browser.http.delete(f"{browser.base}/") as answer:
                assert answer.status == 405
            async with browser.http.head(f"{browser.base}/") as answer:
                assert (answer.status, await answer.read()) == (200, b"")
            assert (await browser.post("/", {"token": await browser.token()})).status == 405

    asyncio.run(run())


def test_the_operator_api_stays_as_it_is_beside_the_console(desk: Desk) -> None:
    async def run() -> None:
        async with desk.browser() as browser:
            answer = await browser.get("/operator/v1/nowhere")
            assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json")
            answer = await browser.post("/operator/v1/contract-events", {})
            assert answer.status == 401
        async with desk.logged_in() as browser:
            answer = await browser.post("/operator/v1/contract-events", {})
            assert answer.status == 401, "a session is no key of the API"

    asyncio.run(run())


NO_COOKIES = ("registryd-console=", "registryd-console=\xff", f"registryd-console={'z' * 43}", "registryd-console=%00", "=;=;;,", "a; b")
NO_FORMS = (b"", b"key", b"key=%ff", b"key=a&key=b", b"\xff=1", b"&".join(b"a%d=1" % n for n in range(99)), b"key=" + b"x" * 20_000)


@pytest.mark.parametrize("cookie", NO_COOKIES)
def test_a_cookie_that_was_never_ours_is_no_session(desk: Desk, cookie: str) -> None:
    request = f"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nCookie: {cookie}\r\n\r\n".encode("latin-1")
    answer = exchange(desk.daemon.operator, request)
    assert answer.startswith(b"HTTP/1.1 303 ")
    assert desk.events("request_failed") == []


@pytest.mark.parametrize("body", NO_FORMS, ids=range(len(NO_FORMS)))
def test_a_form_that_was_never_ours_is_refused(desk: Desk, body: bytes) -> None:
    head = f"POST /console/login HTTP/1.1\r\nHost: x\r\nOrigin: http://x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    answer = exchange(desk.daemon.operator, f"{head}Content-Type: application/x-www-form-urlencoded\r\n\r\n".encode() + body)
    assert answer.split(b" ")[1] in (b"401", b"403", b"413")
    assert b"<h1>" in answer
    assert desk.events("request_failed") == []
