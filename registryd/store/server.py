"""What the server is set to, for `check`: its clock, memory and locks, what it logs of whom, whether commits wait for a standby; and
whether the rules of our tables are in force.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from registryd.store.pool import Connection, fetch
from registryd.store.queries import Query
from registryd.store.reading import Reader


class Clock(NamedTuple):
    now: datetime


class Memory(NamedTuple):
    shared_buffers: int
    primary_key: int
    """What the primary key of registry.contract takes. Both in bytes."""


class Locks(NamedTuple):
    per_transaction: int
    places: int
    """How many locks all transactions together may hold."""
    relations: int
    """How many tables and indexes of ours a transaction may touch."""


class Logged(NamedTuple):
    setting: str


class Replication(NamedTuple):
    synchronous_standbys: str
    """synchronous_standby_names; empty: no commit waits for a standby."""
    standbys: int
    """How many receive its WAL now."""


class Person(NamedTuple):
    name: str


class RuleOff(NamedTuple):
    rule: str


READ_CLOCK = Query("schema", "read_clock", Clock)
READ_MEMORY = Query("schema", "read_memory", Memory)
READ_LOCKS = Query("schema", "read_locks", Locks)
WHAT_IS_LOGGED = Query("schema", "what_is_logged", Logged)
LOGGED_PERSONS = Query("schema", "logged_persons", Person)
READ_REPLICATION = Query("schema", "read_replication", Replication)
READ_RULES_OFF = Query("schema", "read_rules_off", RuleOff)


async def read_clock(connection: Connection) -> datetime:
    return (await fetch(connection, READ_CLOCK))[0].now


async def read_memory(connection: Connection) -> Memory:
    return (await fetch(connection, READ_MEMORY))[0]


async def read_locks(connection: Connection) -> Locks:
    return (await fetch(connection, READ_LOCKS))[0]


async def what_is_logged(connection: Connection) -> list[str]:
    """The settings by which the text or the parameters of statements reach the server's log."""
    return [row.setting for row in await fetch(connection, WHAT_IS_LOGGED)]


async def logged_persons(connection: Connection) -> list[str]:
    """Who writes numbers and has no log_min_messages = panic: the daemon's role, and persons who may unmask."""
    return [row.name for row in await fetch(connection, LOGGED_PERSONS)]


async def rules_off(db: Reader) -> list[str]:
    """What a DBA has switched off of the triggers and unique indexes that keep the law; empty where all is well."""
    return [row.rule for row in await db.fetch(READ_RULES_OFF)]


async def read_replication(connection: Connection) -> Replication:
    return (await fetch(connection, READ_REPLICATION))[0]
