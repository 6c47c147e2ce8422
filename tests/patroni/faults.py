"""The faults of the campaign. Each begins where it is entered and is mended where it is left; `primary` is the node that leads before."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import NamedTuple

from tests.patroni.cluster import NAMES, Cluster


@contextmanager
def switched_over(cluster: Cluster, primary: str) -> Iterator[None]:
    """By Patroni's own command."""
    cluster.switch_over()
    yield


@contextmanager
def postgres_killed(cluster: Cluster, primary: str) -> Iterator[None]:
    cluster.signal(signal.SIGKILL, "postgres", primary)
    yield


@contextmanager
def patroni_killed(cluster: Cluster, primary: str) -> Iterator[None]:
    """PostgreSQL goes on and nobody looks after it: it is a stale primary once another one is promoted."""
    cluster.signal(signal.SIGKILL, "patroni", primary)
    yield
    cluster.start_patroni(primary)


@contextmanager
def node_killed(cluster: Cluster, primary: str) -> Iterator[None]:
    cluster.signal(signal.SIGKILL, "patroni", primary)
    cluster.signal(signal.SIGKILL, "postgres", primary)
    yield
    cluster.start_patroni(primary)


@contextmanager
def postgres_stopped(cluster: Cluster, primary: str) -> Iterator[None]:
    """It stands still, and goes on later as if nothing had been."""
    cluster.signal(signal.SIGSTOP, "postgres", primary)
    yield
    cluster.signal(signal.SIGCONT, "postgres", primary)


@contextmanager
def node_stopped(cluster: Cluster, primary: str) -> Iterator[None]:
    """Patroni too, as on a virtual machine that is paused."""
    for program in ("patroni", "postgres"):
        cluster.signal(signal.SIGSTOP, program, primary)
    yield
    for program in ("postgres", "patroni"):
        cluster.signal(signal.SIGCONT, program, primary)


@contextmanager
def cut_with_us(cluster: Cluster, primary: str) -> Iterator[None]:
    """The primary is cut from etcd and the other nodes; the daemon still reaches it, and them."""
    with cluster.network.cut(primary, others=True, us=False):
        yield


@contextmanager
def cut_from_us(cluster: Cluster, primary: str) -> Iterator[None]:
    """The primary is cut from everybody."""
    with cluster.network.cut(primary, others=True, us=True):
        yield


@contextmanager
def daemon_cut(cluster: Cluster, primary: str) -> Iterator[None]:
    """The daemon is cut from all nodes, and the cluster is well."""
    with ExitStack() as stack:
        for name in NAMES:
            stack.enter_context(cluster.network.cut(name, others=False, us=True))
        yield


@contextmanager
def etcd_stopped(cluster: Cluster, primary: str) -> Iterator[None]:
    """Patroni takes the primary down then, because it cannot know that it is the only one."""
    for name in NAMES:
        cluster.signal(signal.SIGSTOP, "etcd", name)
    yield
    for name in NAMES:
        cluster.signal(signal.SIGCONT, "etcd", name)


class Kind(NamedTuple):
    makes: Callable[[Cluster, str], AbstractContextManager[None]]
    says: str
    promotes: bool = True
    """Whether another primary comes before the fault is mended."""
    lasts_s: float = 75.0
    """It is mended then, or as soon as the next primary has been answering for a while."""


FAULTS = {
    "switchover": Kind(switched_over, "by Patroni's command"),
    "kill-postgres": Kind(postgres_killed, "PostgreSQL of the primary is killed; Patroni starts it again in its place", False, 15.0),
    "kill-patroni": Kind(patroni_killed, "Patroni of the primary is killed, PostgreSQL goes on"),
    "kill-node": Kind(node_killed, "both are killed"),
    "stop-postgres": Kind(postgres_stopped, "PostgreSQL of the primary stands still (SIGSTOP), later it goes on"),
    "stop-node": Kind(node_stopped, "both stand still"),
    "cut-with-us": Kind(cut_with_us, "the primary is cut from the cluster, the daemon reaches both"),
    "cut-from-us": Kind(cut_from_us, "the primary is cut from all"),
    "cut-daemon": Kind(daemon_cut, "the daemon is cut from all nodes for 20 s", False, 20.0),
    "etcd-stop": Kind(etcd_stopped, "etcd stands still for 40 s", False, 40.0),
}
