"""A messenger's endpoint that answers as it is told, what is owed to it, and the delivery of the daemon in this process."""

from __future__ import annotations

import asyncio
import socket
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest
import uvloop
from aiohttp.web import BaseRequest, Response, Server
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from registryd.delivery import signing, wakeup
from registryd.delivery.announcer import Announcer
from registryd.delivery.dispatcher import Dispatcher
from registryd.delivery.egress import Egress
from registryd.delivery.push import Pusher
from registryd.delivery.timing import TIMING, Timing
from registryd.domain.secret import SigningSecret
from registryd.keep import digests
from registryd.store.pool import Database
from registryd.store.secretbox import SecretBox
from tests.conftest import Site, TestDatabase, TestMessenger

LOOPBACK = Egress(["127.0.0.0/8"], allow_http=True)
DAY = timedelta(hours=24)
FIRST_NUMBER = 79_160_000_001


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """On production's loop too, where what an endpoint does may arrive in another order."""
    monkeypatch.setattr(asyncio, "run", request.param)


@dataclass(frozen=True)
class Received:
    """One request as it came."""

    at: float
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        return dict(orjson.loads(self.body))

    @property
    def notifications(self) -> list[dict[str, Any]]:
        return list(self.event["data"]["notifications"])

    @property
    def ids(self) -> list[str]:
        return [n["notificationId"] for n in self.notifications]

    @property
    def codes(self) -> list[str]:
        return [n["identificationCode"] for n in self.notifications]


def is_signed_by_key(public: str, message_id: str, timestamp: str | int, body: bytes, signatures: str) -> bool:
    """An integrator's check of v1a, on `cryptography` alone."""
    key = Ed25519PublicKey.from_public_bytes(b64decode(public.removeprefix("whpk_")))
    for given in signatures.split(" "):
        if given.startswith("v1a,"):
            try:
                key.verify(b64decode(given.removeprefix("v1a,")), f"{message_id}.{timestamp}.".encode() + body)
            except InvalidSignature:
                continue
            return True
    return False


def is_verified(received: Received, secret: SigningSecret) -> bool:
    """The check of the library that integrators use; its clock included."""
    if secret.kind == "ed25519":
        headers = received.headers
        message = headers["webhook-id"], headers["webhook-timestamp"], received.body, headers["webhook-signature"]
        return is_signed_by_key(signing.shown(secret), *message)
    try:
        Webhook(signing.shown(secret)).verify(received.body, received.headers)
    except WebhookVerificationError:
        return False
    return True


Answer = int | Response | Awaitable[Response]


@dataclass
class Endpoint:
    """A real HTTP server: keeps what it received and answers what `answer` says to it."""

    answer: Callable[[Received], Answer] = lambda _: 204
    received: list[Received] = field(default_factory=list)
    url: str = ""

    @property
    def ids(self) -> list[str]:
        return [i for received in self.received for i in received.ids]

    @property
    def codes(self) -> list[str]:
        return [code for received in self.received for code in received.codes]

    async def handle(self, request: BaseRequest) -> Response:
        body = await request.read()
        received = Received(time.time(), {name.lower(): value for name, value in request.headers.items()}, body)
        self.received.append(received)
        answer = self.answer(received)
        if isinstance(answer, int):
            return Response(status=answer)
        return answer if isinstance(answer, Response) else await answer


@asynccontextmanager
async def listening(answer: Callable[[Received], Answer] = lambda _: 204, port: int = 0) -> AsyncIterator[Endpoint]:
    endpoint = Endpoint(answer)
    http = Server(endpoint.handle, access_log=None)
    server = await asyncio.get_running_loop().create_server(http, "127.0.0.1", port)
    endpoint.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/notices"
    try:
        yield endpoint
    finally:
        server.close()
        await http.shutdown(0.1)


def answer_after(hold: asyncio.Event, status: int = 204) -> Callable[[Received], Answer]:
    """For `listening`: an endpoint that keeps each push waiting until `hold` is set."""

    async def answer(_: Received) -> Response:
        await hold.wait()
        return Response(status=status)

    return answer


