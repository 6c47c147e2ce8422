"""A registry full of life: 100 messengers of whom some are late, shut, held, refused or searching, and a law that will change."""

from __future__ import annotations

from pathlib import Path

from registryd.store import changes
from tests.conftest import Site, rewrite_policy

FIRST = 79_160_700_000
CODE = "zebra-okapi-"
"""Every identification code begins with it; no page shows one."""
TOKEN = "wombat"
"""Every endpoint's query holds it; no page shows it."""
LATE, SHUT, SEARCHING, BY_HAND = "north-chat", "messages-of-the-great-river-and-all-its-towns", "scanner", "paused"
USED_UP, PULLS, TOO_MUCH, BUSY = "used-up", "pulling", "refuses", "busy"
"""Names, as life.sql has them. The others are messenger-009 and so on; those from 010 to 014 are in the held wave."""
WANTED = f"https://new.example.net/hooks?token={TOKEN}"
"""The endpoint that BUSY asks for."""
WAVE = f"""
UPDATE registry.contract SET ended_at = now(), end_reason = 'terminated', status = 'ended'
 WHERE msisdn BETWEEN {FIRST + 500} AND {FIRST + 699};
ANALYZE;
"""


async def fill(site: Site) -> None:
    async with site.database.connect() as connection:
        await connection.execute(Path(__file__).with_suffix(".sql").read_text())
        # From here on a hundred ends are too many, so that the wave is held.
        await rewrite_policy(connection, "ends_max = 60, ends_max_share = 0")
        await connection.execute(WAVE)
        of_busy = "SELECT messenger_id, key_id FROM registry.messenger_key JOIN registry.messenger USING (messenger_id) WHERE name = $1"
        [key] = await connection.fetch(of_busy, BUSY)
    async with site.database.pool(1) as db:
        await changes.request_endpoint(db, key["messenger_id"], key["key_id"], WANTED)
