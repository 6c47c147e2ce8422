"""Which of several hosts is the primary, by what each was seen to say."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

from registryd.config import split_hosts
from registryd.store.primary import Primary, PrimaryFinder, Server

A, B = split_hosts("postgresql://app@a:5432,b:5432/registryd")


class Hosts:
    """A watch that is told what was seen, and how often it says that the primary is another one."""

    def __init__(self) -> None:
        self.moves = 0
        self._finder = PrimaryFinder("postgresql://app@a:5432,b:5432/registryd", None, "registryd", self._moved)

    def _moved(self) -> None:
        self.moves += 1

    def sees(self, dsn: str, server: Server | None) -> Primary | None:
        self._finder.judge(dsn, server)
        return self._finder.primary


def test_the_primary_is_who_takes_writes_on_the_highest_timeline() -> None:
    hosts = Hosts()
    assert hosts.sees(B, Server(1, 0)) is None
    assert hosts.sees(A, Server(1, 1)) == (A, Server(1, 1))
    assert hosts.sees(B, Server(1, 2)) == (B, Server(1, 2))
    assert hosts.moves == 2


def test_silence_is_no_reason_to_leave() -> None:
    hosts = Hosts()
    hosts.sees(A, Server(1, 1))
    assert hosts.sees(A, None) == hosts.sees(A, Server(1, 0)) == hosts.sees(B, Server(1, 0)) == (A, Server(1, 1))
    assert hosts.moves == 1


def test_one_that_was_left_behind_never_takes_over_again() -> None:
    hosts = Hosts()
    hosts.sees(A, Server(1, 2))
    assert hosts.sees(B, Server(1, 1)) == (A, Server(1, 2))
    hosts.sees(A, None)
    assert hosts.sees(B, Server(1, 1)) == (A, Server(1, 2))


def test_another_name_of_the_same_server_serves_while_the_first_leads_nowhere() -> None:
    hosts = Hosts()
    hosts.sees(A, Server(1, 1))
    assert hosts.sees(B, Server(1, 1)) == (A, Server(1, 1))
    hosts.sees(A, None)
    assert hosts.sees(B, Server(1, 1)) == (B, Server(1, 1))


def test_an_upgraded_cluster_begins_anew_once_the_former_is_gone() -> None:
    hosts = Hosts()
    hosts.sees(A, Server(1, 7))
    assert hosts.sees(B, Server(2, 1)) == (A, Server(1, 7)), "two clusters in one DSN: the one that is known"
    assert hosts.sees(A, Server(2, 1)) == (A, Server(2, 1))


@pytest.mark.parametrize(
    ("dsn", "places"),
    [
        ("postgresql://app@h1:1,h2:2/db?sslmode=require", [("h1:1", None), ("h2:2", None)]),
        ("postgresql://app@h1,h2/db?port=7&sslmode=require", [("h1", "7"), ("h2", "7")]),
        ("postgresql://app@/db?host=/run/a,/run/b&port=1,2&sslmode=require", [("/run/a", "1"), ("/run/b", "2")]),
    ],
)
def test_a_dsn_of_several_hosts_is_one_for_each(dsn: str, places: list[tuple[str, str | None]]) -> None:
    for single, (host, port) in zip(split_hosts(dsn), places, strict=True):
        url = urlsplit(single)
        options = {"host": [host], "sslmode": ["require"]} | ({"port": [port]} if port else {})
        assert (url.netloc, url.path, parse_qs(url.query)) == ("app@", "/db", options)


@pytest.mark.parametrize("dsn", ["", "postgresql://app@/registryd?host=/run/postgresql", "postgresql://h:5433/db?user=app"])
def test_a_dsn_of_one_host_is_left_alone(dsn: str) -> None:
    assert split_hosts(dsn) == [dsn]
