"""How far long work is, as a pipe and a terminal are told it."""

from __future__ import annotations

import io
import sys

import pytest

from registryd.cli.progress import progress, tell
from tests.conftest import wait_for


@pytest.mark.parametrize(
    ("done", "total", "before", "count", "seconds", "told"),
    [
        (0, None, 0, None, 75, "1 min 15 s so far"),
        (0, 1000, 0, None, 20, "20 s so far"),
        (250, 1000, 0, None, 10, "250 of 1,000 pages, 25 a second, 30 s left"),
        (600, 1000, 500, None, 10, "600 of 1,000 pages, 10 a second, 40 s left"),
        (1000, 1000, 0, None, 10, "1,000 of 1,000 pages, 100 a second"),
        (500_000, 1_000_000, 0, 12_000, 10, "50%, 12,000 pages, 1,200 a second, 10 s left"),
        (500_000, None, 0, 12_000, 10, "12,000 pages, 1,200 a second"),
    ],
)
def test_it_tells_how_much_is_done_how_fast_and_how_long_the_rest_takes(
    done: float, total: float | None, before: float, count: int | None, seconds: float, told: str
) -> None:
    assert tell(done, total, before, count, "pages", seconds) == told


def test_where_there_is_no_terminal_a_line_at_a_time_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = io.StringIO()
    monkeypatch.setattr(sys, "stderr", lines)
    with progress("comparing", "pages", every_s=0.01) as work:
        work.move(3, 12)
        wait_for(lambda: "of 12 pages" in lines.getvalue())
        work.step("applying")
        wait_for(lambda: "applying: 0 s so far\n" in lines.getvalue())
    counted = next(line for line in lines.getvalue().splitlines() if "of 12 pages" in line)
    assert counted.startswith("comparing: 3 of 12 pages, ")
    assert counted.endswith(" left")
    quiet = io.StringIO()
    monkeypatch.setattr(sys, "stderr", quiet)
    with progress("comparing", "pages"):
        pass
    assert quiet.getvalue() == "", "what is soon over says nothing"
