"""The checker finds what is planted, and nothing in what is right."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest

from registryd.client.receiver import Receipt
from tests.history.audit import Fault, Notice, Row, faults
from tests.history.checker import Bound, Notices, Operation, State, find_anomaly
from tests.history.load import acknowledged

NOTHING: Bound = frozenset()
LIVE = State(True, 1, 0.0, NOTHING)
NONE = State(False, 0, 0.0, NOTHING)


def op(kind: str, began: float, ended: float, told: str | None, **facts: object) -> Operation:
    return Operation(kind, began, ended, told, **facts)  # type: ignore[arg-type] # tests write them by hand


def bind(began: float, ended: float, told: str | None, code: str, messenger: int = 1) -> Operation:
    return op("bind", began, ended, told, messenger=messenger, code=code)


def end(began: float, ended: float, told: str | None, at: float = 0.0) -> Operation:
    return op("terminate", began, ended, told, at=at or began)


def start(began: float, ended: float, told: str | None, at: float = 0.0) -> Operation:
    return op("activate", began, ended, told, at=at or began)


def seen(is_live: bool, generation: int, bound: Bound = NOTHING) -> Operation:
    return op("look", 1000, 1001, "", seen=(is_live, generation, bound))


def case(name: str, *operations: Operation, notices: Notices = MappingProxyType({})) -> Any:
    return pytest.param(list(operations), notices, id=name)


@pytest.mark.parametrize(
    ("operations", "notices"),
    [
        case("one after another", op("ask", 1, 2, "present"), end(3, 4, "applied"), op("ask", 5, 6, "absent")),
        case("during an end, absent from then on", end(1, 9, "applied"), op("ask", 2, 3, "absent"), op("ask", 4, 5, "absent")),
        case("the end lies between two queries", end(1, 9, "applied"), op("ask", 2, 3, "present"), op("ask", 4, 5, "absent")),
        case("two codes at once", bind(1, 5, "recorded", "a"), bind(2, 4, "replaced", "b"), seen(True, 1, frozenset({(1, "b")}))),
        case("notified", bind(1, 2, "recorded", "a"), end(3, 4, "applied"), seen(False, 1), notices={1: frozenset({(1, "a")})}),
        case("the code came after the end", bind(1, 5, "absent", "a"), end(2, 4, "applied"), seen(False, 1)),
        case("no answer, yet bound", bind(1, 2, None, "a"), end(3, 4, "applied"), seen(False, 1), notices={1: frozenset({(1, "a")})}),
        case("no answer, and not bound", bind(1, 2, None, "a"), end(3, 4, "applied"), seen(False, 1)),
        case("an end without an answer, later", end(1, 2, None), op("ask", 3, 4, "present"), op("ask", 5, 6, "absent")),
        case("events out of order", start(1, 2, "nothing"), end(3, 4, "applied"), start(5, 6, "nothing", at=2.0), seen(False, 1)),
    ],
)
def test_what_some_order_explains_is_no_anomaly(operations: list[Operation], notices: Notices) -> None:
    assert find_anomaly(operations, notices, LIVE) is None


@pytest.mark.parametrize(
    ("operations", "notices"),
    [
        case("absent while live", op("ask", 1, 2, "absent")),
        case("present after an end", end(1, 2, "applied"), op("ask", 3, 4, "present")),
        case("absent, then present again", end(1, 9, "applied"), op("ask", 2, 3, "absent"), op("ask", 4, 5, "present")),
        case("ended twice", end(1, 9, "applied"), end(2, 8, "applied")),
        case("two live contracts", start(1, 2, "applied")),
        case("a second code that replaced nothing", bind(1, 2, "recorded", "a"), bind(3, 4, "recorded", "b")),
        case("an end that notified nobody", bind(1, 2, "recorded", "a"), end(3, 4, "applied")),
        case(
            "the replaced code notified",
            bind(1, 2, "recorded", "a"),
            bind(3, 4, "replaced", "b"),
            end(5, 6, "applied"),
            notices={1: frozenset({(1, "a")})},
        ),
        case("bound after the end", end(1, 2, "applied"), bind(3, 4, "recorded", "a")),
        case(
            "notified under another generation",
            end(1, 2, "applied"),
            start(3, 4, "applied"),
            bind(5, 6, "recorded", "a"),
            end(7, 8, "applied"),
            notices={1: frozenset({(1, "a")})},
        ),
        case("an end that was refused and took effect", end(1, 2, "nothing"), op("ask", 3, 4, "absent")),
        case("a binding that was acknowledged and is gone", bind(1, 2, "recorded", "a"), seen(True, 1)),
        case(
            "an end without an answer, undone",
            op("ask", 1, 2, "present"),
            end(3, 4, None),
            op("ask", 5, 6, "absent"),
            op("ask", 7, 8, "present"),
        ),
    ],
)
def test_what_no_order_explains_is_found(operations: list[Operation], notices: Notices) -> None:
    assert find_anomaly(operations, notices, LIVE) is not None


def drawn(random_: random.Random, length: int) -> tuple[list[Operation], dict[int, Bound]]:
    """A history of one number as 16 clients of a right registry would see it: each operation takes effect at a moment of its own."""
    state, operations, notices = NONE, [], {}
    for i in range(length):
        moment = i + 1.0
        began, ended = moment - 8 * random_.random(), moment + 8 * random_.random()
        kind = random_.choices(["bind", "ask", "terminate", "activate"], [60, 10, 15, 15])[0]
        messenger, code = random_.randint(1, 3), f"c{i}"
        earlier = frozenset(binding for binding in state.bound if binding[0] == messenger)
        told = "present" if state.is_live else "absent"
        if kind == "bind" and state.is_live:
            told = "replaced" if earlier else "recorded"
            state = state._replace(bound=state.bound - earlier | {(messenger, code)})
        elif kind == "terminate":
            told = "applied" if state.is_live else "nothing"
            if state.is_live:
                notices[state.generation] = state.bound
                state = State(False, state.generation, moment, NOTHING)
        elif kind == "activate":
            told = "nothing" if state.is_live else "applied"
            state = state if state.is_live else State(True, state.generation + 1, moment, NOTHING)
        is_lost = random_.random() < 0.01
        operations.append(op(kind, began, ended, None if is_lost else told, messenger=messenger, code=code, at=moment))
    operations.append(op("look", length + 100, length + 101, "", seen=(state.is_live, state.generation, state.bound)))
    return operations, notices


def test_long_histories_of_a_right_registry_are_explained() -> None:
    for seed in range(20):
        operations, notices = drawn(random.Random(seed), 500)
        assert find_anomaly(operations, notices, NONE) is None


def _lie(op_: Operation) -> Operation:
    other = {
        "present": "absent",
        "absent": "present",
        "recorded": "absent",
        "replaced": "absent",
        "applied": "nothing",
        "nothing": "applied",
    }
    told = other[op_.told or ""]
    return op_._replace(told="recorded" if op_.kind == "bind" and told == "present" else told)


def test_a_wrong_answer_planted_among_hundreds_is_found() -> None:
    """Some lies are no contradiction, because another order explains them: a query beside an end may have come before or after it. So the
    lie is told where the neighbours leave no choice: alone in time.
    """
    for seed in range(40):
        random_ = random.Random(seed)
        operations, notices = drawn(random_, 300)
        apart = [op_._replace(began=op_.at - 0.4, ended=op_.at + 0.4) if op_.kind != "look" else op_ for op_ in operations]
        assert find_anomaly(apart, notices, NONE) is None
        answered = [i for i, op_ in enumerate(apart) if op_.told and op_.kind != "look"]
        lying = random_.choice(answered)
        apart[lying] = _lie(apart[lying])
        assert find_anomaly(apart, notices, NONE) is not None, apart[lying]


def test_a_notice_that_is_missing_or_too_much_is_found_in_a_history() -> None:
    for seed in range(8):
        random_ = random.Random(seed)
        operations, notices = drawn(random_, 120)
        generation = random_.choice([g for g, bound in notices.items() if bound])
        dropped = {**notices, generation: frozenset(sorted(notices[generation])[1:])}
        added = {**notices, generation: notices[generation] | {(9, "nobody's")}}
        assert find_anomaly(operations, dropped, NONE) is not None
        assert find_anomaly(operations, added, NONE) is not None


NUMBER = 79_160_000_001
RIGHT_OPS = [(NUMBER, bind(1, 2, "recorded", "a")), (NUMBER, bind(3, 4, "replaced", "b")), (NUMBER, end(5, 6, "applied"))]
RIGHT_ROWS = [Row(NUMBER, 1, 1, "a", "replaced"), Row(NUMBER, 1, 1, "b", "terminated")]
RIGHT_NOTICES = [Notice("id-b", 1, 1, "b")]


def judged(ops: list[tuple[int, Operation]], rows: list[Row], notices: list[Notice], pushed: list[Notice]) -> list[Fault]:
    """Where each notice is settled and each push acknowledged."""
    return faults(ops, rows, notices, pushed, settled=notices, accepted=pushed)


def test_tables_that_agree_with_what_was_told_have_no_fault() -> None:
    assert judged(RIGHT_OPS, RIGHT_ROWS, RIGHT_NOTICES, RIGHT_NOTICES * 2) == []
    assert faults(RIGHT_OPS, RIGHT_ROWS, RIGHT_NOTICES, [], settled=[], accepted=[]) == [], "it is owed still"
    pushed_again = RIGHT_NOTICES * 2
    assert faults(RIGHT_OPS, RIGHT_ROWS, RIGHT_NOTICES, pushed_again, settled=RIGHT_NOTICES, accepted=RIGHT_NOTICES) == []


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda o, r, n, p: (o, r[1:], n, p), id="an acknowledged binding without a row"),
        pytest.param(lambda o, r, n, p: (o, [r[0]._replace(number=NUMBER + 1), r[1]], n, p), id="bound to another number"),
        pytest.param(lambda o, r, n, p: (o, r, [], []), id="a terminated binding without a notice"),
        pytest.param(lambda o, r, n, p: (o, r, [*n, Notice("id-c", 1, 1, "b")], p), id="two notices of one binding"),
        pytest.param(lambda o, r, n, p: (o, r, [*n, Notice("id-a", 1, 1, "a")], p), id="a replaced binding notified"),
        pytest.param(lambda o, r, n, p: (o, r, n, [*p, Notice("id-x", 1, 1, "x")]), id="pushed what nobody owes"),
        pytest.param(lambda o, r, n, p: (o, r, n, [*p, Notice("id-2", 1, 1, "b")]), id="pushed again under another id"),
        pytest.param(lambda o, r, n, p: (o, r, n, [p[0]._replace(generation=2)]), id="pushed with another generation"),
        pytest.param(lambda o, r, n, p: (o, r, n, [p[0]._replace(messenger=2)]), id="pushed to another messenger"),
        pytest.param(lambda o, r, n, p: (o, r, n, []), id="settled and never pushed"),
    ],
)
def test_a_fault_planted_in_the_tables_is_found(change: Callable[..., tuple[list, list, list, list]]) -> None:  # type: ignore[type-arg]
    assert judged(*change(RIGHT_OPS, RIGHT_ROWS, RIGHT_NOTICES, RIGHT_NOTICES)) != []


def test_a_push_that_was_not_acknowledged_settles_nothing() -> None:
    receipts = [receipt(True, 503), receipt(True, 0), receipt(False, 401), receipt(False, 204)]
    assert acknowledged(receipts) == []
    assert acknowledged([*receipts, receipt(True, 204)]) == [receipt(True, 204)]
    [fault] = faults(RIGHT_OPS, RIGHT_ROWS, RIGHT_NOTICES, RIGHT_NOTICES, settled=RIGHT_NOTICES, accepted=[])
    assert fault.kind == "lost"


def receipt(verified: bool, status: int) -> Receipt:
    return Receipt("id", verified, "" if verified else "unsigned", {}, status)
