"""Three nodes, each with etcd, Patroni and PostgreSQL, and HAProxy as systemd/README.md writes it down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from registryd import resources
from registryd.children import die_with
from registryd.demo import embedded
from registryd.demo.embedded.account import Account
from tests import programs
from tests.conftest import TestDatabase
from tests.patroni.network import Network

NAMES = ("n1", "n2", "n3")
TIMES = {"ttl": 20, "loop_wait": 5, "retry_timeout": 5}
"""Seconds: Patroni's shortest, half to two thirds of its defaults (30, 10, 10), so that a fault takes less time."""
PATIENCE_S = 90.0
HAPROXY = "127.0.0.1:5000"
HAPROXY_DEFAULTS = "defaults\n mode http\n timeout connect 5000\n timeout client 50000\n timeout server 50000\n"
"""Of Debian's haproxy.cfg, below which the documented section is put."""
Mode = Literal["strict", "asynchronous"]


class Cluster:
    """Use: `start`, then faults, each followed by `wait_healthy`. It ends with the campaign's namespaces."""

    def __init__(self, network: Network, place: Path, mode: Mode) -> None:
        self.network = network
        self.place = place
        self.mode = mode
        self.processes: dict[tuple[str, str], subprocess.Popen[bytes]] = {}
        """By program and node."""
        self._account = Account.choose()
        self._binaries = embedded.find_binaries("system")

    def start(self) -> None:
        for name in NAMES:
            self._account.make_directory(self.place / name)
            self.start_etcd(name)
        for name in NAMES:
            self.start_patroni(name)
        self._start_haproxy()
        self.wait_healthy()

    def start_etcd(self, name: str) -> None:
        address = self.network.addresses[name]
        members = ",".join(f"{other}=http://{at}:2380" for other, at in self.network.addresses.items())
        options = {
            "name": name,
            "data-dir": str(self.place / name / "etcd"),
            "listen-client-urls": f"http://{address}:2379",
            "advertise-client-urls": f"http://{address}:2379",
            "listen-peer-urls": f"http://{address}:2380",
            "initial-advertise-peer-urls": f"http://{address}:2380",
            "initial-cluster": members,
        }
        command = [str(programs.program("etcd")), *(f"--{option}={value}" for option, value in options.items())]
        self._spawn("etcd", name, command, programs.environment("etcd"))

    def start_patroni(self, name: str) -> None:
        path = self.place / name / "patroni.json"
        path.write_text(json.dumps(self._configuration(name)))
        self._spawn("patroni", name, [*programs.patroni(), str(path)], os.environ)

    def _start_haproxy(self) -> None:
        path = self.place / "haproxy.cfg"
        path.write_text(HAPROXY_DEFAULTS + haproxy_section(self.network.addresses.values()))
        self._spawn("haproxy", "", [str(programs.program("haproxy")), "-db", "-f", str(path)], programs.environment("haproxy"))

    def _configuration(self, name: str) -> dict[str, Any]:
        address = self.network.addresses[name]
        is_strict = self.mode == "strict"
        return {
            "scope": "registry",
            "name": name,
            "restapi": {"listen": f"{address}:8008", "connect_address": f"{address}:8008"},
            "etcd3": {"hosts": [f"{at}:2379" for at in self.network.addresses.values()]},
            "bootstrap": {
                "dcs": {
                    **TIMES,
                    "synchronous_mode": is_strict,
                    "synchronous_mode_strict": is_strict,
                    "postgresql": {"use_pg_rewind": True, "parameters": {"max_connections": 200, "wal_log_hints": "on"}},
                },
                "initdb": [{"encoding": "UTF8"}, {"auth": "trust"}, "no-sync"],
            },
            "postgresql": {
                "listen": f"{address}:5432",
                "connect_address": f"{address}:5432",
                "data_dir": str(self.place / name / "data"),
                "pgpass": str(self.place / name / "pgpass"),
                "bin_dir": str(self._binaries.directory),
                "authentication": {"superuser": {"username": "postgres"}, "replication": {"username": "postgres"}},
                "pg_hba": ["local all all trust", "host all all 0.0.0.0/0 trust", "host replication all 0.0.0.0/0 trust"],
                "parameters": {"unix_socket_directories": str(self.place / name)},
                "remove_data_directory_on_rewind_failure": True,
                "remove_data_directory_on_diverged_timelines": True,
            },
        }

    def _spawn(self, program: str, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        before = self.network.inside(name) if name else []
        who = (
            []
            if self._account.uid is None
            else ["setpriv", f"--reuid={self._account.uid}", f"--regid={self._account.gid}", "--clear-groups"]
        )
        with (self.place / f"{program}-{name}.log").open("ab") as log:
            self.processes[program, name] = subprocess.Popen(
                [*before, *who, *command], env=dict(environment), cwd="/", stdout=log, stderr=log, start_new_session=True,
                preexec_fn=partial(die_with, os.getpid()),
            )  # fmt: skip

    def status(self) -> list[dict[str, Any]]:
        """The members as any node's Patroni tells them; empty where none answers."""
        for address in self.network.addresses.values():
            try:
                with urllib.request.urlopen(f"http://{address}:8008/cluster", timeout=2) as answer:
                    members: list[dict[str, Any]] = json.loads(answer.read())["members"]
                    return members
            except (OSError, urllib.error.URLError, ValueError):
                continue
        return []

    def leader(self) -> str:
        [name] = [member["name"] for member in self.status() if member["role"] == "leader"]
        return str(name)

    def wait_healthy(self) -> None:
        """Until there are a leader and two standbys that stream from it, one of them synchronous where it should be."""
        deadline = time.monotonic() + PATIENCE_S
        while not self._is_healthy(members := self.status()):
            ended = [key for key, process in self.processes.items() if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                raise RuntimeError(f"the cluster is not healthy: {ended} ended, members are {members}")
            time.sleep(0.2)

    def _is_healthy(self, members: list[dict[str, Any]]) -> bool:
        roles = sorted(member["role"] for member in members)
        wanted = ["leader", "replica", "sync_standby"] if self.mode == "strict" else ["leader", "replica", "replica"]
        states = {member["state"] for member in members}
        return roles == wanted and states <= {"running", "streaming"} and len({member.get("timeline") for member in members}) == 1

    def switch_over(self) -> None:
        body = json.dumps({"leader": self.leader()}).encode()
        url = f"http://{self.network.addresses[self.leader()]}:8008/switchover"
        urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"}), timeout=60).close()

    def signal(self, which: signal.Signals, program: str, name: str) -> None:
        """Sends a signal to Patroni or etcd of a node, or to every process of its PostgreSQL."""
        if program != "postgres":
            self.processes[program, name].send_signal(which)
            return
        postmaster = int((self.place / name / "data/postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        for pid in (postmaster, *map(int, children)):
            os.kill(pid, which)


def haproxy_section(addresses: Iterable[str]) -> str:
    """The section that systemd/README.md gives an operator, with these addresses in place of its three."""
    told = resources.path("systemd/README.md").read_text().partition("```\n  listen registryd-primary")[2].partition("```")[0]
    assert HAPROXY in told, "the document has the section, on the address that the campaign asks"
    servers = [line for line in told.splitlines() if line.split()[:1] == ["server"]]
    for line, address in zip(servers, addresses, strict=True):
        told = told.replace(line, line.replace(line.split()[2], f"{address}:5432"))
    return f"listen registryd-primary{told.rstrip()}\n"


class ClusterServer(embedded.Server):
    """What the tests' helpers need of a server: the way to the primary of a cluster that runs already."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(embedded.find_binaries("system"))
        self._cluster = cluster

    def dsn(self, dbname: str = "postgres", user: str = "postgres") -> str:
        """Of the primary alone: a standby may not have a new database yet, and psql would not go on to the next host."""
        return f"postgresql://{user}@{self._cluster.network.addresses[self._cluster.leader()]}:5432/{dbname}"


class ClusterDatabase(TestDatabase):
    """A database of the cluster; `hosts` is what the daemon's DSN names."""

    def __init__(self, server: ClusterServer, name: str, hosts: str) -> None:
        super().__init__(server, name)
        self._hosts = hosts

    def dsn(self, user: str = "postgres") -> str:
        if user == "postgres":
            return self.server.dsn(self.name)
        return f"postgresql://{user}@{self._hosts}/{self.name}"
