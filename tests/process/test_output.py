"""What every command shows, on a registry with something of everything: nothing of Python, nothing cut, and JSON of one style."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from registryd.cli import main
from tests.conftest import DIES_WITH_US, Site
from tests.process.commands import CONTRACTS, SNAPSHOT, run, told
from tests.process.test_hints import commands

NUMBER = 79_160_000_001
ENDPOINT = "http://127.0.0.1:9/" + "long" * 40
PYTHON = re.compile(r"\b(None|True|False|datetime|timedelta|Decimal|UUID)\b|\[\]|\{\}|\(\)|<[A-Z]|\bb'|: '|[+]00:00|\b0 days\b")
BORDERS = re.compile("[─━│┃┏┓┗┛┡┩└┘├┤╭╮╰╯…]|\x1b")
KEY = re.compile(r"[a-z][A-Za-z0-9]*")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

LISTS = (
    ("check",),
    ("status",),
    ("messenger", "list"),
    ("messenger", "show", "alpha"),
    ("messenger", "show", "idle"),
    ("messenger", "changes", "list"),
    ("operator", "list"),
    ("feed", "status"),
    ("notifications", "status"),
    ("notifications", "waves"),
    ("policy", "show"),
    ("report",),
    ("report", "policy"),
    ("report", "notification_backlog"),
    ("report", "notification_backlog", "--columns"),
    ("report", "enumeration_alarm"),
    ("report", "endpoint_health"),
    ("report", "wave"),
    ("audit", "verify"),
    ("breakglass", "list", "--dsn", "DSN"),
    ("notifications", "explain", "NOTICE"),
)
"""The commands that show records and need no more words than these."""
MOVING = {("check",), ("status",), ("audit", "verify"), ("feed", "status"), ("notifications", "status"), ("report", "notification_backlog")}
"""Those that tell how long something has been or how far they are, which is another thing when they are asked again."""


@pytest.fixture
def full(site: Site) -> Site:
    """A registry with something in everything that commands list."""
    asyncio.run(site.add_contracts(*range(NUMBER, NUMBER + 5)))
    alpha = asyncio.run(site.add_messenger("alpha", ENDPOINT))
    asyncio.run(site.add_messenger("idle"))
    done = site.database.psql(
        "-c",
        f"""
        INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code)
        SELECT msisdn, generation, {alpha.messenger_id}, 'u-' || msisdn % 100 FROM registry.contract WHERE msisdn < {NUMBER + 3};
        UPDATE registry.contract SET ended_at = now() WHERE msisdn < {NUMBER + 2};
        UPDATE registry.messenger_key SET expires_at = 'infinity', last_used_at = now();
        UPDATE registry.lane SET failures = 1, last_error = 'timeout', gate_until = now() + interval '90 seconds';
        INSERT INTO registry.enumeration_alarm VALUES ({alpha.messenger_id}, now(), 'absent', now() + interval '1 hour');
        INSERT INTO registry.process (host, role, instance, pid, version, schema)
        SELECT 'here', r.role, 1, 1, '0', 1 FROM unnest('{{answer,deliver,operate}}'::text[]) AS r(role);
        INSERT INTO registry.change_request (messenger_id, kind, endpoint_url, requested_by)
        SELECT k.messenger_id, 'endpoint', 'http://127.0.0.1:9/new', k.key_id FROM registry.messenger_key AS k;
        SELECT breakglass.request({NUMBER}, 'complaint 17 of 2026');
        INSERT INTO registry.wave (ends, notifications) VALUES (1234567, 0);
        INSERT INTO registry.feed_event VALUES ('e', 'terminated', decode(repeat('00', 16), 'hex'), 'applied', NULL, now());
        INSERT INTO registry.feed_waiting (event_id, type, reason, occurred_at) VALUES ('e-2', 'terminated', 'no_contract_yet', now());
        """,
    )
    assert done.returncode == 0, done.stderr
    for words in (
        ("operator", "add", "billing", "--scope", "feed,read"),
        ("notifications", "hold", "idle", "--reason", "they asked for it\nin two lines"),
        ("policy", "set", "echo_per_s=", "--from", "2099-03-01T00:00:00+03:00", "--note", "Decree of 2099"),
        ("feed", "allow-ends", "5000", "--until", in_a_day(), "--reason", "a known wave"),
    ):
        assert run(site, *words).exit_code == 0, words
    return site


def in_a_day() -> str:
    return (datetime.now(UTC) + timedelta(days=1)).isoformat()


@contextmanager
def terminal(columns: int) -> Iterator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        yield ours, theirs
    finally:
        os.close(ours)


IN_TURN = """
import json, sys
from registryd.cli import main
for words in json.loads(sys.argv[1]):
    try:
        main(words)
    except SystemExit:
        pass
    print("\\f", end="", flush=True)
