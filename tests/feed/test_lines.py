"""The check of billing's lines: what the fast pattern takes is what a careful look would, line by line, whatever stands beside it."""

from __future__ import annotations

import random
import re
from datetime import UTC, datetime, timedelta

import pytest

from registryd.domain.files import ImportRefused
from registryd.feed.lines import HISTORY_COLUMNS, SNAPSHOT_COLUMNS, Lines, read_header

LATEST = datetime(2026, 3, 10, 12, tzinfo=UTC)
HOLDERS = {("individual", "not_required"), *((h, e) for h in ("sole_trader", "organisation") for e in ("registered", "unregistered"))}
TIME = r"\d{4}-\d\d-\d\d[T ]([01]\d|2[0-3]):\d\d:\d\d(\.\d{1,9})?(Z|[+-](0\d|1[0-5])(:?[0-5]\d)?)"


def moment(text: str) -> datetime | None:
    """Written apart from the code it judges: the calendar is Python's own."""
    try:
        found = datetime.fromisoformat(text) if re.fullmatch(TIME, text, re.ASCII) and "1900" <= text[:4] < "3000" else None
    except ValueError:
        return None
    return found if found and found <= LATEST + timedelta(minutes=4) else None


def is_good(columns: tuple[str, ...], text: str) -> bool:
    fields = text.split(",")
    if len(fields) != len(columns):
        return False
    row = dict(zip(columns, fields, strict=True))
    started, ended = moment(row["started_at"]), moment(row.get("ended_at", ""))
    is_ended = row["status"] == "ended" and "ended_at" in row
    return (
        re.fullmatch("[1-9][0-9]{4,14}", row["msisdn"]) is not None
        and not (row["msisdn"].startswith("89") and len(row["msisdn"]) == 11)
        and not row["msisdn"].startswith("999")
        and re.fullmatch("[1-9][0-9]{0,3}", row.get("generation", "1")) is not None
        and (row["holder"], row["end_user"]) in HOLDERS
        and (is_ended or row["status"] in ("active", "suspended"))
        and started is not None
        and (
            ended is not None
            and ended >= max(started, datetime(1970, 1, 1, tzinfo=UTC))
            and row["end_reason"] in ("terminated", "ported_out", "holder_changed")
            if is_ended
            else row.get("ended_at", "") == row.get("end_reason", "") == ""
        )
    )


def invented(columns: tuple[str, ...], draw: random.Random) -> str:
    """A line that is good, or nearly so."""

    def time() -> str:
        day = draw.choice(["29", "30", "31", "00", "32", f"{draw.randint(1, 28):02}", "10", "11"])
        year = draw.choice([1899, 1900, 2000, 2020, 2024, 2025, 2026, 2026, 2027, 3000])
        zone = draw.choice(["Z", "Z", "+03:00", "-03:00", "+15:59", "+16:00", "+03"])
        clock = draw.choice(["00:00:00", "23:59:59", "12:03:59.5", "24:00:00"])
        return f"{year}-{draw.randint(0, 13):02}-{day}{draw.choice('TT ')}{clock}{zone}"

    holder, end_user = draw.choice(sorted(HOLDERS))
    row = {
        "msisdn": str(draw.choice([*[790] * 38, 891, 892, 999]) * 10**8 + draw.randint(0, 99_999_999)),
        "generation": str(draw.randint(1, 3)),
        "status": draw.choice(["active", "active", "suspended", "ended"]),
        "holder": holder,
        "end_user": end_user,
        "started_at": time(),
        "ended_at": draw.choice(["", "", time()]),
        "end_reason": draw.choice(["", "", "ported_out"]),
    }
    text = ",".join(row[column] for column in columns)
    if draw.random() < 0.3:
        place = draw.randrange(len(text))
        text = text[:place] + draw.choice(["", *"0123456789-:TZ+.,aeu \t\x00é"]) + text[place + draw.randint(0, 1) :]
    return text


@pytest.mark.parametrize("columns", [SNAPSHOT_COLUMNS, SNAPSHOT_COLUMNS[::-1], HISTORY_COLUMNS], ids=["snapshot", "reversed", "history"])
def test_exactly_the_good_lines_pass_and_the_bad_ones_are_told_by_number(columns: tuple[str, ...]) -> None:
    draw = random.Random(1801)
    texts = [invented(columns, draw) for _ in range(20_000)]
    lines = Lines(columns, LATEST)
    passed = b""
    for start in range(0, len(texts), 1_500):
        passed += lines.take("".join(text + "\n" for text in texts[start : start + 1_500]).encode())
    good = [text for text in texts if is_good(columns, text)]
    assert passed.decode() == "".join(text + "\n" for text in good)
    assert [bad.line for bad in lines.bad] == [number for number, text in enumerate(texts, 2) if not is_good(columns, text)]
    assert 800 < len(good) == lines.good < 18_000
    numbers = [number for number, text in enumerate(texts, 2) if is_good(columns, text)]
    for place in range(0, len(numbers), 401):
        assert lines.line_of(place + 1) == numbers[place]


def test_quotes_and_carriage_returns_are_dress() -> None:
    plain = b"79160000001,individual,not_required,active,2020-01-01T00:00:00Z\n"
    for dressed in (
        plain.replace(b"\n", b"\r\n"),
        b'"' + plain.replace(b",", b'","').replace(b"\n", b'"\n'),
        plain.replace(b"active", b'"active"'),
    ):
        lines = Lines(SNAPSHOT_COLUMNS, LATEST)
        assert lines.take(dressed * 3) == plain * 3
        assert lines.bad == []
    for wrong in (
        b'"' + plain,
        plain.replace(b"active", b'act"ive'),
        plain.replace(b"l,n", b'l","n'),
        plain.replace(b"Z\n", b'Z"\n'),
        b"\r" + plain,
    ):
        lines = Lines(SNAPSHOT_COLUMNS, LATEST)
        assert lines.take(plain + wrong + plain) == plain * 2
        assert [bad.line for bad in lines.bad][:1] == [3]


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (",".join(SNAPSHOT_COLUMNS) + "\r79160000000,individual", "line 1: holds a carriage return that ends no line: write LF"),
        ("msisdn,hol\rder,end_user,status,started_at", "line 1: holds a carriage return that ends no line: write LF"),
        ("x" * 140_000, "line 1: has a field of more than 131,072 characters"),
        (
            "msisdn,holder,end_user,status",
            "line 1: the header must name the columns msisdn,holder,end_user,status,started_at: started_at is missing",
        ),
    ],
)
def test_a_header_that_is_none_is_refused_with_its_mend(header: str, says: str) -> None:
    with pytest.raises(ImportRefused, match=f"^{says}") as refused:
        read_header(header, SNAPSHOT_COLUMNS)
    assert "79160000000" not in str(refused.value)
