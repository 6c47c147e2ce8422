"""A network of its own in this machine: one namespace for each node and one for us, joined by a bridge, with links that can be cut.

Everything that a campaign starts lives in namespaces of the campaign's process, and ends with it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from registryd.children import die_with
from tests.programs import NotThere
from tests.servers import workplace

PLACE = "REGISTRYD_CAMPAIGN_PLACE"
US = "10.77.0.1"
NOBODY = "02:00:00:00:00:99"
"""An address that no interface has: what is sent there is lost in silence."""


def enter(module: str, arguments: Sequence[str], fetch: Callable[[], object]) -> Path:
    """Runs the module again in namespaces of its own, and ends as it does; in there it returns a directory for what the campaign starts.

    `fetch` gets what the campaign needs from outside, because nothing is in reach there.
    """
    if place := os.environ.get(PLACE):
        return Path(place)
    if os.geteuid() != 0:
        sys.exit("this campaign makes network namespaces, so it needs root")
    try:
        fetch()
    except NotThere as error:
        sys.exit(str(error))
    # The shell is the first process there: it reaps what has lost its parent, as Patroni expects of it.
    namespaces = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", '"$@"; exit $?', "sh"]
    command = [*namespaces, sys.executable, "-m", module, *arguments]
    with workplace() as made:
        environment = os.environ | {PLACE: str(made)}
        sys.exit(subprocess.run(command, env=environment, check=False, preexec_fn=partial(die_with, os.getpid())).returncode)


def own_loopback() -> None:
    """Opens the loopback interface of the campaign's namespace; a mount in it reaches nobody else."""
    _run("mount", "--make-rprivate", "/")
    _run("ip", "link", "set", "lo", "up")


class Network:
    """`names` are the nodes'; each has an address."""

    def __init__(self, names: Sequence[str]) -> None:
        self.addresses = {name: f"10.77.0.{11 + place}" for place, name in enumerate(names)}
        own_loopback()
        _run("mkdir", "-p", "/run/netns")
        _run("mount", "-t", "tmpfs", "tmpfs", "/run/netns")
        _run("ip", "link", "add", "br0", "type", "bridge")
        _run("ip", "address", "add", f"{US}/24", "dev", "br0")
        _run("ip", "link", "set", "br0", "up")
        for name, address in self.addresses.items():
            _run("ip", "netns", "add", name)
            _run("ip", "link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
            _run("ip", "link", "set", f"to-{name}", "master", "br0", "up")
            _run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            _run("ip", "-n", name, "link", "set", "eth0", "up")
            _run("ip", "-n", name, "link", "set", "lo", "up")

    def inside(self, name: str) -> list[str]:
        """What stands before a command that runs on a node."""
        return ["ip", "netns", "exec", name]

    @contextmanager
    def cut(self, name: str, *, others: bool, us: bool) -> Iterator[None]:
        """A node is cut off in silence, both ways: from the other nodes, or from us."""
        peers = [other for other in self.addresses if others and other != name]
        ways = [(name, self.addresses[peer]) for peer in peers] + [(peer, self.addresses[name]) for peer in peers]
        if us:
            ways += [(name, US), ("", self.addresses[name])]
        for where, address in ways:
            _neighbour(where, "replace", address, "lladdr", NOBODY, "nud", "permanent")
        try:
            yield
        finally:
            for where, address in ways:
                _neighbour(where, "delete", address)


def _neighbour(where: str, does: str, address: str, *facts: str) -> None:
    namespace, device = (["-n", where], "eth0") if where else ([], "br0")
    _run("ip", *namespace, "neighbour", does, address, *facts, "dev", device)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
