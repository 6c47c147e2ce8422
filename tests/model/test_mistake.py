"""The demonstration of a mistaken end, with few contracts. `make mistake` has a million."""

from __future__ import annotations

import asyncio

from tests.conftest import Site
from tests.model.mistake import tell, two_persons


def test_a_mistaken_end_is_told_to_nobody_and_two_persons_undo_it(site: Site) -> None:
    """600 contracts of 3,000, where 100 may end in an hour."""
    site.admit_operator()
    with two_persons(site.database) as persons:
        lines = asyncio.run(tell(site, persons, 3_000))
    assert [line for line in lines if not line.is_right] == []
