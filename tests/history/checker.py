"""Judges what clients saw: is there an order of all operations on a number that explains every answer?

Each operation takes effect at one moment between its call and its answer (linearizability). The search is Wing and Gong's, with the states
remembered that it has seen (Lowe). It goes number by number, because codes are used once, so no two numbers have anything in common. An
operation without an answer (503, a cut connection) may have taken effect at any time after its call, or never.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, assert_never

Bound = frozenset[tuple[int, str]]
"""Messengers and their codes on a number."""


class Operation(NamedTuple):
    """`told` None: there was no answer. Times are of one steady clock."""

    kind: Literal["ask", "bind", "terminate", "activate", "look"]
    began: float
    ended: float
    told: str | None
    """ask: `present` or `absent`; bind: `recorded`, `replaced` or `absent`; terminate, activate: `applied` or `nothing`; look: nothing."""
    messenger: int = 0
    code: str = ""
    """The identification code; of an event its id."""
    at: float = 0.0
    """Of an event: when it occurred."""
    seen: tuple[bool, int, Bound] = (False, 0, frozenset())
    """Of a look into the tables, when all was over: whether the contract is live, its generation, and what is bound."""


class State(NamedTuple):
    is_live: bool
    generation: int
    since: float
    """When the contract started, or ended."""
    bound: Bound


Notices = Mapping[int, Bound]
"""What was notified of a number, by the generation of the contract that ended."""


class Anomaly(NamedTuple):
    """No order explains the operations up to here."""

    explained: int
    """How many of the operations with an answer the best order explains."""
    stuck: list[Operation]
    """Those that would have to come next, of which none can."""
    state: State


def find_anomaly(operations: Sequence[Operation], notices: Notices, first: State) -> Anomaly | None:
    """None where an order explains every answer and every notice."""
    known = sorted((op for op in operations if op.told is not None), key=lambda op: op.began)
    unknown = [op for op in operations if op.told is None and op.kind != "ask"]
    # A node: how many of `known` are done without a gap, which of those after them are (bits), which of `unknown` are, and the state.
    todo = [(0, 0, 0, first)]
    seen = set(todo)
    best = Anomaly(-1, [], first)
    while todo:
        done, more, used, state = todo.pop()
        if done == len(known):
            return None
        candidates, limit = _next(known, done, more)
        if done + more.bit_count() > best.explained:
            best = Anomaly(done + more.bit_count(), [known[i] for i in candidates], state)
        # What is right and changes nothing is taken at once: no later place of it could matter.
        idle = next((i for i in candidates if state in effects(state, known[i], notices)), None)
        if idle is not None:
            following = [(*_advanced(done, more | 1 << (idle - done)), used, state)]
        else:
            following = [
                (*_advanced(done, more | 1 << (i - done)), used, after) for i in candidates for after in effects(state, known[i], notices)
            ]
            following += [
                (done, more, used | 1 << i, after)
                for i, op in enumerate(unknown)
                if not used >> i & 1 and op.began < limit
                for after in effects(state, op, notices)
                if after != state
            ]
        for node in following:
            if node not in seen:
                seen.add(node)
                todo.append(node)
    return best


def _next(known: Sequence[Operation], done: int, more: int) -> tuple[list[int], float]:
    """The operations that may come next: all that were called before the first of them was answered. And when that was."""
    found, limit = [], float("inf")
    for i in range(done, len(known)):
        if known[i].began > limit:
            break
        if not more >> (i - done) & 1:
            found.append(i)
            limit = min(limit, known[i].ended)
    found = [i for i in found if known[i].began <= limit]
    # The last is tried first: so what was answered first is.
    return sorted(found, key=lambda i: -known[i].ended), limit


def _advanced(done: int, more: int) -> tuple[int, int]:
    while more & 1:
        done, more = done + 1, more >> 1
    return done, more


def effects(state: State, op: Operation, notices: Notices) -> Iterator[State]:
    """The state after the operation, where its answer is right in this state; nothing where it is not."""
    match op.kind:
        case "ask":
            if op.told == ("present" if state.is_live else "absent"):
                yield state
        case "bind":
            earlier = frozenset(binding for binding in state.bound if binding[0] == op.messenger)
            right = "absent" if not state.is_live else "replaced" if earlier else "recorded"
            if op.told in (right, None):
                yield state._replace(bound=state.bound - earlier | {(op.messenger, op.code)}) if state.is_live else state
        case "terminate":
            works = state.is_live and op.at >= state.since
            if works and op.told in ("applied", None) and notices.get(state.generation, frozenset()) == state.bound:
                yield State(False, state.generation, op.at, frozenset())
            elif not works and op.told in ("nothing", None):
                yield state
        case "activate":
            works = not state.is_live and op.at >= state.since
            if works and op.told in ("applied", None):
                yield State(True, state.generation + 1, op.at, frozenset())
            elif not works and op.told in ("nothing", None):
                yield state
        case "look":
            if op.seen == (state.is_live, state.generation, state.bound):
                yield state
        case _:
            assert_never(op.kind)
