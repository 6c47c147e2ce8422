"""`client identify`: no result is lost or asked again, whatever interrupts it; it waits as it is told to, and quotes nothing."""

from __future__ import annotations

import asyncio
import csv
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from registryd.cli import main
from registryd.client.source import read_lines
from tests.certificates import make_pair, put_certificate
from tests.conftest import Site, daemon, wait_for

KEY = f"rk_{'a' * 16}_{'b' * 43}"
FIRST = 79_010_800_000

Answer = tuple[int, dict[str, str], Any]


def identify(*words: object, key: str = KEY) -> Result:
    return CliRunner(env={"REGISTRYD_API_KEY": key}).invoke(main, ["client", "identify", *map(str, words)], catch_exceptions=False)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_numbers(path: Path, count: int) -> Path:
    path.write_text("phone,code\n" + "".join(f"+{FIRST + i},u-{i}\n" for i in range(count)))
    return path


class Registry:
    """A registry that answers as `script(number of the request, queries)` says: (status, headers, body); None: everyone is there."""

    def __init__(self, script: Callable[[int, list[dict[str, str]]], Answer | None]) -> None:
        self.asked: list[list[dict[str, str]]] = []
        self.headers: list[dict[str, str]] = []
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
                with lock:
                    outer.asked.append(queries)
                    outer.headers.append(dict(self.headers))
                    number = len(outer.asked) - 1
                status, headers, body = script(number, queries) or (200, {}, answer_all(queries))
                text = json.dumps(body).encode() if not isinstance(body, bytes) else body
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(text))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


def answer_all(queries: list[dict[str, str]]) -> dict[str, Any]:
    told = {True: ("recorded", 1), False: (None, None)}
    pairs = [told["identificationCode" in query] for query in queries]
    return {"results": [{"present": True, "binding": binding, "generation": generation} for binding, generation in pairs]}


@contextmanager
def registry(script: Callable[[int, list[dict[str, str]]], Answer | None] = lambda *_: None) -> Iterator[Registry]:
    made = Registry(script)
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        thread.join()
        made.server.server_close()


