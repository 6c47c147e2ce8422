"""Gates and deferrals are durations that the database adds to its own time, so no clock shuts a lane long; a person opens it at once."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp.web import Response

from registryd.domain.identifiers import MessengerId
from registryd.store import lanes, notifications
from registryd.store.lanes import GATE_MAX
from tests.conftest import Site, eventually
from tests.delivery.conftest import Received, delivering, is_gated, listening, looking


@pytest.mark.parametrize("ahead", [timedelta(hours=-24), timedelta(0), timedelta(hours=24)])
def test_no_clock_of_ours_or_of_the_messenger_s_shuts_a_lane_beyond_the_longest_probe_pause(
    site: Site, monkeypatch: pytest.MonkeyPatch, ahead: timedelta
) -> None:
    """Our clocks and the date in Retry-After are `ahead` of the database's; every draw of the jitter is the longest."""
    true_time, true_monotonic = time.time, time.monotonic
    monkeypatch.setattr(time, "time", lambda: true_time() + ahead.total_seconds())

    def answer(_: Received) -> Response:
        return Response(status=503, headers={"Retry-After": format_datetime(datetime.now(UTC) + ahead, usegmt=True)})

    async def run() -> None:
        async with listening(answer) as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            await database.owe(messenger, "a", "b")
            async with delivering(site, jitter=lambda: 1.0, clock=lambda: true_monotonic() + ahead.total_seconds()):
                await eventually(lambda: is_gated(database))
                shut, due, attempted = (
                    await database.rows(
                        "SELECT (SELECT gate_until - now() FROM registry.lane),"
                        " (SELECT max(not_before) - now() FROM registry.notification),"
                        " (SELECT now() - max(attempted_at) FROM registry.delivery_attempt)"
                    )
                )[0]
            assert shut < GATE_MAX
            assert due < GATE_MAX
            assert timedelta(0) <= attempted < timedelta(minutes=1), "told by the database's clock"

    asyncio.run(run())


def test_a_gate_that_another_clock_wrote_is_none(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            await database.owe(messenger, "a", "b")
            await database.run(
                "UPDATE registry.lane SET failures = 3, gate_until = now() + interval '24 hours', last_error = 'no connection'"
            )
            async with delivering(site):
                await eventually(database.none_pending)
            assert await database.rows("SELECT failures, gate_until FROM registry.lane") == [(0, None)]

    asyncio.run(run())


def test_a_person_has_a_failing_endpoint_probed_and_refused_content_tried_at_once(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database, site.database.pool() as db:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            messenger_id = MessengerId(messenger.messenger_id)
            await database.owe(messenger, "refused", "later", "new")
            await database.run(
                "UPDATE registry.lane SET failures = 3, gate_until = now() + interval '50 seconds', last_error = 'no connection'"
            )
            wait = "UPDATE registry.notification SET attempts = 7, not_before = now() + interval '1 hour' WHERE identification_code = $1"
            await database.run(wait, "refused")
            await database.run(wait, "later")
            async with delivering(site):
                await eventually(lambda: database.value("SELECT gate_until IS NOT NULL FROM registry.lane"))
                assert endpoint.received == []
                assert await lanes.probe(db, messenger_id)
                await eventually(lambda: database.value("SELECT failures = 0 FROM registry.lane"))
                assert endpoint.codes == ["new"]
                assert await notifications.make_due(db, messenger_id) == 2
                assert not await lanes.probe(db, messenger_id)
                await eventually(database.none_pending)
            assert sorted(endpoint.codes) == ["later", "new", "refused"]

    asyncio.run(run())