"""


def lists(site: Site) -> tuple[tuple[str, ...], ...]:
    """LISTS of this registry."""
    notice = site.database.psql("-Atc", "SELECT min(notification_id::text) FROM registry.notification").stdout.strip()
    return tuple(tuple(word.replace("DSN", site.database.dsn()).replace("NOTICE", notice) for word in words) for words in LISTS)


def on_a_terminal(site: Site, columns: int, listed: tuple[tuple[str, ...], ...]) -> list[str]:
    """What each of the commands shows on a terminal so wide."""
    with terminal(columns) as (ours, theirs):
        words = json.dumps([["--config", str(site.path), *each] for each in listed])
        environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
        process = subprocess.Popen(
            [sys.executable, "-c", IN_TURN, words],
            stdout=theirs,
            stderr=theirs,
            stdin=theirs,
            env=environment | {"TERM": "xterm-256color"},
            **DIES_WITH_US,
        )
        os.close(theirs)
        seen = b""
        while True:
            try:
                part = os.read(ours, 65_536)
            except OSError:  # the last who had it open has ended
                break
            if not part:
                break
            seen += part
        assert process.wait(60) == 0
    shown = seen.decode().replace("\r\n", "\n").split("\f")
    assert len(shown) == len(listed) + 1
    return [re.sub(r"\x1b\[[0-9;]*m", "", text) for text in shown[:-1]]


def test_in_a_pipe_every_list_is_a_line_a_record_without_borders_or_cuts(full: Site) -> None:
    for words in lists(full):
        shown = run(full, *words)
        assert shown.exit_code == 0, (words, shown.output)
        assert not PYTHON.search(shown.stdout), (words, PYTHON.search(shown.stdout))
        assert not BORDERS.search(shown.stdout), (words, shown.stdout)
        facts = told(full, *words)
        if isinstance(facts, list) and words[0] not in ("check", "policy"):
            assert len(shown.stdout.splitlines()) == len(facts) + 1, (words, shown.stdout)
    assert ENDPOINT in run(full, "messenger", "list").stdout
    assert "they asked for it\\nin two lines" in run(full, "notifications", "waves").stdout


def test_a_terminal_shows_the_same_words_whatever_its_width(full: Site) -> None:
    still = tuple(words for words in lists(full) if words not in MOVING)
    piped = [set(run(full, *words).stdout.replace(",", "").split()) for words in still]
    for columns in (40, 80, 300):
        for words, text, expected in zip(still, on_a_terminal(full, columns, still), piped, strict=True):
            assert not PYTHON.search(text), (columns, words, PYTHON.search(text))
            assert "…" not in text, (columns, words)
            assert set(text.replace(",", "").split()) == expected, (columns, words)


def test_no_colour_reaches_a_pipe_though_the_environment_asks_for_it(full: Site) -> None:
    command = [sys.executable, "-m", "registryd", "--config", str(full.path), "notifications", "status"]
    environment = os.environ | {"FORCE_COLOR": "1", "TERM": "xterm-256color"}
    done = subprocess.run(command, capture_output=True, env=environment, check=True, text=True)
    assert "idle" in done.stdout
    assert "\x1b" not in done.stdout


def keys_and_times(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from keys_and_times(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys_and_times(inner)


def test_json_has_one_style_in_every_command_that_speaks_it(full: Site, tmp_path: Path) -> None:
    spoken = set()
    (tmp_path / "contracts.csv").write_text(CONTRACTS)
    (tmp_path / "snapshot.csv").write_text(SNAPSHOT)
    (tmp_path / "ranges.csv").write_text("first_msisdn,last_msisdn,region,note\n79010000000,79019999999,,\n")
    for command in (*lists(full), *ACTIONS):
        words = tuple(word.replace("TMP", str(tmp_path)).replace("NOW", datetime.now(UTC).isoformat()) for word in command)
        done = CliRunner().invoke(main, ["--config", str(full.path), *words, "--json"], catch_exceptions=False)
        assert done.stdout.count("\n") == 1, (words, done.output)
        for key, value in keys_and_times(json.loads(done.stdout)):
            assert KEY.fullmatch(key), (words, key)
            assert not key.endswith("At") or value is None or TIME.fullmatch(value), (words, key, value)
            assert not key.endswith("Seconds") or value is None or isinstance(value, int | float | list), (words, key, value)
        spoken.add(command_of(words))
    able = {path for path, command in commands(main) if any(option.name == "as_json" for option in command.params)}
    assert able - spoken == ELSEWHERE, "name it in ACTIONS or LISTS"


@pytest.mark.parametrize(
    "words",
    [
        ("messenger", "show"),
        ("messenger", "list", "--nonsense"),
        ("notifications", "replay", "alpha", "--per-second", "many"),
        ("contracts", "import", "/dev/null", "--as-of", "2026-01-01T00:00:00Z"),
        ("nonsense",),
        ("messenger", "nonsense"),
    ],
)
def test_words_that_are_no_command_are_told_as_json_to_a_program(full: Site, words: tuple[str, ...]) -> None:
    text = CliRunner().invoke(main, ["--config", str(full.path), *words])
    assert (text.exit_code, text.stdout, text.stderr.startswith("Usage: ")) == (2, "", True), text.output
    done = CliRunner().invoke(main, ["--config", str(full.path), *words, "--json"])
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.output
    told = json.loads(done.stderr)
    assert told["exitCode"] == 2
    assert told["error"] in text.stderr, "the same sentence"


def test_every_command_speaks_json_but_those_that_have_nothing_to_tell() -> None:
    mute = {path for path, command in commands(main) if not any(option.name == "as_json" for option in command.params)}
    assert mute == {("serve",), ("answer",), ("deliver",), ("operate",), ("audit", "head")}, "a head is JSON by itself"


def command_of(words: tuple[str, ...]) -> tuple[str, ...]:
    return next(path for path, _ in commands(main) if words[: len(path)] == path)


ACTIONS = (
    ("messenger", "add", "beta"),
    ("messenger", "set", "beta", "--batch-max", "5"),
    ("messenger", "rotate-key", "beta"),
    ("messenger", "rotate-secret", "beta"),
    ("messenger", "suspend", "beta"),
    ("messenger", "resume", "beta"),
    ("messenger", "probe", "alpha"),
    ("messenger", "changes", "confirm", "1"),
    ("messenger", "changes", "refuse", "2", "--reason", "r"),
    ("messenger", "clear-alarm", "alpha"),
    ("operator", "add", "console", "--scope", "read"),
    ("operator", "rotate-key", "console"),
    ("feed", "complete", "--reason", "r"),
    ("feed", "incomplete", "--reason", "r"),
    ("feed", "allow-ends", "1", "--until", in_a_day(), "--reason", "r"),
    ("policy", "set", "echo_per_s=7", "--note", "n", "--dry-run"),
    ("notifications", "hold", "alpha", "--reason", "r"),
    ("notifications", "release", "alpha", "--reason", "r"),
    ("notifications", "replay", "alpha", "--since", "2026-01-01T00:00Z", "--dry-run"),
    ("contracts", "import", "TMP/contracts.csv", "--dry-run"),
    ("contracts", "import", "TMP/snapshot.csv", "--snapshot", "--dry-run", "--max-terminations", "100%", "--as-of", "NOW"),
    ("ranges", "import", "TMP/ranges.csv", "--dry-run"),
    ("notifications", "export", "alpha", "TMP/alpha.jsonl"),
    ("notifications", "acknowledge", "alpha", "--channel", "courier", "--file", "TMP/alpha.jsonl"),
    ("secrets", "rewrap"),
    ("migrate",),
)
ELSEWHERE = {
    ("demo",),
    ("listen",),
    ("client", "identify"),
    ("conformance",),
    ("messenger", "test"),
    ("messenger", "revoke-key"),
    ("operator", "revoke-key"),
    ("breakglass", "request"),
    ("breakglass", "approve"),
    ("breakglass", "look"),
    ("breakglass", "reinstate"),
    ("breakglass", "withdraw"),
}
"""They need files, ids or persons, and are tried beside what they do."""


def test_what_a_command_logs_is_not_among_its_result(site: Site, tmp_path: Path) -> None:
    """Here a fault of ours: the registry fails on an event."""
    file = tmp_path / "events.csv"
    file.write_text(f"event_id,type,msisdn,occurred_at,holder,end_user\ne1,activated,{NUMBER},2026-01-01T00:00:00Z,,\n")
    site.database.psql("-c", f"ALTER TABLE registry.contract ADD CONSTRAINT odd CHECK (msisdn <> {NUMBER}) NOT VALID")
    command = [sys.executable, "-m", "registryd", "--config", str(site.path), "contracts", "import", str(file), "--delta", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "event_failed" in done.stderr
    assert isinstance(json.loads(done.stdout), dict)
