"""What a request to reinstate names, and that nobody carries it out alone."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import pytest

from registryd.store import audit, breakglass
from registryd.store.breakglass import BreakglassRefused, Ends
from tests.persons import Persons
from tests.store.conftest import FIRST, add_contracts
from tests.store.undoing import approve, ask, end, outcomes, recently, undo


def test_a_request_undoes_what_it_names_and_nothing_else(persons: Persons) -> None:
    async def run() -> None:
        async with persons.database.connect() as connection:
            await add_contracts(connection, 4)
            await end(connection, FIRST)
            between = datetime.now(UTC)
            await end(connection, FIRST + 1)
            await end(connection, FIRST + 2, FIRST + 3, reason="ported_out")
            rows = await undo(persons, Ends(recorded_from=between, end_reasons=["terminated"]))
            assert outcomes(rows) == {("contract", "reinstated"): 1}
            rows = await undo(persons, Ends(numbers=[FIRST + 3, FIRST + 3, FIRST + 77]))
            assert outcomes(rows) == {("contract", "reinstated"): 1, ("contract", "not_ended"): 1}
            live = await connection.fetch("SELECT msisdn FROM registry.contract WHERE ended_at IS NULL ORDER BY 1")
            assert [row["msisdn"] for row in live] == [FIRST + 1, FIRST + 3]
            assert await connection.fetchval("SELECT count(*) FROM registry.breakglass_number") == 0

    asyncio.run(run())


def test_nobody_undoes_anything_alone_and_every_step_is_in_the_log(persons: Persons) -> None:
    async def run() -> None:
        async with persons.database.connect() as connection:
            await add_contracts(connection, 1)
            await end(connection, FIRST)
            request = await ask(persons, recently())
            async with persons.session(persons.anna) as session:
                assert outcomes(await breakglass.reinstate(session, request, dry_run=True)) == {("contract", "reinstated"): 1}
            async with persons.session(persons.boris) as session:
                (shown,) = await breakglass.open_requests(session)
                assert (shown.kind, shown.number, "recorded_from" in shown.scope, shown.is_prepared) == ("reinstate", None, True, True)
                assert outcomes(await breakglass.reinstate(session, request, dry_run=True)) == {("contract", "reinstated"): 1}
            with pytest.raises(BreakglassRefused, match="nobody has approved"):
                async with persons.session(persons.anna) as session:
                    await breakglass.reinstate(session, request)
            with pytest.raises(BreakglassRefused, match="nobody has approved"):  # numbers are shown with an approval alone
                async with persons.session(persons.anna) as session:
                    await breakglass.reinstate(session, request, dry_run=True, with_list=True)
            await approve(persons, request)
            with pytest.raises(BreakglassRefused, match="somebody else's"):
                async with persons.session(persons.boris) as session:
                    await breakglass.reinstate(session, request)
            with pytest.raises(BreakglassRefused, match="of kind reinstate, not look"):
                async with persons.session(persons.anna) as session:
                    await breakglass.look(session, request)
            assert await connection.fetchval("SELECT count(*) FROM registry.contract") == 1, "nothing so far has changed anything"
            async with persons.session(persons.anna) as session:
                await breakglass.reinstate(session, request)
                with pytest.raises(Exception, match="used already"):
                    await breakglass.reinstate(session, request)
            steps = await connection.fetch("SELECT kind, step, person, scope FROM registry.breakglass_event ORDER BY sequence")
            assert [tuple(row)[:3] for row in steps] == [
                ("reinstate", "requested", persons.anna),
                ("reinstate", "approved", persons.boris),
                ("reinstate", "reinstated", persons.anna),
            ]
            assert json.loads(steps[2]["scope"]) == {"contract": {"reinstated": 1}}
        verdict = await audit.verify(persons.database.dsn(), None, {})
        assert (verdict.log_entries, verdict.findings) == (3, [])

    asyncio.run(run())


def test_a_request_for_a_number_shows_nothing_of_it_before_it_is_approved(persons: Persons) -> None:
    async def run() -> None:
        request = await ask(persons, Ends(numbers=[FIRST]))
        for person in (persons.anna, persons.boris):
            with pytest.raises(BreakglassRefused, match=r"nobody has approved|somebody else's"):
                async with persons.session(person) as session:
                    await breakglass.reinstate(session, request, dry_run=True)
        async with persons.session(persons.boris) as session:
            (shown,) = await breakglass.open_requests(session)
        assert json.loads(shown.scope) == {"numbers": 1}, "a hash of one number would tell it"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        (Ends(), "name the contracts"),
        (Ends(recorded_until=datetime(2026, 1, 1, tzinfo=UTC)), "name the contracts"),
        (Ends(wave=1), "no wave 1"),
        (Ends(recorded_from=datetime(2200, 1, 1, tzinfo=UTC)), "period is empty"),
        (Ends(recorded_from=datetime(2026, 1, 1, tzinfo=UTC), end_reasons=["sold"]), "an end reason is"),
        (Ends(numbers=[]), "5 to 15 digits"),
        (Ends(numbers=[1]), "5 to 15 digits"),
    ],
)
def test_a_request_that_names_nothing_is_refused(persons: Persons, ends: Ends, words: str) -> None:
    async def run() -> None:
        with pytest.raises(BreakglassRefused, match=words):
            await ask(persons, ends)

    asyncio.run(run())
