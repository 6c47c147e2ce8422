"""Nobody looks alone, unasked, twice or unlogged; what is seen is all there is, and the log shows what was done to it."""

from __future__ import annotations

import asyncio
import re
import time

import asyncpg
import pytest

from registryd import resources
from registryd.demo import embedded
from registryd.domain.identifiers import IdentificationCode, MessengerId, Msisdn
from registryd.domain.presence import PresenceQueries, PresenceQuery
from registryd.keep.breakglass import prepare_requests
from registryd.presence.answerer import Answerer
from registryd.store import audit, breakglass, breakglass_requests
from registryd.store.breakglass import BreakglassRefused
from registryd.store.digest_keys import DigestKey
from registryd.store.secretbox import SecretBox
from tests.conftest import TestDatabase, prepare_database, psql
from tests.persons import Persons
from tests.servers import private_server
from tests.store.conftest import FIRST, Connection, add_contracts, add_messengers, bind

REASON = "complaint 17 of the subscriber"
KEY = DigestKey(1, bytes(32))


async def ask_as(persons: Persons, person: str, number: int = FIRST) -> int:
    async with persons.session(person) as connection:
        request = await breakglass.request(connection, Msisdn(number), REASON)
    await prepare(persons.database)
    return request


async def prepare(database: TestDatabase) -> None:
    """What the daemon does, under its own role."""
    async with database.connect("registryd_app") as connection:
        for asked in await breakglass_requests.find(connection):
            await breakglass_requests.prepare(connection, asked, [KEY])


async def approve_as(persons: Persons, person: str, request: int) -> None:
    async with persons.session(person) as connection:
        await breakglass.approve(connection, request)


async def look_as(persons: Persons, person: str, request: int) -> list[breakglass.Seen]:
    async with persons.session(person) as connection:
        return await breakglass.look(connection, request)


async def log(connection: Connection) -> list[tuple[str, str]]:
    return [tuple(row) for row in await connection.fetch("SELECT step::text, person FROM registry.breakglass_event ORDER BY sequence")]


def test_an_approved_look_shows_contracts_bindings_and_who_asked(persons: Persons) -> None:
    async def run() -> None:
        async with persons.database.connect() as connection, persons.database.pool() as db:
            await add_contracts(connection, 3)
            one, other = await add_messengers(connection, 2)
            await bind(connection, one, 2)
            await connection.execute("UPDATE registry.contract SET ended_at = now() WHERE msisdn = $1", FIRST)
            await connection.execute(
                "INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at) "
                "VALUES ($1, 2, 'active', 'organisation', 'unregistered', now())",
                FIRST,
            )
            answerer = Answerer(db, KEY, statements_in_flight=1, group_max=100, queue_max=100)
            numbers = [Msisdn(FIRST + n) for n in (1, 0, 2, 0)]  # the number twice on one page, and never the first
            await answerer.answer_batch(MessengerId(other), PresenceQueries(numbers), time.monotonic())
            answer = await answerer.answer(MessengerId(one), PresenceQuery(Msisdn(FIRST), IdentificationCode("c")), time.monotonic())
            await answerer.answer(MessengerId(one), PresenceQuery(Msisdn(FIRST + 1)), time.monotonic())
            names = {
                row["messenger_id"]: row["name"] for row in await connection.fetch("SELECT messenger_id, name FROM registry.messenger")
            }
        request = await ask_as(persons, persons.anna)
        await approve_as(persons, persons.boris, request)
        seen = await look_as(persons, persons.anna, request)
        assert [(row.kind, row.generation, row.messenger, row.detail, row.outcome) for row in seen[:3]] == [
            ("contract", 1, None, "individual, not_required", "terminated"),
            ("contract", 2, None, "organisation, unregistered", "active"),
            ("binding", 1, names[one], f"u-{FIRST}", "terminated"),
        ]
        asked = seen[3:]
        assert [(row.kind, row.messenger, row.outcome) for row in asked] == [
            ("query", names[other], "absent"),
            ("query", names[other], "absent"),
            ("query", names[one], "absent"),
        ]
        assert asked[2].detail == answer.query_id
        assert {row.detail[-4:] for row in asked[:2]} == {"0001", "0003"}

    asyncio.run(run())


