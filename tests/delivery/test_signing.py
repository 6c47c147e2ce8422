"""Signatures: what really leaves for an endpoint is verified by other people's libraries, and the vectors given to integrators hold."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from registryd.client.receiver import Receipt, Receiver
from registryd.delivery import signing
from registryd.domain.identifiers import MessengerId
from registryd.domain.secret import SigningSecret
from registryd.store import messengers
from registryd.store.secretbox import SecretBox
from tests.conftest import Site, TestMessenger, eventually
from tests.delivery.conftest import Received, delivering, is_signed_by_key, is_verified, listening, looking

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "vectors.json").read_text())["vectors"]


def signatures(received: Received) -> list[str]:
    return received.headers["webhook-signature"].split(" ")


async def add_secret(site: Site, messenger: TestMessenger, kind: str = "hmac_sha256") -> SigningSecret:
    secret = signing.new_secret(kind)
    async with site.database.pool() as db, db.transaction() as connection:
        await messengers.add_secret(connection, SecretBox(site.secrets_key), MessengerId(messenger.messenger_id), secret)
    return secret


def test_published_vector_holds() -> None:
    secret = signing.from_shown("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    assert signing.from_shown("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw") == secret
    made = signing.signature([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_vectors_for_integrators_hold(vector: dict[str, Any]) -> None:
    message_id, timestamp, body, given = vector["id"], vector["timestamp"], vector["body"].encode(), vector["signature"]
    ours = [signing.signature([signing.from_shown(shown)], message_id, timestamp, body) for shown in vector["secrets"]]
    verified = any(signature in given.split(" ") for signature in ours)
    verified |= any(is_signed_by_key(public, message_id, timestamp, body, given) for public in vector.get("publicKeys", ()))
    assert verified is vector["valid"]


VERIFIER = """
const { Webhook } = require("standardwebhooks");
const told = JSON.parse(require("fs").readFileSync(0, "utf8")).map(({ secret, headers, body }) => {
  try { new Webhook(secret).verify(body, headers); return true; } catch { return false; }
});
console.log(JSON.stringify(told));
"""


@pytest.fixture(scope="module")
def node_verifies(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[dict[str, Any]]], list[bool]]:
    """npm's standardwebhooks: which of some messages it verifies."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are not installed here")
    directory = tmp_path_factory.mktemp("node")
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(directory)]
    try:
        subprocess.run([npm, "install", *options, "standardwebhooks@1.0.0"], check=True, capture_output=True, timeout=60)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip("npm could not install standardwebhooks here")

    def verified(messages: list[dict[str, Any]]) -> list[bool]:
        done = subprocess.run(
            [node, "-e", VERIFIER], input=json.dumps(messages), cwd=directory, check=True, capture_output=True, text=True, timeout=60
        )
        return list(json.loads(done.stdout))

    return verified


def test_what_is_pushed_is_verified_by_npms_library_too(site: Site, node_verifies: Callable[[list[dict[str, Any]]], list[bool]]) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database, delivering(site):
            messenger = await site.add_messenger(endpoint=endpoint.url)
            second = await add_secret(site, messenger)
            await add_secret(site, messenger, "ed25519")
            await database.owe(messenger, 'a code with "quotes" \\ and ~')
            await eventually(lambda: endpoint.received)
            headers = {name: value for name, value in endpoint.received[0].headers.items() if name.startswith("webhook-")}
            body = endpoint.received[0].body.decode()
            cases = [
                (messenger.secret, headers, body),
                (second, headers, body),
                (signing.new_secret(), headers, body),
                (second, headers, body + " "),
                (second, headers | {"webhook-id": "msg_other"}, body),
            ]
            messages = [{"secret": signing.shown(secret), "headers": sent, "body": text} for secret, sent, text in cases]
            assert node_verifies(messages) == [True, True, False, False, False]

    asyncio.run(run())


def test_secret_survives_being_shown() -> None:
    secret = signing.new_secret()
    assert signing.from_shown(signing.shown(secret)) == secret
    assert signing.shown(signing.new_secret("ed25519")).startswith("whpk_"), "of an ed25519 pair, the public half alone is shown"
    with pytest.raises(ValueError, match=r"base64|padding|Only"):
        signing.from_shown("whsec_not base64")


