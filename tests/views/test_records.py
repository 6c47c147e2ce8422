"""The views of what is kept: evidence, break-glass requests, keys."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime

from registryd.domain.identifiers import Msisdn
from registryd.store import breakglass as store
from registryd.views import breakglass, duty, evidence, keys
from registryd.views.shape import encode
from tests.conftest import TestDatabase
from tests.persons import Persons
from tests.store.conftest import write_page
from tests.views.conftest import FIRST, seen


def test_evidence_tells_what_is_kept_where_the_chain_ends_and_who_verified(crowd: TestDatabase) -> None:
    found = seen(crowd, evidence.read)
    assert [f.family for f in found.families] == ["delivery_attempt", "journal_page", "notification_delivered"]
    for family in found.families:
        assert family.newest > found.seen_at.date() >= family.oldest
        assert family.size_bytes > 0
        assert (family.over, family.unplaced) == (0, 0)
    assert (found.chain.seals, found.chain.end, found.chain.unsealed_pages) == (1, 1, 0)
    assert found.verified is not None
    assert (found.verified.pages, found.verified.findings, found.verified.by) == (77, 0, "postgres")


def test_evidence_that_was_altered_is_a_page(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.pool() as db, database.connect() as dba:
            await dba.execute("INSERT INTO registry.last_verification (pages, findings) VALUES (7, 2)")
            await write_page(dba, datetime.now(UTC))
            assert "evidence_altered" in [p.code for p in (await duty.read(db)).problems if p.severity == "page"]
            assert (await evidence.read(db)).chain.unsealed_pages == 1

    asyncio.run(run())


def test_requests_tell_whose_turn_it_is_and_no_number(database: TestDatabase, persons: Persons) -> None:
    async def run() -> None:
        async with database.pool() as db:
            async with persons.session(persons.anna) as anna:
                number = await store.request(anna, Msisdn(FIRST), f"the court asks about +{FIRST}")
            (asked,) = (await breakglass.read(db)).requests
            assert (asked.request, asked.kind, asked.step, asked.person, asked.approved_by) == (
                number,
                "look",
                "requested",
                persons.anna,
                None,
            )
            assert (asked.number, asked.reason) == ("+7916*****00", "the court asks about +*")
            assert asked.command.startswith(f"registryd breakglass approve {number} --dsn ")

    asyncio.run(run())


def test_an_approved_request_is_carried_out_by_who_asked(database: TestDatabase, persons: Persons) -> None:
    async def run() -> None:
        async with database.pool() as db:
            async with persons.session(persons.anna) as anna:
                number = await store.request_reinstate(anna, store.Ends(recorded_from=datetime(2026, 1, 1, tzinfo=UTC)), "billing erred")
            assert [r.step for r in (await breakglass.read(db)).requests] == ["prepared"]
            async with persons.session(persons.boris) as boris:
                await store.approve(boris, number)
            (approved,) = (await breakglass.read(db)).requests
            assert (approved.step, approved.approved_by, approved.number) == ("approved", persons.boris, None)
            assert persons.anna in approved.next
            assert approved.command.startswith(f"registryd breakglass reinstate {number} --dsn ")

    asyncio.run(run())


def test_keys_tell_their_state_and_nothing_that_opens_anything(crowd: TestDatabase) -> None:
    found = seen(crowd, keys.read)
    assert [(k.messenger, k.key_id, k.state) for k in found.messenger_keys] == [
        ("m006", "abcdefg5", "revoked"),
        ("m006", "abcdefg4", "expired"),
        ("m006", "abcdefg3", "ending"),
        ("m006", "abcdefg2", "live"),
    ]
    assert [(s.messenger, s.kind, s.state) for s in found.secrets] == [("m006", "ed25519", "ending")]
    assert [(k.name, k.key_id, k.scopes, k.state) for k in found.operator_keys] == [("billing", "hgfedcb2", ["feed", "read"], "live")]
    told = encode(found)
    assert b"wombat" not in told
    assert not re.search(rb"sha256|secret\"|cipher", told, re.IGNORECASE)
