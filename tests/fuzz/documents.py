"""schemathesis tries what the APIs' documents say, and what they do not allow, on processes that run."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path

from registryd import resources
from tests.conftest import Site, TestDatabase, TestMessenger, client, daemon, make_site, prepare_database, receiving
from tests.fuzz.outcome import Outcome
from tests.servers import private_server

SEED = 1801
EXAMPLES, CASES_MIN = 500, 5_000
"""Of the campaign: what is drawn for each operation, and how many cases come of it at least."""

# Absent numbers answer 422, cursors are opaque, a time ends after it began, and not every URL is an endpoint: all as it should be, and no
# generator can know.
SETTINGS = """
[[operations]]
include-path = "/v1/bindings"
checks.positive_data_acceptance.expected-statuses = ["2xx", "409", "422"]

[[operations]]
include-path = "/v1/notifications"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400"]

[[operations]]
include-path = "/v1/notifications/replay"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "409", "429"]

[[operations]]
include-path = "/v1/account/endpoint"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "409", "429"]
"""


async def explore(site: Site, place: Path, examples: int) -> int:
    """How many cases were tried on both APIs. Raises: AssertionError, where one does not answer as its document says."""
    (place / "schemathesis.toml").write_text(SETTINGS)
    messenger = await site.add_messenger()
    await site.slow_nobody()
    await site.add_contracts(79161234567, 79169876543)
    async with receiving(messenger.secret) as (receiver, _):
        await _give_endpoint(site, messenger, receiver.url)
        with daemon(site, "answer", "operate", "deliver") as started:
            async with client(started.api, messenger) as session:
                bound = {"phoneNumber": "+79161234567", "identificationCode": "u-81f3"}  # as in the document
                async with session.post("/v1/bindings", json=bound) as response:
                    assert response.status == 201
            cases = await asyncio.gather(
                _explore_one(place, "messenger", started.api, messenger.api_key, examples),
                _explore_one(place, "operator", started.operator, site.operator_key.shown, examples),
            )
            assert not [line for line in started.log() if line["event"] in ("request_failed", "background_failed")]
            assert "Traceback" not in started.written()
    return sum(cases)


async def _explore_one(place: Path, name: str, base: str, token: str, examples: int) -> int:
    report, document = place / f"{name}.json", resources.path(f"registryd/http/{name}.yaml")
    options = {
        "--url": base,
        "--header": f"Authorization: Bearer {token}",
        "--phases": "examples,coverage,fuzzing",
        "--checks": "all",
        "--max-examples": str(examples),
        "--seed": str(SEED),
        "--generation-database": "none",
        "--warnings": "off",
        "--report": "json",
        "--report-json-path": str(report),
    }
    process = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).parent / "st"), "--config-file", str(place / "schemathesis.toml"), "run", str(document)),
        *(word for option in options.items() for word in option),
        *("--continue-on-failure", "--no-color"),
        cwd=place,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await process.communicate()
    assert process.returncode == 0, told.decode()
    result = json.loads(report.read_text())
    assert result["complete"]
    assert result["operations"]["tested"] == result["operations"]["selected"] > 0
    assert (result["test_cases"]["with_failures"], result["test_cases"]["errored"], result["errors"]) == (0, 0, [])
    return int(result["test_cases"]["generated"])


async def _give_endpoint(site: Site, messenger: TestMessenger, url: str) -> None:
    async with site.database.connect() as connection:
        await connection.execute("UPDATE registry.messenger SET endpoint_url = $2 WHERE messenger_id = $1", messenger.messenger_id, url)


def campaign(_: float) -> Outcome:
    with private_server() as server, tempfile.TemporaryDirectory() as directory:
        asyncio.run(prepare_database(server, "documents"))
        site = make_site(TestDatabase(server, "documents"), Path(directory) / "site")
        try:
            cases = asyncio.run(explore(site, Path(directory), EXAMPLES))
        except AssertionError as error:
            return Outcome(0, str(error) or "what schemathesis did was not whole")
    return Outcome(cases, "" if cases >= CASES_MIN else f"fewer than {CASES_MIN} cases")
