"""Tells of waves of ends that hold themselves: at once, and again when half of the notice period is gone. Only a person releases them."""

from __future__ import annotations

from registryd import observe
from registryd.store import holds
from registryd.store.pool import Database


async def watch(db: Database) -> None:
    """Shows how many waves are held, and tells of each once for all processes. Raises: Unavailable."""
    held = await holds.waves(db)
    observe.waves_held.set(sum(wave.held > 0 for wave in held))
    for wave in held:
        alarms = 2 if wave.half_is_gone else 1
        if alarms > wave.alarms and await holds.note_alarm(db, wave, alarms):
            observe.event(
                "wave_held",
                "error",
                wave=wave.wave_id,
                ended_by=wave.ended_by,
                ends=wave.ends,
                notifications=wave.held,
                half_is_gone=wave.half_is_gone,
            )
