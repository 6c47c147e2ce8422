"""`registryd serve`: every role under one small supervisor, for containers, development and the demo; systemd does without it.

It binds all listeners and hands them to its children as systemd would, starts a child that ended again, and answers for all of them on
`[observe] listen`. Until every child has said READY=1, the end of one is the end of all. When it dies, however it dies, its children end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence

import aiohttp
from aiohttp.web import BaseRequest

from registryd import config, observe, sdnotify
from registryd.children import die_with
from registryd.config import Settings
from registryd.http import sockets
from registryd.http.health import elsewhere, looked_at, plain, readiness
from registryd.http.reply import Reply
from registryd.http.transport import Listener

SERVING = "serving"
"""What a child says of itself while it can do its work."""
RESTART_PAUSE_S = 1.0
MENDED_BY_PERSONS = frozenset({2, 76, 78})
"""Exit codes of what only a person mends: usage, schema, configuration, as RestartPreventExitStatus= of the units."""
MENDED_PAUSE_S = 10.0
"""How long such a child waits: its start costs a second of a processor, which those that serve want."""
STOP_TIMEOUT_S = 45.0
"""How long a child may take to drain before it is killed: as TimeoutStopSec= of the units."""
ASK_TIMEOUT_S = 2.0
_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?( .*)$")


async def serve(settings: Settings, answers: int, delivers: int) -> int:
    """Serves until SIGTERM or SIGINT. SIGHUP is passed on to all. Returns 0, or the exit code of a child that failed. Raises:
    ConfigError.
    """
    observe.configure(settings.file.log.level)
    apis = {"messenger": sockets.bind(settings.file.api.listen), "operator": sockets.bind(settings.file.operator.listen)}
    named = [
        *(("answer", instance, ("messenger",)) for instance in range(1, answers + 1)),
        *(("deliver", instance, ()) for instance in range(1, delivers + 1)),
        ("operate", 1, ("operator",)),
    ]
    children = [Child(settings, role, instance, {name: apis[name] for name in needs}) for role, instance, needs in named]
    health = HealthOfAll(children)
    health_socket = sockets.bind(settings.file.observe.listen)
    listener = Listener("health", health, settings.file.api)
    await listener.listen([health_socket], None)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _signal_all, children, signal.SIGHUP)

    kept = asyncio.gather(*(_keep(child, children, stop) for child in children))
    are_ready = asyncio.gather(*(child.ready.wait() for child in children))
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait((are_ready, stopped), return_when=asyncio.FIRST_COMPLETED)
    if not stop.is_set():
        addresses = {name: sockets.address(sock) for name, sock in {**apis, "health": health_socket}.items()}
        observe.event("all_started", addresses=addresses, health={child.name: child.health for child in children})
        sdnotify.ready(status(children))
        for child in children:
            child.tell = lambda: sdnotify.status(status(children))
        await stopped
        for child in children:
            child.tell = lambda: None
    are_ready.cancel()
    sdnotify.stopping()
    _signal_all(children, signal.SIGTERM)
    killing = loop.call_later(STOP_TIMEOUT_S, _signal_all, children, signal.SIGKILL)
    codes = await kept
    killing.cancel()
    await health.close()
    await listener.close(1.0)
    return next((code for code in codes if code), 0)


def status(children: Sequence[Child]) -> str:
    """What all of them do, for `systemctl status`: of those that do not serve, what they say of themselves."""
    others = [f"{child.name} {child.status}" for child in children if child.status != SERVING]
    return "; ".join(others) or f"{SERVING} with {len(children)} processes"


def _signal_all(children: Sequence[Child], number: signal.Signals) -> None:
    for child in children:
        child.signal(number)


async def _keep(child: Child, children: Sequence[Child], stop: asyncio.Event) -> int:
    """Restarts a child whenever it ends, until `stop`. Returns the exit code of its last process; 0 where that was told to end."""
    while True:
        code = await child.run()
        if stop.is_set():
            return 0 if code in (0, -signal.SIGTERM) else max(code, 1)  # SIGTERM: it was told before it could listen
        pause_s = MENDED_PAUSE_S if code in MENDED_BY_PERSONS else RESTART_PAUSE_S
        observe.event("process_ended", "error", process=child.name, code=code, again_in_s=pause_s)
        child.said(f"ended with {code}")
        if not all(each.ready.is_set() for each in children):
            stop.set()
            return max(code, 1)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause_s)
            return 0


class Child:
    """One instance of a role: one process at a time, restarted as needed."""

    def __init__(self, settings: Settings, role: str, instance: int, listeners: Mapping[str, socket.socket]) -> None:
        self.name = f"{role}@{instance}"
        self.ready = asyncio.Event()
        self.status = SERVING
        self.tell: Callable[[], object] = lambda: None
        """Is called when `status` has changed."""
        health = sockets.bind(config.health_address(settings, role, instance))
        self.health = f"http://{sockets.address(health)}"
        self._listeners = {**listeners, "health": health}
        self._command = [sys.executable, "-m", "registryd", "--config", str(settings.path), role, "--instance", str(instance)]
        self._pid: int | None = None
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._notices.bind("")  # the kernel chooses an abstract name
        asyncio.get_running_loop().add_reader(self._notices, self._hear)

    def signal(self, number: signal.Signals) -> None:
        if self._pid is not None:
            os.kill(self._pid, number)

    async def run(self) -> int:
        """Runs one process from start to end. Returns its exit code, negative where a signal killed it."""
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
        """Turns the forked child into the instance. It drains when its parent dies."""
        die_with(parent)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it has a handler; it is about to read what a reload would read
        os.environ["NOTIFY_SOCKET"] = "@" + self._notices.getsockname()[1:].decode()
        sdnotify.hand_over(self._listeners)
        os.execv(self._command[0], self._command)  # noqa: S606 # our own program

    def said(self, status: str) -> None:
        if status != self.status:
            self.status = status
            self.tell()

    def _hear(self) -> None:
        for line in self._notices.recv(4096).decode(errors="replace").split("\n"):
            if line == "READY=1":
                self.ready.set()
            elif line.startswith("STATUS="):
                self.said(line.removeprefix("STATUS="))


class HealthOfAll:
    """/healthz, /readyz and /metrics of all children together."""

    def __init__(self, children: Sequence[Child]) -> None:
        self._children = children
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(ASK_TIMEOUT_S))

    async def __call__(self, request: BaseRequest) -> Reply:
        match looked_at(request):
            case "/healthz":
                return plain(b"ok\n")
            case "/readyz":
                answers = await self._ask("/readyz")
                late = {name: "" if status == 200 else text or "no answer" for name, (status, text) in answers.items()}
                return readiness(", ".join(name for name, text in late.items() if text), processes=late)
            case "/metrics":
                return plain(merged({name: text for name, (_, text) in (await self._ask("/metrics")).items()}))
            case path:
                return elsewhere(path)

    async def close(self) -> None:
        await self._session.close()

    async def _ask(self, path: str) -> dict[str, tuple[int, str]]:
        """The status and the answer of each child; 0 and an empty text where it does not answer."""

        async def ask(child: Child) -> tuple[int, str]:
            try:
                async with self._session.get(child.health + path) as response:
                    return response.status, await response.text()
            except (aiohttp.ClientError, TimeoutError):
                return 0, ""

        answers = await asyncio.gather(*map(ask, self._children))
        return {child.name: answer for child, answer in zip(self._children, answers, strict=True)}


def merged(expositions: Mapping[str, str]) -> bytes:
    """Joins the metrics of several processes: each sample gets the label `process`, and the samples of a metric stay together."""
    families: dict[str, tuple[list[str], list[str]]] = {}
    for process, text in expositions.items():
        heads: list[str] = []
        samples: list[str] = []
        for line in text.splitlines():
            if line.startswith("# HELP "):
                heads, samples = families.setdefault(line.split(" ", 3)[2], ([], []))
            if line.startswith("#"):
                if line not in heads:
                    heads.append(line)
            elif found := _SAMPLE.match(line):
                name, labels, value = found.groups()
                samples.append(f'{name}{{process="{process}"{"," + labels if labels else ""}}}{value}')
    return "".join(f"{line}\n" for lines in families.values() for part in lines for line in part).encode()
