"""How records are shown, and how facts are told in JSON."""

from __future__ import annotations

import io
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import NamedTuple
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from registryd.cli.printing import Record, Shown, Table, duration, interval, show, words
from registryd.domain.wire import wired

AT = datetime(2026, 11, 29, 1, 2, 3, 456_789, tzinfo=timezone(timedelta(hours=3)))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(*parts: Shown, width: int | None = None) -> list[str]:
    """What a pipe gets, or a terminal of that width."""
    file = io.StringIO() if width is None else Terminal()
    show(Console(file=file, width=width, highlight=False, no_color=True), parts)
    return [line.replace("\x1b[1m", "").replace("\x1b[0m", "").rstrip() for line in file.getvalue().splitlines()]


class Colour(Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "-"),
        ("", "-"),
        ([], "-"),
        (True, "yes"),
        (False, "no"),
        (1234, "1,234"),
        (0, "0"),
        (0.5, "0.5"),
        (Decimal("0.0300"), "0.0300"),
        (AT, "2026-11-28 22:02:03Z"),
        (datetime.max.replace(tzinfo=UTC), "for ever"),
        (date(2026, 1, 2), "2026-01-02"),
        (timedelta(0), "0 s"),
        (timedelta(milliseconds=250), "250 ms"),
        (timedelta(days=1, hours=2, seconds=4), "1 d 2 h 4 s"),
        (-timedelta(minutes=1), "-1 min"),
        ([1, None, "x"], "1, -, x"),
        (b"\x00\xff", "00ff"),
        (Colour.RED, "red"),
        ("two\nlines\tand \x1b[31mred", "two\\nlines\\tand \\x1b[31mred"),
    ],
)
def test_a_value_is_told_as_people_read_it(value: object, told: str) -> None:
    assert words(value) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("3 years", "3 years"),
        ("1 year 2 mons 1 day 02:00:00", "1 year 2 months 1 d 2 h"),
        ("22:00:00", "22 h"),
        ("-00:01:00", "-1 min"),
        ("-1 days -02:00:00", "-1 d 2 h"),
        ("00:00:00.25", "250 ms"),
        ("00:00:00", "0 s"),
    ],
)
def test_an_interval_of_the_database_is_told_as_a_duration(text: str, told: str) -> None:
    assert interval(text) == told


@given(st.timedeltas(min_value=timedelta(days=-9_999), max_value=timedelta(days=9_999)))
def test_a_duration_is_lost_by_no_more_than_half_its_last_unit(span: timedelta) -> None:
    units = {"d": 86_400, "h": 3_600, "min": 60, "s": 1, "ms": 0.001}
    parts = duration(span).removeprefix("-").split(" ")
    told = sum(int(number) * units[unit] for number, unit in zip(parts[::2], parts[1::2], strict=True))
    assert abs(told - abs(span.total_seconds())) <= (0.5 if abs(span) >= timedelta(seconds=1) else 0.0005)


def test_a_pipe_gets_a_line_a_record_and_nothing_is_cut() -> None:
    table = Table("name", "pending", "endpoint")
    table.add("alpha", 1234, "https://" + "long" * 100)
    table.add("вызов", None, "two\nlines", style="red")
    assert shown("told", table) == [
        "told",
        "",
        "name   pending  endpoint",
        f"alpha     1234  https://{'long' * 100}",
        "вызов        -  two\\nlines",
    ]


def test_a_terminal_gets_a_table_or_where_that_is_wider_a_block_for_each_record() -> None:
    table = Table("name", "endpoint", title="messengers")
    table.add("alpha", "https://alpha.example/a")
    table.add("beta", "pulls")
    assert shown(table, width=40) == ["messengers:", "name   endpoint", "alpha  https://alpha.example/a", "beta   pulls"]
    assert shown(table, width=29) == [
        "messengers:",
        "name      alpha",
        "endpoint  https://alpha.example/a",
        "",
        "name      beta",
        "endpoint  pulls",
    ]


def test_long_texts_of_a_table_go_over_several_lines_of_whole_words() -> None:
    table = Table("report", "what it tells")
    table.add("feed_lag", "How long after it happened each event reached the registry.")
    assert shown(table, width=45) == [
        "report    what it tells",
        "feed_lag  How long after it happened each",
        "          event reached the registry.",
    ]


def test_one_record_is_a_line_for_each_fact() -> None:
    assert shown(Record({"name": "alpha", "seen": AT, "quota": None}), "so") == [
        "name   alpha",
        "seen   2026-11-28 22:02:03Z",
        "quota  -",
        "",
        "so",
    ]


class Row(NamedTuple):
    deadline_at: datetime
    slack: timedelta
    digest: bytes
    parts: list[Decimal]
    id: UUID


def test_facts_are_told_in_json_as_on_the_wire() -> None:
    row = Row(AT, timedelta(seconds=1.5), b"\x01", [Decimal("0.10")], UUID(int=1))
    assert wired({"rows": [row], "as_of": date(2026, 1, 2), "kind": Colour.RED, "wait_seconds": timedelta(seconds=2)}) == {
        "rows": [
            {
                "deadlineAt": "2026-11-28T22:02:03.456Z",
                "slackSeconds": 1.5,
                "digest": "01",
                "parts": ["0.10"],
                "id": "00000000-0000-0000-0000-000000000001",
            }
        ],
        "asOf": "2026-01-02",
        "kind": "red",
        "waitSeconds": 2,
    }
