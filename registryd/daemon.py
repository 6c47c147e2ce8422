"""The daemon's life: one screen from settings to READY=1, one from SIGTERM to the end.

Owns: the wiring, the background work and the signals. Never does: SQL, a rule, an answer.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path

from registryd import config, observe, sdnotify
from registryd.config import Settings
from registryd.delivery import wakeup
from registryd.delivery.announcer import Announcer
from registryd.delivery.dispatcher import Dispatcher
from registryd.delivery.egress import Egress
from registryd.delivery.identity import endpoint_tls
from registryd.delivery.push import Pusher
from registryd.domain.errors import Unavailable
from registryd.feed.events import ContractFeed
from registryd.http import sockets, transport
from registryd.http.auth import REFRESH_S, Directory, OperatorToken
from registryd.http.health import database_checks, health_routes
from registryd.http.messenger import messenger_app
from registryd.http.operator import OperatorHandlers, operator_app
from registryd.keep import jobs, timer
from registryd.keep.timer import Job
from registryd.presence.answerer import Answerer, connections_needed
from registryd.presence.quota import QuotaGuard
from registryd.store import days, digest_keys, migrations, reports
from registryd.store.pool import Database
from registryd.store.secretbox import digest_box, signing_box

QUOTA_EXCHANGE_S = 1.0
KEY_USE_S = 30.0
DIGEST_KEY_S = 60.0
CLOSE_TIMEOUT_S = 15.0


def database(settings: Settings, name: str, size: int | None = None) -> Database:
    """A pool of the daemon's, not yet entered; `size`: [database] pool_size unless another is given."""
    section = settings.file.database
    return Database(
        section.dsn,
        size=section.pool_size if size is None else size,
        connect_timeout_s=section.connect_timeout_s,
        command_timeout_s=section.command_timeout_s,
        password=settings.credentials.text("database-password"),
        name=name,
    )


async def serve(settings: Settings, instance: int = 1, on_ready: Callable[[], None] = lambda: None) -> None:
    """Serves until SIGTERM or SIGINT. `instance`: 1 for registryd@1, and so on; the operator API listens on its port plus instance - 1.

    Raises: ConfigError, SchemaMismatch, Unavailable (the database is away at the start).
    """
    observe.configure(settings.file.log.level)
    transport.assert_c_parser()
    api, delivery, credentials = settings.file.api, settings.file.delivery, settings.credentials
    async with AsyncExitStack() as stack:
        db = await stack.enter_async_context(database(settings, f"registryd@{instance}"))
        # Answers have connections of their own, one for each statement that may run and one for what admission reads: no other route
        # makes them wait.
        size = connections_needed(settings.file.presence.statements_in_flight) + 1
        answers = await stack.enter_async_context(database(settings, f"registryd@{instance} answers", size))
        deliveries = await stack.enter_async_context(database(settings, f"registryd@{instance} delivery", 4))
        async with db.connection() as connection:
            await migrations.check(connection)
        journal_box, box = digest_box(credentials), signing_box(credentials)
        pusher = await stack.enter_async_context(
            Pusher(deliveries, box, Egress.of(delivery), lambda messenger: endpoint_tls(credentials, messenger))
        )
        operator_socket = sockets.bind(operator_address(settings, instance))
        worker = worker_name(sockets.address(operator_socket))
        directory, quota = Directory(answers), QuotaGuard(answers)
        limits = settings.file.presence
        answerer = Answerer(
            answers,
            await digest_keys.read_current(db, journal_box, datetime.now(UTC).date()),
            statements_in_flight=limits.statements_in_flight,
            group_max=limits.group_max,
            queue_max=limits.queue_max,
        )
        dispatcher, announcer = Dispatcher(deliveries, pusher, worker, delivery.concurrency), Announcer(deliveries, pusher)
        feed = ContractFeed(db, credentials.key("feed-key"))
        messengers = messenger_app(api, db, directory, answerer, quota)
        operators = operator_app(
            api,
            OperatorToken(db, credentials.required("operator-token")),
            OperatorHandlers(feed.apply),
            health_routes(lambda: database_checks(db)),
        )
        await directory.refresh()
        await quota.exchange()
        await reports.end_long(db)  # one may hold what the next call waits for
        await days.make_partitions(db)

        tls = sockets.Tls(credentials)
        tls_context = tls.context()
        api_sockets = sdnotify.listen_sockets() or [sockets.bind(api.listen)]
        if tls_context is None:
            for sock in api_sockets:
                sockets.refuse_plain(sock)
        api_listener = transport.Listener("messenger", messengers, api)
        operator_listener = transport.Listener("operator", operators, api)
        await api_listener.listen(api_sockets, tls_context)
        await operator_listener.listen([operator_socket], None)

        async def rotate_digest_key() -> None:
            answerer.digest_key = await digest_keys.read_current(db, journal_box, datetime.now(UTC).date())

        background = [
            asyncio.create_task(dispatcher.run(), name="dispatcher"),
            asyncio.create_task(announcer.run(), name="announcer"),
            asyncio.create_task(wakeup.listen(deliveries, dispatcher, announcer), name="wakeup"),
            _every("directory", REFRESH_S, directory.refresh),
            _every("quota", QUOTA_EXCHANGE_S, quota.exchange),
            _every("digest key", DIGEST_KEY_S, rotate_digest_key),
            _every("key use", KEY_USE_S, directory.record_use),
            *timer.start(jobs.jobs(db, journal_box)),
        ]
        watchdog_s = sdnotify.watchdog_interval_s()
        if watchdog_s is not None:
            background.append(_every("watchdog", watchdog_s, _feed_watchdog))
        spare_the_collector()
        stop = _signals(lambda: _reload(settings, directory, tls, tls_context))
        observe.ready.set(1)
        observe.event(
            "started", instance=instance, api=[sockets.address(s) for s in api_sockets], operator=sockets.address(operator_socket)
        )
        sdnotify.ready("serving")
        on_ready()
        await stop.wait()

        sdnotify.stopping()
        observe.ready.set(0)
        observe.event("stopping")
        messengers.draining = operators.draining = True
        lanes_ended = asyncio.create_task(dispatcher.stop())
        await asyncio.gather(api_listener.drain(), operator_listener.drain())
        await asyncio.gather(api_listener.close(CLOSE_TIMEOUT_S), operator_listener.close(CLOSE_TIMEOUT_S))
        await answerer.drain()
        await lanes_ended
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        for last in (quota.exchange, directory.record_use):
            try:
                await last()
            except Unavailable:
                observe.event("database_away", "warning", where="stopping")
        observe.event("stopped")


