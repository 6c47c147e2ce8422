"""The watch over billing's feed: what waits is told once for all processes, an end once more, and silence is shown."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import pytest
from structlog.testing import capture_logs

from registryd import observe
from registryd.keep import feed
from tests.conftest import TestDatabase


def shown(name: str, **labels: str) -> float | None:
    return observe.METRICS.get_sample_value(f"registryd_{name}", labels)


def waiting(database: TestDatabase, event_id: str, kind: str, *, waited: str, happened: str, reason: str = "no_contract_yet") -> None:
    """An event that came first `waited` ago, and happened so long ago."""
    database.psql(
        "-c",
        "INSERT INTO registry.feed_waiting (event_id, type, reason, occurred_at, first_at) "
        f"VALUES ('{event_id}', '{kind}', '{reason}', now() - interval '{happened}', now() - interval '{waited}')",
    )


def told(database: TestDatabase, looks: int = 1) -> list[tuple[Any, ...]]:
    """(level, type, events) of the alarms that so many processes raise."""

    async def run() -> None:
        for _ in range(looks):
            async with database.pool() as pool:
                await feed.watch(pool)

    with capture_logs() as log:
        asyncio.run(run())
    return [(line["log_level"], line["type"], line["events"]) for line in log if line["event"] == "feed_waiting"]


def test_what_waits_for_15_minutes_is_told_once_and_an_end_again_at_half_of_its_notice_period(database: TestDatabase) -> None:
    waiting(database, "fresh", "terminated", waited="14 minutes", happened="20 hours")
    assert told(database) == []
    for place in range(3):
        waiting(database, f"end-{place}", "ported_out", waited="16 minutes", happened="17 minutes")
    waiting(database, "late", "terminated", waited="16 minutes", happened="13 hours")
    waiting(database, "start", "activated", waited="16 minutes", happened="13 hours")
    assert told(database, looks=2) == [("warning", "activated", 1), ("warning", "ported_out", 3), ("error", "terminated", 1)]
    database.psql("-c", "UPDATE registry.feed_waiting SET occurred_at = occurred_at - interval '12 hours'")
    assert told(database, looks=2) == [("error", "ported_out", 3)]


def test_ends_beyond_the_bound_are_told_at_once(database: TestDatabase) -> None:
    for place in range(2):
        waiting(database, f"end-{place}", "terminated", waited="1 second", happened="1 minute", reason="too_many_ends")
    waiting(database, "start", "activated", waited="1 second", happened="1 minute", reason="follows_a_waiting_event")
    assert told(database, looks=2) == [("warning", "terminated", 2)]


def test_the_feeds_silence_and_what_waits_are_shown(database: TestDatabase) -> None:
    told(database)
    assert math.isnan(shown("feed_last_event_timestamp_seconds") or 0)
    assert math.isnan(shown("feed_last_snapshot_timestamp_seconds") or 0)
    assert (shown("feed_waiting_oldest_age_seconds"), shown("ends_left")) == (0, 10_000)
    waiting(database, "one", "activated", waited="1 hour", happened="1 hour")
    database.psql(
        "-c",
        "INSERT INTO registry.last_snapshot (as_of) VALUES (now() - interval '30 hours'); "
        "INSERT INTO registry.feed_event (event_id, type, content, outcome, occurred_at, recorded_at) "
        "VALUES ('e', 'activated', decode(repeat('00', 16), 'hex'), 'applied', now() - interval '9 hours', now() - interval '2 hours')",
    )
    told(database)
    assert time.time() - (shown("feed_last_event_timestamp_seconds") or 0) == pytest.approx(7_200, abs=60)
    assert time.time() - (shown("feed_last_snapshot_timestamp_seconds") or 0) == pytest.approx(108_000, abs=60)
    assert shown("feed_waiting_oldest_age_seconds") == pytest.approx(3_600, abs=60)
    assert shown("feed_waiting", reason="no_contract_yet") == 1
    assert shown("feed_waiting", reason="too_many_ends") == 0


def test_a_number_in_an_events_id_is_not_reported(database: TestDatabase) -> None:
    for event_id in ("end-79161234567", "7916123456700000000", "crm-2026-03-02-000117"):
        waiting(database, event_id, "activated", waited="1 hour", happened="1 hour")
    rows = database.psql("-Atc", "SELECT event_id FROM report.feed_waiting ORDER BY 1").stdout.split()
    assert rows == ["7916123456700000000", "crm-2026-03-02-000117", "end-*"]
