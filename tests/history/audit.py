"""Judges what is in the tables against what clients were told and what endpoints received."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Literal, NamedTuple, get_args

from tests.history.checker import Operation

Kind = Literal["lost", "doubled", "not authentic", "wrong"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Fault(NamedTuple):
    kind: Kind
    """What was acknowledged and is not there, or is called delivered and came to nobody; one notice under two ids; a push that its endpoint
    refuses; anything else.
    """
    what: str


class Row(NamedTuple):
    """A row of registry.binding."""

    number: int
    generation: int
    messenger: int
    code: str
    end_reason: str | None


class Notice(NamedTuple):
    """A notice as a table has it, or as an endpoint received it."""

    notification_id: str
    messenger: int
    generation: int
    code: str


def faults(
    operations: Sequence[tuple[int, Operation]],
    rows: Sequence[Row],
    notices: Sequence[Notice],
    received: Collection[Notice],
    *,
    settled: Iterable[Notice],
    accepted: Collection[Notice],
) -> list[Fault]:
    """`operations`: with their numbers. `notices`: all that is owed or was delivered; `settled`: what of them is called delivered.
    `received`: in any order, repeats included; `accepted`: what of it was authentic and acknowledged.
    """
    found = []
    of_code: defaultdict[tuple[int, str], list[Row]] = defaultdict(list)
    for row in rows:
        of_code[row.messenger, row.code].append(row)
    for number, op in operations:
        if op.kind == "bind" and op.told in ("recorded", "replaced"):
            bound = of_code[op.messenger, op.code]
            if [row.number for row in bound] != [number]:
                found.append(Fault("lost", f"an acknowledged binding has {len(bound)} rows, or one on another number: {op.code}"))
    told = Counter((notice.messenger, notice.code) for notice in notices)
    for row in rows:
        expected = 1 if row.end_reason == "terminated" else 0
        if told[row.messenger, row.code] != expected:
            found.append(
                Fault("wrong", f"a binding that ended as {row.end_reason} has {told[row.messenger, row.code]} notices: {row.code}")
            )
    rows_told = {(row.messenger, row.generation, row.code) for row in rows}
    right = set(notices)
    without = [n for n in notices if (n.messenger, n.generation, n.code) not in rows_told]
    found += [Fault("wrong", f"a notice without a binding: {n.code}") for n in without]
    found += [Fault("wrong", f"pushed what is not owed: {n.code}") for n in set(received) if n not in right]
    arrived = set(accepted)
    found += [Fault("lost", f"called delivered, and nobody acknowledged it: {n.code}") for n in settled if n not in arrived]
    ids: defaultdict[tuple[int, str], set[str]] = defaultdict(set)
    for notice in received:
        ids[notice.messenger, notice.code].add(notice.notification_id)
    found += [Fault("doubled", f"one notice came under {len(of)} ids: {code}") for (_, code), of in ids.items() if len(of) > 1]
    return found
