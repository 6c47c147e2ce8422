"""`serve --workers N`: what systemd does with registryd.socket and registryd@N.service, without systemd, for development.

Owns: the messenger API's listener, bound once; N processes `serve --instance i` that inherit it as they would from systemd; their
restarts. Never does: an answer, a look at the database.

Invariants: ready once every worker is; until then the end of one is the end of all, and from then on a worker that ends unasked is started
again; when this process dies, however it dies, its workers drain and end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys

from registryd import observe, sdnotify
from registryd.config import Settings
from registryd.http import sockets
from registryd.processes import die_with

RESTART_PAUSE_S = 1.0


async def supervise(settings: Settings, count: int) -> int:
    """Serves with `count` workers until SIGTERM or SIGINT; SIGHUP goes on to all. Returns 0, or the exit code of one that failed.

    Raises: ConfigError.
    """
    observe.configure(settings.file.log.level)
    listener = sockets.bind(settings.file.api.listen)
    stop = asyncio.Event()
    workers = [_Worker(settings, instance, listener) for instance in range(1, count + 1)]
    is_ready = asyncio.gather(*(worker.ready.wait() for worker in workers))

    def hang_up() -> None:
        for worker in workers:
            worker.signal(signal.SIGHUP)

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, stop.set)
    loop.add_signal_handler(signal.SIGHUP, hang_up)

    failures: list[int] = []

    async def keep(worker: _Worker) -> None:
        while not stop.is_set():
            code = await worker.run()
            if stop.is_set():
                if code not in (0, -signal.SIGTERM):  # the latter: asked to end before it could listen
                    failures.append(max(code, 1))
                return
            observe.event("worker_ended", "error", instance=worker.instance, code=code)
            if not is_ready.done():
                failures.append(max(code, 1))
                stop.set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), RESTART_PAUSE_S)

    kept = asyncio.gather(*map(keep, workers))
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait((is_ready, stopped), return_when=asyncio.FIRST_COMPLETED)
    if not stop.is_set():
        observe.event("workers_ready", workers=count)
        sdnotify.ready(f"serving with {count} workers")
        await stopped
    is_ready.cancel()
    sdnotify.stopping()
    for worker in workers:
        worker.signal(signal.SIGTERM)
    await kept
    return failures[0] if failures else 0


class _Worker:
    """One instance, through all the processes that are it in turn."""

    def __init__(self, settings: Settings, instance: int, listener: socket.socket) -> None:
        self.instance = instance
        self.ready = asyncio.Event()
        self._command = [sys.executable, "-m", "registryd", "--config", str(settings.path), "serve", "--instance", str(instance)]
        self._listener = listener
        self._pid: int | None = None
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._notices.bind("")  # an abstract name of the kernel's choice
        asyncio.get_running_loop().add_reader(self._notices, self._hear)

    def signal(self, number: signal.Signals) -> None:
        if self._pid is not None:
            os.kill(self._pid, number)

    async def run(self) -> int:
        """One process from start to end; returns its exit code, negative where a signal killed it."""
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._become(parent)
            finally:
                os._exit(1)
        ended = asyncio.Event()
        handle = os.pidfd_open(self._pid)
        loop = asyncio.get_running_loop()
        loop.add_reader(handle, ended.set)
        await ended.wait()
        loop.remove_reader(handle)
        os.close(handle)
        pid, self._pid = self._pid, None
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])  # noqa: ASYNC222 # it has ended

    def _become(self, parent: int) -> None:
        """Turns a fork into the instance."""
        die_with(parent)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the daemon handles it: what it would reload, it is about to read
        os.environ["NOTIFY_SOCKET"] = "@" + self._notices.getsockname()[1:].decode()
        sdnotify.hand_over(self._listener)
        os.execv(self._command[0], self._command)  # noqa: S606 # our own program

    def _hear(self) -> None:
        if b"READY=1" in self._notices.recv(4096).split(b"\n"):
            self.ready.set()
