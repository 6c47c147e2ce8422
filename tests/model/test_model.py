"""The registry does what a plain model of it says, whatever comes in whatever order."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.conftest import LONG, TestDatabase
from tests.model.machine import RegistryMachine
from tests.model.world import World

STEPS_MIN = 15_000 if LONG else 500
STEPS_PER_EXAMPLE = 50
EXAMPLES = STEPS_MIN // 25
"""Enough for so many steps: an example takes a random number of them."""


def test_the_registry_and_a_plain_model_of_it_never_differ(database: TestDatabase, tmp_path: Path) -> None:
    """The short form takes the same steps each time, and shows what failed as it was drawn; the long form draws anew, and shrinks."""
    loop = asyncio.new_event_loop()
    world = World(database, tmp_path)
    loop.run_until_complete(world.__aenter__())
    RegistryMachine.world, RegistryMachine.loop, RegistryMachine.steps = world, loop, 0
    try:
        run_state_machine_as_test(
            RegistryMachine,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS_PER_EXAMPLE,
                deadline=None,
                derandomize=not LONG,
                database=None,
                phases=[Phase.generate, *([Phase.shrink] if LONG else [])],
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        loop.run_until_complete(world.__aexit__())
        loop.close()
    assert RegistryMachine.steps >= STEPS_MIN