def test_every_line_gets_its_answer_from_a_real_registry(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "users.csv"
    file.write_text(
        "number,code\n+79010800000,u-0\n79010800001,u-1\n\n+79010800002\nnonsense,u-3\n89010800004,u-4\n+79010800005,кириллица\n"
        "+79010800006,u-0\n+79010800099,u-99\n"
    )

    async def prepare() -> str:
        await site.add_contracts(*range(FIRST, FIRST + 10))
        return (await site.add_messenger()).api_key

    key = asyncio.run(prepare())
    with daemon(site) as running:
        done = identify(file, "--url", running.api, "--concurrency", 1, key=key)
        again = identify(file, "--url", running.api, "--json", key=key)
    assert done.exit_code == 1, "three lines could not be asked"
    assert "790108" not in done.output
    assert sorted(rows(tmp_path / "users.csv.results.csv"), key=lambda row: int(row["line"])) == [
        {"line": "2", "present": "true", "binding": "recorded", "generation": "1", "error": ""},
        {"line": "3", "present": "true", "binding": "recorded", "generation": "1", "error": ""},
        {"line": "5", "present": "true", "binding": "", "generation": "", "error": ""},
        {"line": "6", "present": "", "binding": "", "generation": "", "error": "not_a_number"},
        {"line": "7", "present": "", "binding": "", "generation": "", "error": "ambiguous_number"},
        {"line": "8", "present": "", "binding": "", "generation": "", "error": "not_a_code"},
        {"line": "9", "present": "true", "binding": "code_in_use", "generation": "", "error": ""},
        {"line": "10", "present": "false", "binding": "", "generation": "", "error": ""},
    ]
    assert (again.exit_code, json.loads(again.stdout)["before"], json.loads(again.stdout)["unasked"]) == (1, 8, 3), "nor could they now"
    assert asyncio.run(_journaled(site)) == 5, "what has a result is not asked again"


async def _journaled(site: Site) -> int:
    async with site.database.connect() as connection:
        return int(await connection.fetchval("SELECT sum(queries) FROM registry.journal_page"))


def test_it_trusts_whom_it_is_told_to_and_presents_its_certificate(site: Site, tmp_path: Path) -> None:
    ca = make_pair("a CA")
    server, own = make_pair("registry", ca), make_pair("messenger", ca)
    put_certificate(site, server)
    (site.directory / "credentials" / "client-ca").write_bytes(ca.certificate)
    (ca_file, _), (certificate, key_file) = ca.write(tmp_path, "ca"), own.write(tmp_path, "own")
    key = asyncio.run(site.add_messenger(certificate_sha256=[own.sha256])).api_key
    file = write_numbers(tmp_path / "users.csv", 3)
    with daemon(site) as running:
        url = running.api.replace("http:", "https:")
        stranger = identify(file, "--url", url, key=key)
        assert (stranger.exit_code, "--ca" in stranger.stderr) == (1, True), stranger.stderr
        unknown = identify(file, "--url", url, "--ca", ca_file, key=key)
        assert (unknown.exit_code, "401 UNAUTHENTICATED" in unknown.stderr) == (1, True), unknown.stderr
        done = identify(file, "--url", url, "--ca", ca_file, "--certificate", certificate, "--key", key_file, key=key)
        assert done.exit_code == 0, done.stderr
    assert len(rows(tmp_path / "users.csv.results.csv")) == 3


def test_killed_at_any_point_it_goes_on_and_asks_only_what_was_in_flight_again(tmp_path: Path) -> None:
    """Four batches are held unanswered when SIGKILL comes; and the last write is torn."""
    file, results = write_numbers(tmp_path / "users.csv", 2_000), tmp_path / "results.csv"
    held = threading.Event()
    killed = threading.Event()

    def script(number: int, _: list[dict[str, str]]) -> Answer | None:
        if 10 <= number < 14 and not killed.is_set():
            if number == 13:
                held.set()
            killed.wait(60)
        return None

    with registry(script) as there:
        words = ["client", "identify", str(file), "--url", there.url, "--results", str(results), "--batch", "50"]
        process = subprocess.Popen([sys.executable, "-m", "registryd", *words], env={**os.environ, "REGISTRYD_API_KEY": KEY})
        assert held.wait(60)
        wait_for(lambda: results.read_bytes().count(b"\n") == 501)
        process.kill()
        process.wait(60)
        killed.set()
        with results.open("ab") as torn:
            torn.write(b"1999,tru")
        again = identify(file, "--url", there.url, "--results", results, "--batch", 50, "--json")
        assert again.exit_code == 0, again.output
        assert json.loads(again.stdout)["before"] == 500
        asked = [query["phoneNumber"] for queries in there.asked for query in queries]
    assert sorted(int(row["line"]) for row in rows(results)) == list(range(2, 2_002)), "each line once"
    assert {row["present"] for row in rows(results)} == {"true"}
    assert len(asked) == 2_000 + 4 * 50
    assert len(set(asked)) == 2_000


def test_an_interrupt_keeps_what_is_being_answered(tmp_path: Path) -> None:
    file, results = write_numbers(tmp_path / "users.csv", 1_000), tmp_path / "results.csv"
    held, go_on = threading.Event(), threading.Event()

    def script(number: int, _: list[dict[str, str]]) -> None:
        if number == 3:
            held.set()
        go_on.wait(60)

    with registry(script) as there:
        words = ["client", "identify", str(file), "--url", there.url, "--results", str(results), "--batch", "10"]
        process = subprocess.Popen(
            [sys.executable, "-m", "registryd", *words],
            env={**os.environ, "REGISTRYD_API_KEY": KEY},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        assert held.wait(60)
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)  # it waits for its answers
        go_on.set()
        _, said = process.communicate(timeout=60)
        assert process.returncode == 1
        assert b"run it again" in said
        assert len(rows(results)) == 40 == 10 * len(there.asked)


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_pauses_every_connection(tmp_path: Path, status: int) -> None:
    file = write_numbers(tmp_path / "users.csv", 40)
    times: list[float] = []
    refused = threading.Event()
    clock = asyncio.new_event_loop()

    def script(number: int, _: list[dict[str, str]]) -> Answer | None:
        if refused.is_set():
            times.append(clock.time())
            return None
        if number == 0:
            times.append(clock.time())
            refused.set()
            return status, {"Retry-After": "2"}, {"code": "QUOTA_EXCEEDED", "detail": "Go on later."}
        return None

    with registry(script) as there:
        done = identify(file, "--url", there.url, "--batch", 10, "--concurrency", 1)
    clock.close()
    assert done.exit_code == 0, done.output
    assert f"{status} QUOTA_EXCEEDED: waiting 2 s" in done.stderr
    assert times[1] - times[0] >= 2
    assert there.asked[0] == there.asked[1], "the same batch again"
    assert len(rows(tmp_path / "users.csv.results.csv")) == 40


def test_a_registry_that_fails_or_hangs_up_is_asked_again(tmp_path: Path) -> None:
    file = write_numbers(tmp_path / "users.csv", 4)
    script: list[Answer] = [(502, {}, b"<html>bad gateway"), (200, {"Content-Length": "99999", "Connection": "close"}, b"{")]
    with registry(lambda number, _: script[number] if number < len(script) else None) as there:
        done = identify(file, "--url", there.url)
    assert done.exit_code == 0, done.output
    assert len(there.asked) == 3
    assert all(headers["Authorization"] == f"Bearer {KEY}" for headers in there.headers)


REFUSALS: dict[str, tuple[Answer, str]] = {
    "bad item": ((400, {}, {"code": "INVALID_ARGUMENT", "errors": [{"path": "queries[2].phoneNumber", "message": "no"}]}), "Line 4: no."),
    "bad key": ((401, {}, {"code": "UNAUTHENTICATED", "detail": "Send your key."}), "401 UNAUTHENTICATED: Send your key."),
    "suspended": ((403, {}, {"code": "PERMISSION_DENIED", "detail": "Suspended."}), "403 PERMISSION_DENIED"),
    "another server": ((200, {}, b"<html>hello"), "not the registry's API"),
    "too few answers": ((200, {}, {"results": [{"present": True, "binding": None, "generation": None}]}), "not the registry's API"),
    "a guess": ((200, {}, {"results": [{"present": "yes", "binding": None, "generation": None}] * 5}), "not the registry's API"),
    "a redirect": ((307, {"Location": "http://127.0.0.1:1/"}, b""), "307"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_waiting_does_not_mend_ends_the_work(tmp_path: Path, case: str) -> None:
    answer, said = REFUSALS[case]
    file = write_numbers(tmp_path / "users.csv", 5)
    with registry(lambda *_: answer) as there:
        done = identify(file, "--url", there.url)
    assert done.exit_code == 1
    assert said in done.stderr
    assert KEY not in done.output
    assert "790108" not in done.output
    assert len(there.asked) == 1
    assert rows(tmp_path / "users.csv.results.csv") == []


def test_results_are_of_one_source_and_one_process(tmp_path: Path) -> None:
    file, results = write_numbers(tmp_path / "users.csv", 5), tmp_path / "results.csv"
    with registry() as there:
        assert identify(file, "--url", there.url, "--results", results).exit_code == 0
        os.utime(file, (results.stat().st_mtime + 1,) * 2)
        assert "was changed since" in identify(file, "--url", there.url, "--results", results).stderr
        os.utime(file, (0, 0))
        assert "no file of results" in identify(file, "--url", there.url, "--results", file).stderr
        with results.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert "another process" in identify(file, "--url", there.url, "--results", results).stderr
        assert len(there.asked) == 1


@pytest.mark.parametrize(
    ("words", "key", "said"),
    [
        (["--url", "http://operator.example"], KEY, "https"),
        (["--url", "ftp://127.0.0.1"], KEY, "https"),
        (["--url", "https://operator.example"], "", "REGISTRYD_API_KEY"),
        (["--url", "https://operator.example", "--ca", __file__], KEY, "--ca"),
        (["--url", "https://operator.example", "--key", __file__], KEY, "--certificate"),
        (["--url", "https://operator.example", "--batch", "10001"], KEY, "a whole number from 1 to 10,000"),
    ],
)
def test_it_sends_no_key_where_others_listen(tmp_path: Path, words: list[str], key: str, said: str) -> None:
    done = identify(write_numbers(tmp_path / "users.csv", 1), *words, key=key)
    assert done.exit_code == 2
    assert said in done.stderr


def test_numbers_are_read_as_they_are_written(tmp_path: Path) -> None:
    file = tmp_path / "users.csv"
    file.write_bytes(b'\xef\xbb\xbf+79010800000,"a,""b"\r\n 79010800001 ,\r\n+81312345678,c\r\n81312345678,c\r\n\xff,d\r\n')
    assert [(line.number, line.query, line.error) for line in read_lines(file)] == [
        (1, {"phoneNumber": "+79010800000", "identificationCode": 'a,"b'}, ""),
        (2, {"phoneNumber": "+79010800001"}, ""),
        (3, {"phoneNumber": "+81312345678", "identificationCode": "c"}, ""),
        (4, {}, "ambiguous_number"),
        (5, {}, "not_a_number"),
    ]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("+79010800000, user-1", "user-1"),
        ("+79010800000,user-1 ", "user-1"),
        ("+79010800000,\tuser-1\t", "user-1"),
        ('+79010800000, "user-1"', "user-1"),
        ('+79010800000,"user-1" ', "user-1"),
        ('"+79010800000" ,"user 1"', "user 1"),
        ("+79010800000,   ", None),
        ("+79010800000,user;1", "user;1"),
    ],
)
def test_blanks_and_quotes_around_a_code_are_the_file_s(tmp_path: Path, line: str, code: str | None) -> None:
    file = tmp_path / "users.csv"
    file.write_text(f"{line}\n")
    (read,) = read_lines(file)
    assert (read.error, read.query.get("identificationCode")) == ("", code)


@pytest.mark.parametrize("line", ['+79010800000,"  "', "+79010800000,\u200euser-1", "+79010800000,\u00a0user-1"])
def test_a_code_of_blanks_or_of_letters_that_nobody_sees_is_none(tmp_path: Path, line: str) -> None:
    file = tmp_path / "users.csv"
    file.write_text(f"{line}\n")
    assert [read.error for read in read_lines(file)] == ["not_a_code"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xef\xbb\xbfnumber;code\r\n79010800000;u-1\r\n", "semicolons"),
        (b'"79010800000";"u-1,2"\r\n"79010800001";u\r\n', "semicolons"),
        (b"79010800000\tu-1\n", "tabs"),
        ("number,code\n79010800000,u-1\n".encode("utf-16"), "UTF-16"),
    ],
)
def test_a_spreadsheet_s_file_of_another_kind_is_refused_by_one_sentence(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "users.csv"
    file.write_bytes(content)
    done = identify(file, "--url", "http://127.0.0.1:9", key=KEY)
    assert (done.exit_code, says in done.stderr, "79010800000" in done.output) == (1, True, False)


def test_a_retry_after_beyond_the_calendar_is_none(tmp_path: Path) -> None:
    """As a proxy before the registry may say."""
    said = iter([{"Retry-After": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"}])

    def once(_: int, queries: list[dict[str, str]]) -> Answer | None:
        headers = next(said, None)
        return None if headers is None else (503, headers, {})

    with registry(once) as served:
        assert identify(write_numbers(tmp_path / "users.csv", 3), "--url", served.url, key=KEY).exit_code == 0
