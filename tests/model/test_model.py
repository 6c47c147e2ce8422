"""The registry does what a plain model of it says, whatever comes in whatever order."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.conftest import LONG, TestDatabase
from tests.model.machine import RegistryMachine
from tests.model.mistake import two_persons
from tests.model.world import World

STEPS_MIN = 15_000 if LONG else 500
STEPS_PER_EXAMPLE = 50
EXAMPLES = STEPS_MIN // 25
"""Enough for so many steps: an example takes a random number of them."""


def run(database: TestDatabase, directory: Path, examples: int) -> int:
    """Returns how many steps were taken. Raises: AssertionError, where the two differ."""
    with two_persons(database) as persons, asyncio.Runner() as runner:
        world = World(database, persons, directory)
        runner.run(world.__aenter__())
        RegistryMachine.world, RegistryMachine.loop, RegistryMachine.steps = world, runner.get_loop(), 0
        try:
            run_state_machine_as_test(
                RegistryMachine,
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=STEPS_PER_EXAMPLE,
                    deadline=None,
                    derandomize=not LONG,
                    database=None,
                    report_multiple_bugs=False,
                    phases=[Phase.generate, *([Phase.shrink] if LONG else [])],
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(world.__aexit__())
    return RegistryMachine.steps


def test_the_registry_and_a_plain_model_of_it_never_differ(database: TestDatabase, tmp_path: Path) -> None:
    """The short form takes the same steps each time, and shows what failed as it was drawn; the long form draws anew, and shrinks."""
    assert run(database, tmp_path, EXAMPLES) >= STEPS_MIN


@pytest.mark.skipif(LONG, reason="a failure that is expected need not be shrunk")
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param("ALTER TABLE registry.contract DISABLE TRIGGER notify_messengers_of_ends", id="an end that nobody is told"),
        pytest.param("ALTER TABLE registry.binding DISABLE TRIGGER count_ended_bindings", id="a figure that is not counted"),
        pytest.param(
            "CREATE OR REPLACE FUNCTION registry.wave_of(ending bigint) RETURNS bigint LANGUAGE sql AS 'SELECT NULL::bigint'",
            id="a wave that is not held",
        ),
    ],
)
def test_a_planted_fault_is_found(database: TestDatabase, tmp_path: Path, fault: str) -> None:
    done = database.psql("-c", fault)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AssertionError):
        run(database, tmp_path, EXAMPLES)
