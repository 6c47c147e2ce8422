"""What the campaign takes from the documents, which can be held to without a cluster."""

from __future__ import annotations

from tests.patroni.cluster import haproxy_section


def test_the_documented_section_for_haproxy_speaks_to_whatever_nodes_it_is_given() -> None:
    nodes = ["10.77.0.11", "10.77.0.12", "10.77.0.13"]
    servers = [line.split()[2] for line in haproxy_section(nodes).splitlines() if line.split()[:1] == ["server"]]
    assert servers == [f"{node}:5432" for node in nodes]


def test_it_does_not_depend_on_defaults_that_are_for_http() -> None:
    options = [line.split() for line in haproxy_section(["a", "b", "c"]).splitlines()]
    assert ["mode", "tcp"] in options
    assert {"client", "server", "connect"} <= {option[1] for option in options if option[:1] == ["timeout"]}