def test_nobody_looks_without_another_persons_approval(persons: Persons) -> None:
    async def run() -> None:
        request = await ask_as(persons, persons.vera)
        with pytest.raises(BreakglassRefused, match="nobody has approved"):
            await look_as(persons, persons.vera, request)
        with pytest.raises(BreakglassRefused, match="by somebody else"):
            await approve_as(persons, persons.vera, request)
        with pytest.raises(BreakglassRefused, match="permission denied"):
            await approve_as(persons, persons.anna, request)
        await approve_as(persons, persons.boris, request)
        with pytest.raises(BreakglassRefused, match="approved already"):
            await approve_as(persons, persons.boris, request)
        with pytest.raises(BreakglassRefused, match="somebody else's"):
            await look_as(persons, persons.anna, request)
        with pytest.raises(BreakglassRefused, match="permission denied"):
            await look_as(persons, persons.boris, request)
        assert await look_as(persons, persons.vera, request) == []
        with pytest.raises(BreakglassRefused, match="used already"):
            await look_as(persons, persons.vera, request)
        with pytest.raises(BreakglassRefused, match="no request 99"):
            await look_as(persons, persons.vera, 99)
        with pytest.raises(BreakglassRefused, match="ten characters"):
            async with persons.session(persons.anna) as connection:
                await breakglass.request(connection, Msisdn(FIRST), "because")

    asyncio.run(run())


def test_a_number_reaches_no_server_log_whatever_is_refused() -> None:
    """PostgreSQL as it is installed logs a refused row and a refused statement, and nobody inherits a role's settings."""
    defaults = {"log_min_messages": "warning", "log_error_verbosity": "default", "log_min_error_statement": "error"}
    number, digits = "79010800002", "7901080000212345678"
    wrong = {
        f"({number}, 'too short')": "ten characters",
        f"({number}, '               ')": "ten characters",
        f"({number}, NULL)": "ten characters",
        f"({digits}, '{REASON}')": "5 to 15 digits",
        f"(NULL, '{REASON} {number}')": "5 to 15 digits",
    }
    recipe = "".join(re.findall(r"^(?:CREATE ROLE|GRANT|ALTER ROLE) .*;\n", resources.path("sql/README.md").read_text(), re.MULTILINE))
    assert "ALTER ROLE anna" in recipe

    async def run(server: embedded.Server) -> None:
        dsn = await prepare_database(server, "registry")
        dba = await asyncpg.connect(dsn)
        await dba.execute(recipe + "CREATE ROLE zoe LOGIN IN ROLE registryd_breakglass")
        for arguments, words in wrong.items():
            done = psql(server, server.dsn("registry", "anna"), "-c", f"SELECT breakglass.request{arguments}")
            assert (done.returncode, words in done.stderr) == (1, True), done.stderr
        # Nor where the statement is cancelled, while another's request is not committed.
        await dba.execute("BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('registry.breakglass_event', 0))")
        late = f"SET statement_timeout = '100ms'; SELECT breakglass.request({number}, '{REASON}')"
        assert psql(server, server.dsn("registry", "anna"), "-c", late).returncode == 1
        await dba.close()
        # Without the setting: a parameter is no part of the statement, and a refusal has no DETAIL.
        with pytest.raises(BreakglassRefused):
            async with breakglass.session(server.dsn("registry", "zoe")) as connection:
                await breakglass.request(connection, Msisdn(int(number)), "because")

    with private_server(options=defaults) as server:
        asyncio.run(run(server))
        log = server.log.read_text()
    assert "canceling statement" not in log, "with the setting nothing of her sessions is logged"
    assert log.count("a reason has ten characters at least") == 1
    assert "SELECT breakglass.request($1" in log, "the statement of who has no such setting"
    assert number not in log


def test_a_request_waits_for_its_digests_and_gets_them_once(persons: Persons) -> None:
    async def run() -> None:
        async with persons.session(persons.anna) as session:
            request = await breakglass.request(session, Msisdn(FIRST), REASON)
        async with persons.session(persons.boris) as session:
            assert [asked.is_prepared for asked in await breakglass.open_requests(session)] == [False]
        with pytest.raises(BreakglassRefused, match="not prepared yet"):
            await approve_as(persons, persons.boris, request)
        async with persons.database.pool() as db:
            await prepare_requests(db, SecretBox(bytes(32)))
            await prepare_requests(db, SecretBox(bytes(32)))
        async with persons.database.connect("registryd_app") as connection:
            with pytest.raises(asyncpg.UniqueViolationError):
                await breakglass_requests.prepare(connection, breakglass_requests.Asked(request, Msisdn(FIRST)), [KEY])
            with pytest.raises(asyncpg.CheckViolationError, match="one digest"):
                await connection.execute("SELECT registry.prepare_request(1, '{1}', '')")
        await approve_as(persons, persons.boris, request)

    asyncio.run(run())