def spare_the_collector() -> None:
    """What is there now stays for good, and a request leaves no cycle behind: the collector need not look so often (a tenth of the CPU)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def worker_name(address: str, machine_id: Path = Path("/etc/machine-id")) -> str:
    """A name that is this worker's alone, and still its own after a crash: it need not wait for its former lease to lapse.

    `address`: its operator listener's, which no other worker of this host has. A hostname may be several hosts'; machine-id(5) is one's
    alone, and is to be hashed where it is shown. A host without one goes by its hostname.
    """
    try:
        host = f"{socket.gethostname()} {blake2b(machine_id.read_bytes(), digest_size=6, person=b'registryd worker').hexdigest()}"
    except OSError:
        host = socket.gethostname()
    return f"{host} {address}"


def operator_address(settings: Settings, instance: int) -> str:
    """Each instance's operator API has a port of its own, so that each can be asked for its health and metrics."""
    listen = settings.file.operator.listen
    if listen.startswith("unix:"):
        return listen if instance == 1 else f"{listen}.{instance}"
    host, _, port = listen.rpartition(":")
    return f"{host}:{int(port) + instance - 1}" if int(port) else listen


def _every(name: str, seconds: float, work: Callable[[], Awaitable[object]]) -> asyncio.Task[None]:
    return asyncio.create_task(timer.repeat(Job(name, seconds, work)), name=name)


async def _feed_watchdog() -> None:
    # From the loop and nothing else: a database that is away must not make systemd restart us.
    sdnotify.notify("WATCHDOG=1")


def _signals(reload: Callable[[], Coroutine[None, None, None]]) -> asyncio.Event:
    """The event that SIGTERM and SIGINT set; SIGHUP reloads."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    running: set[asyncio.Task[None]] = set()

    def on_hangup() -> None:
        task = asyncio.create_task(reload())
        running.add(task)
        task.add_done_callback(running.discard)

    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, stop.set)
    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    return stop


async def _reload(settings: Settings, directory: Directory, tls: sockets.Tls, context: ssl.SSLContext | None) -> None:
    """Log level, messengers, keys and the TLS certificate; everything else needs a restart. What cannot be read leaves all as it was."""
    sdnotify.reloading()
    try:
        fresh = config.load(settings.path)
        if context is not None:
            tls.load(context)
        await directory.refresh()
        observe.event("reloaded", log_level=fresh.file.log.level)
        observe.configure(fresh.file.log.level)
    except (config.ConfigError, Unavailable) as error:
        observe.event("background_failed", "error", where="reload", kind=type(error).__name__, reason=str(error))
    sdnotify.ready("serving")
