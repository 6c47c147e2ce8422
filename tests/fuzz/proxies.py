"""HAProxy and nginx before the messenger API: nobody hides a request from them, and nobody asks under another messenger's key."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests import programs
from tests.conftest import DIES_WITH_US, Daemon, Site, TestDatabase, TestMessenger, daemon, make_site, prepare_database, wait_for
from tests.delivery.conftest import free_port
from tests.fuzz import cases, pairs
from tests.fuzz.laws import answers
from tests.fuzz.outcome import Outcome
from tests.servers import private_server

NUMBER = 79_161_234_567
VICTIMS = 3
"""How many requests of another messenger follow a case, each on a connection of its own to the proxy: they share those to the daemon."""
WAIT_S = 0.05
"""How long the sender of a case waits for more answers."""
_ids = itertools.count(1)

HAPROXY = """
global
 log stdout format raw local0
defaults
 mode http
 log global
 log-format "%s"
 timeout client 5s
 timeout server 15s
 timeout connect 2s
 timeout http-request 5s
listen api
 bind 127.0.0.1:{port}
 http-reuse always
 server daemon {daemon}
"""
NGINX = """
daemon off;
master_process off;
pid {place}/nginx.pid;
error_log {place}/error.log;
events {{}}
http {{
 log_format upstream "$upstream_addr";
 access_log /dev/stdout upstream;
 client_body_temp_path {place}/client;
 proxy_temp_path {place}/proxy;
 fastcgi_temp_path {place}/fastcgi;
 uwsgi_temp_path {place}/uwsgi;
 scgi_temp_path {place}/scgi;
 upstream daemon {{ server {daemon}; keepalive 4; }}
 server {{
  listen 127.0.0.1:{port};
  location / {{ proxy_pass http://daemon; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_request_buffering {buffering}; }}
 }}
}}
"""
PROXIES = ("haproxy", "nginx", "nginx-streaming")


@dataclass
class Proxy:
    """One that runs before the daemon. It logs a line for each request that it has sent on, with the daemon's name or address."""

    address: tuple[str, int]
    log: Path
    forwards_to: str

    def forwarded(self) -> int:
        return sum(self.forwards_to in line for line in self.log.read_text().splitlines())


@contextlib.contextmanager
def proxy(name: str, place: Path, behind: str) -> Iterator[Proxy]:
    """Raises: NotThere."""
    place.mkdir()
    address = ("127.0.0.1", free_port())
    text = HAPROXY if name == "haproxy" else NGINX
    path = place / "conf"
    path.write_text(text.format(port=address[1], daemon=behind, place=place, buffering="off" if name.endswith("streaming") else "on"))
    kind = name.partition("-")[0]
    before = ["-db", "-f", str(path)] if kind == "haproxy" else ["-p", str(place), "-c", str(path)]
    with (place / "log").open("wb") as log:
        command = [str(programs.program(kind)), *before]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=programs.environment(kind), **DIES_WITH_US)
    try:
        wait_for(lambda: process.poll() is not None or _listens(address))
        if process.poll() is not None:
            raise programs.NotThere(f"{name} does not start: {(place / 'log').read_text()[-500:]}")
        yield Proxy(address, place / "log", "daemon" if kind == "haproxy" else behind)
    finally:
        process.kill()
        process.wait(10)


def _listens(address: tuple[str, int]) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(address):
        return True
    return False


@dataclass
class Trial:
    """A proxy, the daemon behind it, who attacks and who only asks."""

    proxy: Proxy
    running: Daemon
    attacker: TestMessenger
    victim: TestMessenger

    def seen(self) -> tuple[int, int]:
        """How many requests the daemon has answered, and how many queries of the victim's."""
        text = self.running.metrics()
        requests = re.findall(r'^registryd_requests_total\{api="messenger".*\} (\S+)$', text, re.MULTILINE)
        queries = re.findall(rf'^registryd_queries_total\{{.*messenger="{self.victim.name}".*\}} (\S+)$', text, re.MULTILINE)
        return int(sum(map(float, requests))), int(sum(map(float, queries)))

    def try_case(self, case: cases.Case) -> str:
        """What is wrong; empty where nothing is."""
        answered, asked = self.seen()
        forwarded = self.proxy.forwarded()
        body = f'{{"phoneNumber":"+{NUMBER}"}}'.encode()
        self._send(pairs.filled(case, path=b"/v1/presence", key=self.attacker.api_key, body=body))
        for _ in range(VICTIMS):
            if wrong := self._ask(body):
                return wrong
        now, queries = self.seen()
        if queries - asked != VICTIMS:
            return f"the daemon answered {queries - asked} queries of a messenger that asked {VICTIMS}"
        with contextlib.suppress(AssertionError):
            wait_for(lambda: self.proxy.forwarded() - forwarded >= now - answered, timeout=3)
        sent_on = self.proxy.forwarded() - forwarded
        return "" if now - answered <= sent_on else f"the daemon answered {now - answered} requests, and the proxy saw {sent_on}"

    def _send(self, sent: bytes) -> None:
        with contextlib.suppress(OSError), socket.create_connection(self.proxy.address, timeout=WAIT_S) as sock:
            sock.sendall(sent)
            while sock.recv(65536):
                pass

    def _ask(self, body: bytes) -> str:
        """One query of the victim's. Returns what is wrong with its answer."""
        name = f"victim-{next(_ids)}"
        with socket.create_connection(self.proxy.address, timeout=20) as sock:
            headers = (
                f"POST /v1/presence HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.victim.api_key}\r\nx-correlator: {name}\r\n"
                f"Content-Type: application/json\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            sock.sendall(headers.encode() + body)
            told = b""
            while part := sock.recv(65536):
                told += part
        found = list(answers(told))
        is_own = f"x-correlator: {name}".encode() in told.lower()
        return "" if [status for status, _ in found] == [200] and is_own else f"another messenger was told {told!r}"


async def _people(site: Site) -> tuple[TestMessenger, TestMessenger]:
    await site.add_contracts(NUMBER)
    return await site.add_messenger("attacker"), await site.add_messenger("victim")


def campaign(name: str, _: float) -> Outcome:
    """Every case before the daemon behind one of PROXIES. Raises: NotThere."""
    found = pairs.pairs()
    with private_server() as server, tempfile.TemporaryDirectory() as directory:
        asyncio.run(prepare_database(server, "proxies"))
        site = make_site(TestDatabase(server, "proxies"), Path(directory) / "site")
        people = asyncio.run(_people(site))
        with daemon(site) as running, proxy(name, Path(directory) / "proxy", running.api.removeprefix("http://")) as started:
            trial = Trial(started, running, *people)
            wrong = [f"{case.name}: {told}" for case in found if (told := trial.try_case(case))]
    return Outcome(len(found), "\n".join(wrong[:20]))