class Lookup:
    """What the database says, and what a DBA does there."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self.connection = connection

    async def value(self, statement: str, *args: Any) -> Any:
        return await self.connection.fetchval(statement, *args)

    async def rows(self, statement: str, *args: Any) -> list[tuple[Any, ...]]:
        return [tuple(row.values()) for row in await self.connection.fetch(statement, *args)]

    async def run(self, statement: str, *args: Any) -> None:
        await self.connection.execute(statement, *args)

    async def pending(self) -> int:
        return int(await self.value("SELECT count(*) FROM registry.notification"))

    async def none_pending(self) -> bool:
        return await self.pending() == 0

    async def delivered(self, via: str = "push") -> int:
        return int(await self.value("SELECT count(*) FROM registry.notification_delivered WHERE via = $1::registry.delivery_channel", via))

    async def time_passes(self) -> None:
        """Every wait that the registry has imposed on itself is over."""
        # The table's lock comes first: an update of many rows could meet a lane's that has some of them, each waiting for the other.
        await self.run("LOCK TABLE registry.notification IN EXCLUSIVE MODE; UPDATE registry.notification SET not_before = now()")
        await self.run("UPDATE registry.lane SET gate_until = now() WHERE gate_until IS NOT NULL")

    async def bind(self, messenger: TestMessenger, *codes: str, first: int = FIRST_NUMBER) -> None:
        """A live contract with a binding for each code, on numbers from `first` on."""
        await self.run(
            "INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at)"
            " SELECT $1 + n, 1, 'active', 'individual', 'not_required', '2020-01-01' FROM generate_series(0, $2::bigint - 1) AS n",
            first,
            len(codes),
        )
        await self.run(
            "INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code)"
            " SELECT $1 + number - 1, 1, $2, code FROM unnest($3::text[]) WITH ORDINALITY AS c(code, number)",
            first,
            messenger.messenger_id,
            list(codes),
        )

    async def terminate(self, code: str, ended_at: datetime) -> None:
        await self.run(
            "UPDATE registry.contract AS c SET ended_at = $2 FROM registry.binding AS b"
            " WHERE b.identification_code = $1 AND b.ended_at IS NULL AND c.msisdn = b.msisdn AND c.generation = b.generation",
            code,
            ended_at,
        )

    async def owe(self, messenger: TestMessenger, *codes: str, first: int = FIRST_NUMBER, deadline_in: timedelta = DAY) -> None:
        """A notification for each code, in the order of their deadlines; the last one's is `deadline_in` from now."""
        await self.bind(messenger, *codes, first=first)
        newest = datetime.now(UTC) + deadline_in - DAY
        for index, code in enumerate(codes):
            await self.terminate(code, newest - timedelta(seconds=len(codes) - 1 - index))

    async def id_of(self, code: str) -> UUID:
        return UUID(
            str(
                await self.value(
                    "SELECT notification_id FROM registry.notification WHERE identification_code = $1"
                    " UNION ALL SELECT notification_id FROM registry.notification_delivered WHERE identification_code = $1",
                    code,
                )
            )
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def codes(count: int, prefix: str = "c") -> list[str]:
    return [f"{prefix}{n:04}" for n in range(count)]


async def is_idle(database: Lookup) -> bool:
    """No lane is leased: whatever was to be settled, is."""
    return bool(await database.value("SELECT NOT EXISTS (SELECT FROM registry.lane WHERE owner IS NOT NULL)"))


async def is_gated(database: Lookup) -> bool:
    return bool(await database.value("SELECT EXISTS (SELECT FROM registry.lane WHERE gate_until IS NOT NULL AND owner IS NULL)"))


def lanes_at_work() -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("lane ")]


async def steal(database: Lookup, name: str) -> None:
    """Another worker takes the lane."""
    await database.run(
        "UPDATE registry.lane AS l SET owner = 'thief', token = token + 1, lease_until = now() + interval '1 hour'"
        " FROM registry.messenger AS m WHERE m.messenger_id = l.messenger_id AND m.name = $1",
        name,
    )


@asynccontextmanager
async def looking(database: TestDatabase) -> AsyncIterator[Lookup]:
    async with database.connect() as connection:
        yield Lookup(connection)


@asynccontextmanager
async def delivering(
    site: Site,
    *,
    concurrency: int = 4,
    jitter: Callable[[], float] = lambda: 0.0,
    clock: Callable[[], float] = time.monotonic,
    owner: str = "this-worker",
    timing: Timing = TIMING,
) -> AsyncIterator[Dispatcher]:
    """The daemon's delivery, in this process."""
    async with site.database.pool() as db, Pusher(db, SecretBox(site.secrets_key), LOOPBACK) as pusher:
        dispatcher = Dispatcher(db, pusher, owner, concurrency, clock=clock, jitter=jitter, timing=timing)
        running = asyncio.create_task(dispatcher.run())
        hearing = asyncio.create_task(wakeup.listen(db, dispatcher, Announcer(db, pusher)))
        try:
            yield dispatcher
        finally:
            hearing.cancel()
            await dispatcher.stop()
            await running


async def send_digests(site: Site, workers: int = 1) -> None:
    """What operate processes and deliver processes do every few seconds: make the digests, and push them."""
    async with site.database.pool() as db, Pusher(db, SecretBox(site.secrets_key), LOOPBACK) as pusher:
        await asyncio.gather(*(digests.make(db) for _ in range(workers)))
        await asyncio.gather(*(Announcer(db, pusher).push_due() for _ in range(workers)))


def database_away() -> Database:
    """A pool that nobody connects with: for pushes, which need no database."""
    return Database("postgresql://nobody@/nothing?host=/nonexistent", size=1, connect_timeout_s=1, command_timeout_s=1)
