"""Evidence by command: it is verified against a kept head, and two persons look at one number."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

from click.testing import CliRunner, Result

from registryd.cli import main
from registryd.cli.running import Exit
from tests.conftest import Site, client, daemon, wait_for
from tests.process.commands import run, told


def test_evidence_is_verified_against_a_head_that_was_kept(site: Site, tmp_path: Path) -> None:
    messenger = asyncio.run(site.add_messenger())

    async def query(api: str) -> None:
        async with client(api, messenger) as session:
            answer = await session.post("/v1/presence", json={"phoneNumber": "+79010800002"})
            assert answer.status == 200

    with daemon(site) as running:
        asyncio.run(query(running.api))
        assert running.stop() == 0
    site.database.psql("-c", "SELECT registry.seal_windows_before(now() + interval '2 minutes')")
    verdict = told(site, "audit", "verify")
    recorded = site.database.psql(
        "-Atc", "SELECT verified_by, findings, verified_at > now() - interval '1 minute' FROM registry.last_verification"
    )
    assert recorded.stdout == "postgres|0|t\n"
    assert (verdict["pages"], verdict["pagesDroppedBefore"], verdict["findings"]) == (1, None, [])
    kept = tmp_path / "head.json"
    kept.write_text(run(site, "audit", "head").stdout)
    (site.directory / "credentials" / "head-key").unlink()  # whoever verifies has no secret of the service
    public = ("--public-key", json.loads(kept.read_text())["publicKey"])
    assert run(site, "audit", "verify", "--head", str(kept)).exit_code == 2
    shown = run(site, "audit", "verify", "--head", str(kept), *public)
    assert (shown.exit_code, "as it was written" in shown.stdout) == (0, True)
    since = told(site, "audit", "verify", "--since", str(kept), *public)
    assert (since["seals"], since["pages"], since["findings"]) == (1, 0, [])
    assert run(site, "audit", "verify", "--head", str(kept), "--since", str(kept), *public).exit_code == 2
    site.database.psql("-c", "DELETE FROM registry.journal_page; DELETE FROM registry.seal WHERE sequence > 1")
    assert run(site, "audit", "verify").exit_code == 0
    cut = run(site, "audit", "verify", "--head", str(kept), *public, "--json")
    assert (cut.exit_code, [finding["fault"] for finding in json.loads(cut.stdout)["findings"]]) == (1, ["head_missing"])
    kept.write_text(kept.read_text().replace('"sequence":', '"sequence":1'))
    forged = run(site, "audit", "verify", "--head", str(kept), *public)
    assert (forged.exit_code, "no head that belongs to this public key" in forged.stderr) == (1, True)


def test_evidence_is_verified_and_its_head_kept_by_who_has_neither_configuration_nor_secret(site: Site, tmp_path: Path) -> None:
    key, kept = tmp_path / "own.key", tmp_path / "head.json"
    key.write_text("ab" * 32 + "\n")
    here = ("--dsn", site.database.dsn())

    def audit(*words: str) -> Result:
        return CliRunner().invoke(main, ["--config", str(tmp_path / "none.toml"), "audit", *words, *here], catch_exceptions=False)

    head = audit("head", "--key", str(key))
    assert head.exit_code == 0, head.output
    kept.write_text(head.stdout)
    public = json.loads(head.stdout)["publicKey"]
    assert audit("verify", "--head", str(kept), "--public-key", public).exit_code == 0
    assert audit("head").exit_code == Exit.CONFIG, "without a key of one's own it is the service's that signs"


def test_two_persons_look_at_one_number(site: Site) -> None:
    anna, boris = f"anna_{os.getpid()}", f"boris_{os.getpid()}"
    asyncio.run(site.add_contracts(79010800002))
    site.database.psql("-c", f"CREATE ROLE {anna} LOGIN IN ROLE registryd_breakglass; CREATE ROLE {boris} LOGIN IN ROLE registryd_approver")
    try:

        def as_person(person: str, *words: str, number: str = "") -> Result:
            arguments = ["breakglass", *words, "--dsn", site.database.dsn(person)]  # no configuration and no secret
            return CliRunner().invoke(main, arguments, input=number, catch_exceptions=False)

        messenger = asyncio.run(site.add_messenger())

        async def query(api: str) -> None:
            async with client(api, messenger) as session:
                answer = await session.post("/v1/presence", json={"phoneNumber": "+79010800002", "identificationCode": "u-1"})
                assert answer.status == 200

        assert as_person(anna, "request", "--reason", "complaint 17", number="8 901").exit_code == 2
        asked = as_person(anna, "request", "--reason", "complaint 17", number="+79010800002\n")
        assert (asked.exit_code, "approve 1" in asked.stdout) == (0, True)
        assert "not prepared yet" in as_person(boris, "list").stdout
        with daemon(site, "answer", "operate") as running:
            asyncio.run(query(running.api))
            wait_for(lambda: json.loads(as_person(boris, "list", "--json").stdout)[0]["isPrepared"])
        refused = as_person(anna, "look", "1")
        assert (refused.exit_code, "nobody has approved" in refused.stderr) == (1, True)
        assert as_person(anna, "approve", "1").exit_code == 1
        (waiting,) = json.loads(as_person(boris, "list", "--json").stdout)
        assert (waiting["number"], waiting["reason"]) == ("+7901*****02", "complaint 17")
        assert "+7901*****02" in as_person(boris, "list").stdout
        assert as_person(boris, "approve", "1").exit_code == 0
        seen = json.loads(as_person(anna, "look", "1", "--json").stdout)
        assert [(row["kind"], row["messenger"], row["outcome"]) for row in seen] == [
            ("contract", None, "active"),
            ("binding", messenger.name, "live"),
            ("query", messenger.name, "present"),
        ]
        assert as_person(anna, "look", "1").exit_code == 1
    finally:
        site.database.psql("-c", f"DROP ROLE {anna}, {boris}")
