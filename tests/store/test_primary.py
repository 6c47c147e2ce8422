"""Which of several hosts is the primary, and whether it is stuck, by what each was seen to say."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

from registryd.addresses import split_hosts
from registryd.store.primary import Primary, PrimaryFinder, Server

DSN = "postgresql://app@a:5432,b:5432/registryd"
A, B = split_hosts(DSN)


def writes(timeline: int, system_id: int = 1, waiting: tuple[str, ...] = ()) -> Server:
    return Server(system_id, True, timeline, list(waiting))


def follows(timeline: int) -> Server:
    return Server(1, False, timeline, [])


class Hosts:
    """A watch that is told what was seen, and how often it says that connections are of no use any more."""

    def __init__(self) -> None:
        self.moves = 0
        self.now = 100.0
        self.finder = PrimaryFinder(DSN, None, "registryd", self._left, clock=lambda: self.now)

    def _left(self) -> None:
        self.moves += 1

    def sees(self, dsn: str, server: Server | None, *, hangs: bool = False) -> Primary | None:
        self.finder.judge(dsn, server, hangs=hangs)
        return self.finder.primary


def test_the_primary_is_who_takes_writes_on_the_highest_timeline() -> None:
    hosts = Hosts()
    assert hosts.sees(B, follows(1)) is None
    assert hosts.sees(A, writes(1)) == (A, 1, 1)
    assert hosts.sees(B, writes(2)) == (B, 1, 2)
    assert hosts.moves == 2


def test_silence_is_no_reason_to_leave() -> None:
    hosts = Hosts()
    hosts.sees(A, writes(1))
    assert hosts.sees(A, None) == hosts.sees(A, follows(1)) == hosts.sees(B, follows(1)) == (A, 1, 1)
    assert hosts.moves == 1


def test_one_that_was_left_behind_does_not_take_over_while_the_higher_timeline_may_be_anywhere() -> None:
    hosts = Hosts()
    hosts.sees(A, writes(2))
    assert hosts.sees(B, writes(1)) == (A, 1, 2)
    assert not hosts.finder.left_behind, "the primary is there"
    for seen in (None, follows(2)):
        hosts.sees(A, seen)
        assert hosts.sees(B, writes(1)) == (A, 1, 2)
        assert "b:5432 takes writes on timeline 1" in hosts.finder.left_behind
        assert "Restart" in hosts.finder.left_behind
    hosts.sees(A, writes(2))
    assert not hosts.finder.left_behind


def test_a_cluster_that_went_back_is_followed_once_the_former_primary_says_so_itself() -> None:
    hosts = Hosts()
    hosts.sees(A, writes(1))
    hosts.sees(B, writes(2))
    hosts.sees(B, None)
    assert hosts.sees(A, writes(1)) == (B, 1, 2)
    hosts.sees(B, follows(1))
    assert hosts.sees(A, writes(1)) == (A, 1, 1)
    assert not hosts.finder.left_behind


def test_a_backup_that_was_restored_to_a_lower_timeline_is_followed() -> None:
    hosts = Hosts()
    hosts.sees(B, follows(7))
    hosts.sees(A, writes(7))
    hosts.sees(B, follows(3))
    assert hosts.sees(A, writes(3)) == (A, 1, 3)


def test_another_name_of_the_same_server_serves_while_the_first_leads_nowhere() -> None:
    hosts = Hosts()
    hosts.sees(A, writes(1))
    assert hosts.sees(B, writes(1)) == (A, 1, 1)
    hosts.sees(A, None)
    assert hosts.sees(B, writes(1)) == (B, 1, 1)


def test_an_upgraded_cluster_begins_anew_once_the_former_is_gone() -> None:
    hosts = Hosts()
    hosts.sees(A, writes(7))
    assert hosts.sees(B, writes(1, system_id=2)) == (A, 1, 7), "two clusters in one DSN: the one that is known"
    hosts.sees(A, None)
    assert not hosts.finder.left_behind, "timelines of different clusters cannot be compared"
    assert hosts.sees(A, writes(1, system_id=2)) == (A, 2, 1)


def test_a_primary_that_hangs_is_stuck_until_it_answers_or_another_takes_over() -> None:
    hosts = Hosts()
    hosts.sees(A, writes(1))
    moves = hosts.moves
    hosts.sees(A, None)
    assert not hosts.finder.stuck, "it refuses, which its pool is told at once, too"
    hosts.sees(A, None, hangs=True)
    assert hosts.finder.stuck
    hosts.sees(A, None)
    hosts.sees(B, None, hangs=True)
    assert hosts.finder.stuck
    assert hosts.moves == moves + 1, "its connections are cut once"
    hosts.sees(A, writes(1))
    assert not hosts.finder.stuck
    hosts.sees(B, None, hangs=True)
    assert not hosts.finder.stuck, "a standby may hang"
    hosts.sees(A, None, hangs=True)
    hosts.sees(B, writes(2))
    assert not hosts.finder.stuck


def test_a_primary_is_stuck_while_one_commit_waits_for_a_standby_and_not_while_many_do_in_turn() -> None:
    hosts = Hosts()
    for commit in range(10):
        hosts.sees(A, writes(1, waiting=(f"1 begun {commit}",)))
        hosts.now += 1.0
        assert not hosts.finder.stuck
    for passed_s, is_stuck in ((0.0, False), (1.4, False), (0.2, True)):
        hosts.now += passed_s
        hosts.sees(A, writes(1, waiting=("1 begun", f"2 begun {hosts.now}")))
        assert bool(hosts.finder.stuck) is is_stuck
    hosts.sees(A, writes(1))
    assert not hosts.finder.stuck


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