@pytest.mark.parametrize("kind", ["hmac_sha256", "ed25519"])
def test_a_message_is_verified_with_what_the_messenger_was_shown(kind: str) -> None:
    secret, other = signing.new_secret(kind), signing.new_secret(kind)
    key, stranger = (signing.key_from_shown(signing.shown(one)) for one in (secret, other))
    signatures = signing.signature([signing.new_secret(), secret, signing.new_secret("ed25519")], "msg_1", 1_767_323_047, b"{}")
    assert signing.is_signed(key, "msg_1", "1767323047", signatures, b"{}")
    assert not signing.is_signed(stranger, "msg_1", "1767323047", signatures, b"{}")
    for changed in (
        ("msg_2", "1767323047", signatures, b"{}"),
        ("msg_1", "1767323048", signatures, b"{}"),
        ("msg_1", "now", signatures, b"{}"),
        ("msg_1", "²", signatures, b"{}"),
        ("msg_1", "١٧٦٧٣٢٣٠٤٧", signatures, b"{}"),
        ("msg_1", "1" * 5000, signatures, b"{}"),
        ("msg_1", "1767323047", f"v1,é v1a,é {signatures}"[:-1], b"{}"),
        ("msg_\udce9", "1767323047", signatures, b"{}"),
        ("msg_1", "1767323047", "v1,AAAA v1a,AAAA v1a,no base64 v1a", b"{}"),
        ("msg_1", "1767323047", signatures, b"[]"),
    ):
        assert not signing.is_signed(key, *changed)
    with pytest.raises(ValueError, match="32"):
        signing.key_from_shown("whpk_AAAA")


@pytest.mark.parametrize("kind", ["hmac_sha256", "ed25519"])
@pytest.mark.parametrize("header", ["webhook-id", "webhook-timestamp", "webhook-signature"])
@pytest.mark.parametrize("text", ["²".encode(), b"\xe9", b"1" * 5000])
def test_receiver_answers_401_to_headers_that_nobody_signs(kind: str, header: str, text: bytes) -> None:
    async def run() -> None:
        secret, now = signing.new_secret(kind), int(time.time())
        receipts: list[Receipt] = []
        async with Receiver(signing.key_from_shown(signing.shown(secret)), on_receipt=receipts.append) as receiver:
            signatures = signing.signature([secret], "msg_1", now, b"{}")
            sent = {"webhook-id": "msg_1", "webhook-timestamp": str(now), "webhook-signature": signatures}
            for headers, status in ((sent, 204), (sent | {header: text.decode("utf-8", "surrogateescape")}, 401)):
                lines = [f"{name}: {value}" for name, value in headers.items()]
                head = "\r\n".join(["POST / HTTP/1.1", "Host: localhost", "Content-Length: 2", "Connection: close", *lines, "", ""])
                url = urlsplit(receiver.url)
                reader, writer = await asyncio.open_connection(url.hostname, url.port)
                writer.write(head.encode("utf-8", "surrogateescape") + b"{}")
                assert (await reader.readline()).split()[1] == str(status).encode()
                writer.close()
            assert [receipt.verified for receipt in receipts] == [True, False]

    asyncio.run(run())


@pytest.mark.parametrize("body", [b"no JSON", b"[]", b'{"data": []}', b'{"data": {"notifications": [{}]}}'])
def test_receiver_answers_401_to_a_body_that_nobody_signed_and_reads_no_notices_in_it(body: bytes) -> None:
    async def run() -> None:
        read: list[list[dict[str, Any]]] = []
        async with (
            Receiver(signing.new_secret(), on_receipt=lambda receipt: read.append(receipt.notifications)) as receiver,
            aiohttp.ClientSession() as session,
            session.post(receiver.url, data=body) as answer,
        ):
            assert (answer.status, read) == (401, [[]])

    asyncio.run(run())


