"""The list of planted bugs does not rot: each can be planted in the tree as it is, and names a test that there is."""

from __future__ import annotations

import ast
from collections import Counter

import pytest

from tests.mutants.mutants import ROOT, Mutant, Stale, copy_of_tree, planted, read, run

MUTANTS = read()


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name.replace(" ", "_") for mutant in MUTANTS])
def test_every_bug_can_be_planted_and_names_a_test_that_there_is(mutant: Mutant) -> None:
    """Where this fails because the code has changed: change the mutant's old and new text too, and run `make mutants ARGS='its name'`."""
    text = planted(mutant, (ROOT / mutant.file).read_text())
    if mutant.file.endswith(".py"):
        ast.parse(text)
    file, _, name = mutant.test.partition("::")
    tests = ast.parse((ROOT / file).read_text()).body
    assert name in {test.name for test in tests if isinstance(test, ast.FunctionDef)}


def test_every_bug_has_a_name_and_a_reason_of_its_own() -> None:
    for facts in ([mutant.name for mutant in MUTANTS], [mutant.why for mutant in MUTANTS]):
        assert [fact for fact, times in Counter(facts).items() if times > 1 or not fact] == []


RULE = "registryd/domain/schedule.py"
TEST = "tests/domain/test_schedule.py::test_gap_never_exceeds_a_twentieth_of_the_slack"


@pytest.mark.parametrize(
    ("old", "new", "outcome"),
    [
        pytest.param("max(slack / 20, GAP_MIN)", "max(slack, GAP_MIN)", "assertion", id="a bug"),
        pytest.param('"""How long to wait', '"""How long to sleep', "passed", id="no bug"),
        pytest.param("GAP_MAX = timedelta(minutes=15)", "GAP_MOST = timedelta(minutes=15)", "other failure", id="no such name"),
        pytest.param("from datetime import datetime, timedelta", "import datetime", "not run", id="no import"),
    ],
)
def test_a_bug_is_caught_by_an_assertion_alone(old: str, new: str, outcome: str) -> None:
    with copy_of_tree(Mutant("one", RULE, old, new, "", TEST)) as tree:
        assert run(tree, [TEST])[TEST].outcome == outcome


def test_a_bug_whose_place_has_changed_is_not_planted() -> None:
    for old in ("no such text", "GAP_MIN"):
        with pytest.raises(Stale), copy_of_tree(Mutant("one", RULE, old, "", "", TEST)):
            pass
