"""`listen`, as a messenger's engineer runs it: what it verifies, how it fails on demand, and what it says of a secret."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from registryd.delivery import signing
from tests.conftest import Site, eventually
from tests.delivery.conftest import delivering, looking, send_digests
from tests.process.handing_over import NOBODY_S, listener, next_line, registryd, told


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda lines: [lines[0].replace("c0", "c9"), *lines[1:]], "line 1: no signature fits"),
        (lambda lines: [lines[0].replace('"v1,', '"v1,é'), *lines[1:]], "line 1: no signature fits"),
        (lambda lines: [lines[0].replace('timestamp":"', 'timestamp":"²'), *lines[1:]], "line 1: no signature fits"),
        (lambda lines: lines[:-1], "cut off"),
        (lambda lines: lines[1:], "lines are missing"),
        (lambda lines: [*lines, lines[0]], "line 3 follows"),
        (lambda lines: [lines[0], "{}", lines[1]], "line 2 is not a signed event"),
        (lambda lines: [lines[0][:-30], lines[1]], "line 1 is not a signed event"),
    ],
    ids=["changed", "signature beyond ASCII", "timestamp beyond ASCII", "cut off", "missing", "appended", "strange", "torn"],
)
def test_a_file_that_was_tampered_with_is_not_verified(site: Site, tmp_path: Path, spoil: Any, says: str) -> None:
    file = tmp_path / "alpha.jsonl"

    async def export() -> str:
        async with looking(site.database) as database:
            messenger = await site.add_messenger("alpha")
            await database.owe(messenger, "c0", "c1")
            await told(site, "export", "alpha", str(file))
        return signing.shown(messenger.secret)

    secret = asyncio.run(export())
    file.write_text("".join(f"{line}\n" for line in spoil(file.read_text().splitlines())))
    assert says in registryd(site, "listen", "--verify", str(file), secret=secret, code=1).stderr


def test_listen_simulates_failures_and_everything_still_arrives(site: Site) -> None:
    async def run() -> None:
        async with looking(site.database) as database:
            messenger = await site.add_messenger("alpha")
            with listener(messenger, "--fail-every", "3", "--drop-every", "4", "--delay", "0.01") as (listening_process, url):
                await database.run("UPDATE registry.messenger SET endpoint_url = $1", url)
                await database.owe(messenger, *(f"c{n}" for n in range(6)))
                answered: list[int] = []
                received: set[str] = set()
                async with delivering(site, concurrency=1):
                    while len(received) < 6:
                        line = await next_line(listening_process)
                        answered.append(line["answered"])
                        if line["answered"] == 204:
                            received |= {n["identificationCode"] for n in line["event"]["data"]["notifications"]}
                        await database.time_passes()
                    await eventually(database.none_pending)
                assert received == {f"c{n}" for n in range(6)}
                expected = [0 if n % 4 == 0 else 503 if n % 3 == 0 else 204 for n in range(1, len(answered) + 1)]
                assert answered == expected

    asyncio.run(run())


def test_listen_checks_the_digest_against_what_it_received(site: Site) -> None:
    async def run() -> None:
        async with looking(site.database) as database:
            messenger = await site.add_messenger("alpha")
            with listener(messenger) as (listening_process, url):
                await database.run("UPDATE registry.messenger SET endpoint_url = $1, created_at = '2020-01-01'", url)
                await send_digests(site)
                first = await next_line(listening_process)
                assert (first["event"]["type"], first["event"]["data"]["count"], first["complete"]) == ("notifications.digest", 0, True)
                # Of something that never came here.
                await database.run(
                    "UPDATE registry.digest SET notifications = 1, first_id = $1, last_id = $1, delivered_at = NULL, not_before = now()",
                    NOBODY_S,
                )
                await send_digests(site)
                second = await next_line(listening_process)
                assert (second["webhookId"], second["verified"], second["complete"]) == (first["webhookId"], True, False)

    asyncio.run(run())


def test_listen_wants_a_secret(site: Site) -> None:
    assert "no webhook secret is given" in registryd(site, "listen", "--port", "0", code=2).stderr


@pytest.mark.parametrize(
    ("secret", "says"),
    [
        (f"v1,whsec_{'A' * 43}=", "leave out what stands before it"),
        (f"'whsec_{'A' * 43}='", "quotes"),
        (f'whsec_{"A" * 43}="', "quotes"),
        ("whsec_\u0430", "give it whole"),
        ("whsec_A", "give it whole"),
    ],
)
def test_listen_says_what_is_wrong_with_a_secret(site: Site, tmp_path: Path, secret: str, says: str) -> None:
    file = tmp_path / "secret"
    file.write_text(f"\ufeff{secret} \n")
    done = registryd(site, "listen", "--port", "0", "--secret-file", str(file), code=2)
    assert says in done.stderr
    assert "AAAA" not in done.stderr
