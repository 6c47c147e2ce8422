"""The state machines drawn in the docstrings, the constants of the code and the types of the database say the same."""

from __future__ import annotations

import asyncio
import re
from types import ModuleType
from typing import get_args

import pytest

from registryd.domain import binding, contract, errors, notification
from registryd.domain.errors import RegistryError
from registryd.store import lanes
from tests.conftest import TestDatabase


def drawn(module: ModuleType) -> str:
    """The line of a module's docstring that draws its state machine."""
    [line] = [line.strip() for line in (module.__doc__ or "").splitlines() if "->" in line]
    return line


def states(diagram: str) -> set[str]:
    return set(re.findall(r"[a-z_]+", re.sub(r"\(.*?\)", "", diagram)))


def labels(diagram: str) -> set[str]:
    return set(re.findall(r"[a-z_]+", "".join(re.findall(r"\((.*?)\)", diagram))))


def test_drawn_states_are_the_constants() -> None:
    assert states(drawn(contract)) == set(contract.STATUSES)
    assert drawn(contract) == "active <-> suspended ; active|suspended -> ended"
    assert (states(drawn(binding)), labels(drawn(binding))) == (set(binding.STATES), set(binding.END_REASONS))
    assert (states(drawn(notification)), labels(drawn(notification))) == (set(notification.STATES), set(notification.CHANNELS))
    assert states(drawn(lanes)) == {"free", "leased", "open", "gated"}


def test_constants_are_the_types_of_the_database(database: TestDatabase) -> None:
    async def look() -> dict[str, list[str]]:
        async with database.connect() as connection:
            rows = await connection.fetch(
                "SELECT t.typname, array_agg(e.enumlabel::text ORDER BY e.enumsortorder) AS words FROM pg_enum AS e"
                " JOIN pg_type AS t ON t.oid = e.enumtypid WHERE t.typnamespace = 'registry'::regnamespace GROUP BY t.typname"
            )
            return {row["typname"]: row["words"] for row in rows}

    words = asyncio.run(look())
    assert words["contract_status"] == list(contract.STATUSES)
    assert words["end_reason"] == list(get_args(contract.EndReason))
    assert words["binding_end_reason"] == list(binding.END_REASONS)
    assert words["delivery_channel"] == list(notification.CHANNELS)


@pytest.mark.parametrize("kind", RegistryError.__subclasses__(), ids=lambda kind: kind.__name__)
def test_an_errors_docstring_is_its_message(kind: type[RegistryError]) -> None:
    error = kind() if kind is not errors.QuotaExceeded else errors.QuotaExceeded(5)
    assert str(error) == (kind.__doc__ or "").strip()
    assert str(error).endswith(".")
