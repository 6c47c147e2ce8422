"""Endpoints that say what they like, byte by byte, and one notice that is pushed to them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from registryd.delivery import signing
from registryd.delivery.egress import Egress
from registryd.delivery.push import Pusher
from registryd.domain.notification import Notification, Outcome
from registryd.store.secretbox import SecretBox
from tests.delivery.conftest import LOOPBACK, database_away

NOW = datetime.now(UTC)
NOTICE = Notification(uuid4(), NOW + timedelta(hours=24), 79161234567, 1, "u-81f3", NOW, NOW, 0)


@asynccontextmanager
async def pushing(guard: Egress = LOOPBACK) -> AsyncIterator[Callable[[str], Awaitable[Outcome]]]:
    signer = signing.Signer([signing.new_secret()])
    async with Pusher(database_away(), SecretBox(b"k" * 32), guard) as pusher:

        async def outcome(url: str) -> Outcome:
            return await pusher.channel(url, url).push(signer, [NOTICE], with_phone_number=False)

        yield outcome


@asynccontextmanager
async def raw_server(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """A server that says what it likes; its URL."""

    serving: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        serving.add(task)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await task
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()
        for task in serving:
            task.cancel()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    await reader.readexactly(length)
    return head


def self_signed(directory: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(NOW - timedelta(days=1)).not_valid_after(NOW + timedelta(days=1))
    path = directory / "self-signed.pem"
    pem = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    path.write_bytes(pem + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context
