"""The verifiers that http/README.md gives for v1a: taken from there as they stand, they take what is really pushed and nothing else."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from registryd import resources
from registryd.delivery import signing
from registryd.domain.identifiers import MessengerId
from registryd.domain.secret import SigningSecret
from registryd.store import messengers
from registryd.store.secretbox import SecretBox
from tests.conftest import Site, eventually
from tests.delivery.conftest import delivering, listening, looking

PYTHON = """
import json, sys
cases = json.load(sys.stdin)
print(json.dumps([is_ours(case["key"], case["headers"], case["body"].encode()) for case in cases]))
"""
NODE = """
const cases = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
console.log(JSON.stringify(cases.map(({ key, headers, body }) => isOurs(key, headers, Buffer.from(body)))));
"""
WEBHOOK = ("webhook-id", "webhook-timestamp", "webhook-signature")


def written(language: str) -> str:
    """The README's verifier."""
    text = resources.path("registryd/http/README.md").read_text()
    [found] = re.findall(rf"```{language}\n(.*?)```", text[text.index("## Verifying pushes") :], re.DOTALL)
    return str(found)


@pytest.fixture(scope="module", params=["python", "js"])
def verifier(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that judges cases by a verifier of the README."""
    program, harness = (sys.executable, PYTHON) if request.param == "python" else (shutil.which("node"), NODE)
    if program is None:
        pytest.skip("node is not installed here")
    path: Path = tmp_path_factory.mktemp("verifier") / f"verify.{request.param}"
    path.write_text(written(request.param) + harness)
    return [program, str(path)]


async def pushed(site: Site) -> tuple[str, dict[str, str], str, SigningSecret]:
    """The public key, the headers and the body of a push that really left, and the private key."""
    pair = signing.new_secret("ed25519")
    async with listening() as endpoint, looking(site.database) as database, delivering(site):
        messenger = await site.add_messenger(endpoint=endpoint.url)
        async with site.database.pool() as db, db.transaction() as connection:
            await messengers.add_secret(connection, SecretBox(site.secrets_key), MessengerId(messenger.messenger_id), pair)
        await database.owe(messenger, 'a code with "quotes" \\ and ~')
        await eventually(lambda: endpoint.received)
        received = endpoint.received[0]
        return signing.shown(pair), {name: received.headers[name] for name in WEBHOOK}, received.body.decode(), pair


def test_a_verifier_of_the_readme_takes_a_real_push_and_nothing_else(site: Site, verifier: list[str]) -> None:
    key, headers, body, pair = asyncio.run(pushed(site))
    assert headers["webhook-signature"].startswith("v1,"), "v1 and v1a come together"
    hour_ago = int(time.time()) - 3_600
    old = {**headers, "webhook-timestamp": str(hour_ago)}
    old["webhook-signature"] = signing.signature([pair], headers["webhook-id"], hour_ago, body.encode())
    cases: list[tuple[str, dict[str, str], str, bool]] = [
        (key, headers, body, True),
        (key, headers, body + " ", False),
        (signing.shown(signing.new_secret("ed25519")), headers, body, False),
        (key, old, body, False),
        (key, {**headers, "webhook-id": "msg_other"}, body, False),
        (key, {**headers, "webhook-timestamp": "now"}, body, False),
        (key, {**headers, "webhook-signature": "v1a,*** v1a v9,x"}, body, False),
        *((key, {name: value for name, value in headers.items() if name != absent}, body, False) for absent in WEBHOOK),
    ]
    sent = json.dumps([{"key": key, "headers": given, "body": text} for key, given, text, _ in cases])
    done = subprocess.run(verifier, input=sent, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    told: list[Any] = json.loads(done.stdout)
    assert told == [expected for *_, expected in cases]
