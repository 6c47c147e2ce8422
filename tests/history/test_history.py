"""What sixteen clients over HTTP were told, some order of their operations explains. The long form is `make history`."""

from __future__ import annotations

import asyncio

from tests.conftest import Site
from tests.history.__main__ import run

OPERATIONS = 2_500


def test_some_order_explains_what_concurrent_clients_were_told(site: Site) -> None:
    """Two processes answer, two deliver. Every acknowledged binding has its row, and every notice its binding."""
    clients, anomalies = asyncio.run(run(site, OPERATIONS, 1, is_faulty=False))
    assert anomalies == []
    assert len(clients.operations) > OPERATIONS * 0.99
    assert {"bind recorded", "bind replaced", "bind absent", "terminate applied", "activate applied"} <= set(clients.told)
