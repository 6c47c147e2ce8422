"""The life of a role's process: listen, wait for the database, work, drain, stop.

A process accepts connections once it can work; but where its database is away it accepts them too, and answers 503 until it is back.
SIGTERM and SIGINT stop it: for about two seconds every response then closes its connection, so that no request is lost behind a listener
that other processes share. SIGHUP reloads.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, TypeVar

from aiohttp.web import BaseRequest

from registryd import config, exposition, observe, sdnotify
from registryd.config import Settings
from registryd.domain.errors import Unavailable
from registryd.http import sockets, transport
from registryd.http.health import Door, Health
from registryd.http.reply import Reply
from registryd.http.sockets import Tls
from registryd.http.transport import Handler, Listener
from registryd.keep import timer
from registryd.keep.timer import Job
from registryd.roles import certificates, eventloop
from registryd.roles.heartbeat import Heartbeat
from registryd.roles.reload import Reload
from registryd.store import failures, migrations, pool
from registryd.store.commits import transaction_id
from registryd.store.outage import Outage
from registryd.store.pool import Database, fetch
from registryd.store.processes import BEAT_S

T = TypeVar("T")

RETRY_S = 0.2
"""How often the database is tried while a process waits for it."""
LOOK_S = 1.0
CLOSE_TIMEOUT_S = 15.0
"""How long a request under way may take to end."""
LAST_TIMEOUT_S = 5.0
"""How long the last writes of a process may take: a database that hangs must not hold up its end."""


class Stopped(Exception):
    """The process was told to stop before its work began."""


class Life:
    """One process. Use, in this order: `listen`, `wait` and `until`, `serve`, `drain`, `write_last`."""

    def __init__(self, settings: Settings, role: str, instance: int) -> None:
        self.settings = settings
        self.name = f"{role}@{instance}"
        self._facts: dict[str, Any] = {"role": role, "instance": instance, "version": exposition.VERSION}
        self._health_address = config.health_address(settings, role, instance)
        self._health = Health()
        self._status = ""
        self._outage = Outage()
        self._pools: list[Database] = []
        self._stop = asyncio.Event()
        self._hung_up = asyncio.Event()
        """SIGHUP has come since the last reload began."""
        self._stack = AsyncExitStack()
        self._inherited = sdnotify.listen_sockets()
        self._listeners: list[Listener] = []
        self._doors: list[Door] = []
        self._accepting: list[Callable[[], Awaitable[None]]] = []
        """Each lets a listener accept connections."""
        self.reload = Reload(settings)
        self.looks: list[Callable[[], Awaitable[str]]] = []
        """Each says why the role cannot do its work though the database is there; an empty text where it can."""
        self._background: list[asyncio.Task[None]] = []
        self._db: Database
        """By which the process looks whether it can do its work; `wait` sets it."""
        self._heartbeat: Heartbeat | None = None

    async def __aenter__(self) -> Life:
        """Raises: ConfigError."""
        observe.configure(self.settings.file.log.level, self.name)
        exposition.show(self._facts["role"], migrations.migrations()[-1].version)
        transport.assert_c_parser()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(eventloop.tell_failure)
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGINT, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up.set)
        self._background.append(asyncio.create_task(self._reload(), name="reload"))
        watchdog_s = sdnotify.watchdog_interval_s()
        if watchdog_s is not None:
            self._background += timer.start([Job("watchdog", watchdog_s, eventloop.feed_watchdog)], self._outage)
        health = Listener("health", self._health, self.settings.file.api)
        await health.listen(self._sockets("health", self._health_address), None)
        self._stack.push_async_callback(health.close, 1.0)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        await self._end_background()
        if kind is None and self._heartbeat is not None:
            await self._heartbeat.leave()
        await self._stack.aclose()
        if kind in (None, Stopped):
            observe.event("stopped", **self._facts)
        return kind is Stopped

    async def database(self, name: str, size: int) -> Database:
        """A pool for as long as the process lives. It connects when it is used."""
        made = await self._stack.enter_async_context(pool.of(self.settings, f"registryd {self.name} {name}", size))
        self._pools.append(made)
        return made

    def listen(self, name: str, address: str, closed: Callable[[BaseRequest], Reply | None] = lambda _: None) -> Door:
        """Prepares to listen for an API: on what systemd or the supervisor handed over under this name, else on `address`.

        `closed` may answer while the process cannot do its work.

        Raises: ConfigError, also where other machines could connect without TLS.
        """
        listening = self._sockets(name, address)
        tls = Tls(self.settings.credentials, "operator-client-ca" if name == "operator" else "client-ca")
        context = tls.context()
        if context is None:
            for sock in listening:
                sockets.refuse_plain(sock)
        else:
            self.reload.certificates.append(lambda: tls.load(context))
        door = Door(name, closed)
        listener = Listener(name, door, self.settings.file.api)
        self._doors.append(door)
        self._listeners.append(listener)
        self._accepting.append(lambda: listener.listen(listening, context))
        return door

    async def wait(self, db: Database) -> None:
        """Returns once the database is there and this program can work with its schema. Raises: SchemaMismatch; Stopped."""
        await self.until(lambda: _check(db))
        self._db = db

    async def until(self, load: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Calls `load` until the database is there and lets the role do it; its result. Raises: Stopped, and what else `load` raises."""
        while True:
            try:
                try:
                    return await self._unless_stopped(load())
                except failures.NOT_ALLOWED as lacking:
                    raise Unavailable from lacking
            except Unavailable as error:
                self._outage.lost(error, **self._facts)
                self._tell(f"waiting for the database: {failures.brief(error)}")
                await self._accept()
            await self._unless_stopped(asyncio.sleep(RETRY_S))

    async def serve(self, handlers: Mapping[Door, Handler], jobs: Sequence[Job]) -> None:
        """Opens the doors and starts the jobs; returns when the process is told to stop."""
        for door, handler in handlers.items():
            door.handler = handler
        await self._accept()
        await self._look()
        self._heartbeat = Heartbeat(self._db, self._facts["role"], self._facts["instance"])
        beat = Job("heartbeat", BEAT_S, self._heartbeat.beat)
        ends = Job("certificates", certificates.DAY_S, lambda: certificates.watch(self.settings.credentials))
        self._background += timer.start([Job("health", LOOK_S, self._keep_looking), beat, ends, timer.LAG, *jobs], self._outage)
        observe.event("started", **self._facts)
        await self._stop.wait()
        self._tell("stopping")
        sdnotify.stopping()
        observe.event("stopping", **self._facts)

    async def drain(self) -> None:
        """Lets the connections of the APIs end, each with an answer."""
        await asyncio.gather(*(listener.drain() for listener in self._listeners))
        await asyncio.gather(*(listener.close(CLOSE_TIMEOUT_S) for listener in self._listeners))

    async def write_last(self, *writes: Callable[[], Awaitable[object]]) -> None:
        """Does the last writes of the process, at the same time. What the database does not take in time is lost and logged."""
        await self._end_background()
        try:
            async with asyncio.timeout(LAST_TIMEOUT_S):
                await asyncio.gather(*(write() for write in writes))
        except (Unavailable, TimeoutError):
            observe.event("last_writes_lost", "warning")

    async def _accept(self) -> None:
        """Lets the APIs' listeners accept connections, once."""
        accepting, self._accepting = self._accepting, []
        for accept in accepting:
            await accept()

    def _sockets(self, name: str, address: str) -> list[socket.socket]:
        found = self._inherited.get(name) or [sockets.bind(address)]
        self._facts[name] = [sockets.address(sock) for sock in found]
        return found

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`. Raises: Stopped, where the process is told to stop before that."""
        task, stop = asyncio.create_task(work), asyncio.create_task(self._stop.wait())
        await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
        if stop.done():
            task.cancel()
            sdnotify.stopping()
            raise Stopped
        stop.cancel()
        return await task

    async def _keep_looking(self) -> None:
        """Looks until the database is there, and more often while it is not, because jobs and requests wait for that."""
        is_there = await self._look()
        while not is_there:
            await asyncio.sleep(RETRY_S)
            is_there = await self._look()

    async def _look(self) -> bool:
        """Finds out whether the process can do its work, and tells so. Returns whether the database is there."""
        try:
            await _check(self._db)
            if any(each.is_broken for each in self._pools):
                async with self._db.connection() as connection:
                    await migrations.try_write(connection)
                for each in self._pools:
                    each.is_broken = False
            reasons = [await look() for look in self.looks]
        except Unavailable as error:
            self._outage.lost(error, **self._facts)
            observe.database_up.set(0)
            self._tell(self._db.hindrance or failures.brief(error))
            return False
        except migrations.SchemaMismatch as mismatch:
            self._shut(is_shut=True)
            self._tell(str(mismatch))
        except Exception as error:
            self._tell(f"a fault of registryd's own ({type(error).__name__}); see background_failed in the log")
            raise
        else:
            self._shut(is_shut=False)
            self._outage.found()
            self._tell("; ".join(filter(None, reasons)))
        observe.database_up.set(1)
        return True

    def _shut(self, *, is_shut: bool) -> None:
        for door in self._doors:
            door.is_shut = is_shut

    def _tell(self, reason: str) -> None:
        """Tells /readyz, `registryd_ready` and systemd why the process cannot do its work; an empty reason says that it can."""
        if self._stop.is_set():
            reason = "stopping"
        self._health.tell(reason)
        refuses = "refusing" if self._doors else "waiting"
        status = "serving" if not reason else reason if reason.startswith(("waiting", "stopping")) else f"{refuses}: {reason}"
        if status != self._status:
            self._status = status
            sdnotify.ready(status + self.reload.note)

    async def _reload(self) -> None:
        """Reloads at each SIGHUP, once for those that came during the last reload."""
        while True:
            await self._hung_up.wait()
            self._hung_up.clear()
            sdnotify.reloading()
            await self.reload.run()
            sdnotify.ready(self._status + self.reload.note)

    async def _end_background(self) -> None:
        await timer.end(self._background)
        self._background.clear()


async def _check(db: Database) -> None:
    """Raises: Unavailable, SchemaMismatch."""
    async with db.connection() as connection:
        if not (await fetch(connection, migrations.IS_WRITABLE))[0].writable:
            raise failures.TakesNoWrites
        await transaction_id(connection)
        await migrations.check(connection)