def test_what_is_pushed_is_verified_by_the_library_under_every_live_secret(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database, delivering(site):
            messenger = await site.add_messenger(endpoint=endpoint.url)
            await database.owe(messenger, 'a code with "quotes" \\ and ~')
            await eventually(lambda: endpoint.received)
            assert is_verified(endpoint.received[0], messenger.secret)
            assert len(signatures(endpoint.received[0])) == 1
            assert not is_verified(endpoint.received[0], signing.new_secret()), "the check can fail"

            second, pair = await add_secret(site, messenger), await add_secret(site, messenger, "ed25519")
            await database.owe(messenger, "during-rotation", first=79_160_000_002)
            await eventually(lambda: len(endpoint.received) == 2)
            rotating = endpoint.received[1]
            assert [is_verified(rotating, secret) for secret in (messenger.secret, second, pair)] == [True] * 3
            assert sorted(signature.partition(",")[0] for signature in signatures(rotating)) == ["v1", "v1", "v1a"]

            await database.run("UPDATE registry.messenger_secret SET expires_at = now() WHERE secret_id = 1")
            await database.owe(messenger, "after-rotation", first=79_160_000_003)
            await eventually(lambda: len(endpoint.received) == 3)
            assert [is_verified(endpoint.received[2], secret) for secret in (messenger.secret, second, pair)] == [False, True, True]
            assert len(signatures(endpoint.received[2])) == 2

    asyncio.run(run())


def test_retry_has_the_same_id_and_body_and_a_timestamp_of_its_own(site: Site) -> None:
    async def run() -> None:
        statuses = iter([500, 204])
        async with listening(lambda _: next(statuses)) as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            await database.owe(messenger, "a")
            async with delivering(site):
                await eventually(database.none_pending)
            first, *retries = endpoint.received
            assert len(retries) == 1
            assert {received.headers["webhook-id"] for received in endpoint.received} == {f"msg_{(await database.id_of('a')).hex}"}
            assert {received.body for received in endpoint.received} == {first.body}
            assert all(is_verified(received, messenger.secret) for received in endpoint.received)
            timestamps = [int(received.headers["webhook-timestamp"]) for received in endpoint.received]
            assert timestamps[-1] > timestamps[0]
            assert all(0 <= received.at - timestamp < 2 for received, timestamp in zip(endpoint.received, timestamps, strict=True))

    asyncio.run(run())


def test_nothing_is_pushed_unsigned(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            await database.owe(messenger, "a")
            await database.run("UPDATE registry.messenger_secret SET expires_at = now()")
            async with delivering(site):
                found = await eventually(lambda: database.value("SELECT last_error FROM registry.lane WHERE gate_until IS NOT NULL"))
                assert found == "no signing secret is live"
                assert endpoint.received == []
                secret = await add_secret(site, messenger)
                await database.time_passes()
                await eventually(database.none_pending)
            assert is_verified(endpoint.received[0], secret)

    asyncio.run(run())


def test_secrets_under_another_key_gate_the_lane_until_they_are_mended(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            await database.owe(messenger, "a")
            sealed = await database.value("SELECT ciphertext FROM registry.messenger_secret")
            await database.run("UPDATE registry.messenger_secret SET ciphertext = set_byte(ciphertext, 20, 255 - get_byte(ciphertext, 20))")
            async with delivering(site):
                found = await eventually(lambda: database.value("SELECT last_error FROM registry.lane WHERE gate_until IS NOT NULL"))
                assert found == "signing secrets cannot be decrypted"
                assert endpoint.received == []
                await database.run("UPDATE registry.messenger_secret SET ciphertext = $1", sealed)
                await database.time_passes()
                await eventually(database.none_pending)
            assert is_verified(endpoint.received[0], messenger.secret)

    asyncio.run(run())


def test_a_secret_that_lost_its_padding_is_the_same() -> None:
    for kind in ("hmac_sha256", "ed25519"):
        secret = signing.new_secret(kind)
        text = signing.shown(secret)
        assert text.endswith("=")
        signatures = signing.signature([secret], "msg_1", 1, b"x")
        for form in (text, text.rstrip("=")):
            assert signing.is_signed(signing.key_from_shown(form), "msg_1", "1", signatures, b"x")