def test_requests_and_approvals_lapse(persons: Persons) -> None:
    async def run() -> None:
        async with persons.database.connect() as connection:
            late = await ask_as(persons, persons.anna)
            await connection.execute("UPDATE registry.breakglass_event SET at = at - interval '25 hours' WHERE sequence = $1", late)
            with pytest.raises(BreakglassRefused, match="older than a day"):
                await approve_as(persons, persons.boris, late)
            lapsed = await ask_as(persons, persons.anna)
            await approve_as(persons, persons.boris, lapsed)
            waiting = await ask_as(persons, persons.anna, 79010800002)
            async with persons.session(persons.boris) as session:
                shown = await breakglass.open_requests(session)
            assert [(row.request, row.number, row.approved_by) for row in shown] == [
                (lapsed, "+7916*****00", persons.boris),
                (waiting, "+7901*****02", None),
            ]
            await connection.execute("UPDATE registry.breakglass_event SET at = at - interval '61 minutes' WHERE step = 'approved'")
            with pytest.raises(BreakglassRefused, match="older than an hour"):
                await look_as(persons, persons.anna, lapsed)

    asyncio.run(run())


def test_a_look_that_is_undone_leaves_its_request_and_approval(persons: Persons) -> None:
    """What he saw he saw: two committed rows say who asked for it, why, and who let him."""

    async def run() -> None:
        async with persons.database.connect() as connection:
            await add_contracts(connection, 1)
            request = await ask_as(persons, persons.anna)
            await approve_as(persons, persons.boris, request)
            async with persons.session(persons.anna) as session:
                transaction = session.transaction()
                await transaction.start()
                assert len(await breakglass.look(session, request)) == 1
                await transaction.rollback()
            assert await log(connection) == [("requested", persons.anna), ("prepared", "registryd_app"), ("approved", persons.boris)]
            # A request and its approval cannot be made and undone in the look's own transaction: they are another person's.
            async with persons.session(persons.vera) as session:
                transaction = session.transaction()
                await transaction.start()
                own = await breakglass.request(session, Msisdn(FIRST), REASON)
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match="by somebody else"):
                    await breakglass.approve(session, own)

    asyncio.run(run())


TAMPERINGS = {
    "a reason is edited": ("UPDATE registry.breakglass_event SET reason = 'another reason' WHERE sequence = 1", [("entry_changed", 1)]),
    "a person is edited": ("UPDATE registry.breakglass_event SET person = 'somebody' WHERE sequence = 2", [("entry_changed", 2)]),
    "a number is edited": ("UPDATE registry.breakglass_event SET msisdn = msisdn + 1 WHERE sequence = 5", [("entry_changed", 5)]),
    "a kind is edited": (
        "UPDATE registry.breakglass_event SET kind = 'withdraw', step = 'withdrawn', scope = '{}' WHERE sequence = 4",
        [("entry_changed", 4)],
    ),
    "a time is edited": ("UPDATE registry.breakglass_event SET at = at - interval '1 day' WHERE sequence = 3", [("entry_changed", 3)]),
    "a digest is edited": (
        "UPDATE registry.breakglass_event SET digests = substring(sha256('') FOR 16) WHERE sequence = 2",
        [("entry_changed", 2)],
    ),
    "a look is deleted": ("DELETE FROM registry.breakglass_event WHERE sequence = 4", [("entry_missing", 4)]),
    "steps change places": (
        "UPDATE registry.breakglass_event SET sequence = 100 WHERE sequence = 2; UPDATE registry.breakglass_event SET sequence = 2 "
        "WHERE sequence = 3; UPDATE registry.breakglass_event SET sequence = 3 WHERE sequence = 100",
        [("entry_changed", 2), ("entry_changed", 2), ("entry_changed", 3), ("entry_changed", 3), ("entry_changed", 4)],
    ),
    "a look is invented": (
        "INSERT INTO registry.breakglass_event SELECT 9, request, kind, 'looked', at, person, NULL, '', '', '{}', '', sha256, sha256 "
        "FROM registry.breakglass_event WHERE sequence = 7",
        [("entry_missing", 8), ("entry_changed", 9)],
    ),
    "the end is cut off": ("DELETE FROM registry.breakglass_event WHERE sequence > 3", [("head_missing", 7)]),
}


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_a_log_that_was_tampered_with_shows_it(persons: Persons, tampering: str) -> None:
    async def run() -> None:
        for _ in range(2):
            request = await ask_as(persons, persons.anna)
            await approve_as(persons, persons.boris, request)
            if request == 1:
                await look_as(persons, persons.anna, request)
        async with audit.reading(persons.database.dsn(), None) as connection:
            heads = await audit.read_heads(connection)
        verdict = await audit.verify(persons.database.dsn(), None, heads)
        assert (verdict.log_entries, verdict.findings) == (7, [])
        sql, expected = TAMPERINGS[tampering]
        async with persons.database.connect() as connection:
            await connection.execute(sql)
        found = (await audit.verify(persons.database.dsn(), None, heads)).findings
        assert [(finding.fault, finding.entry) for finding in found] == expected
        assert {finding.chain for finding in found} == {"breakglass"}

    asyncio.run(run())
