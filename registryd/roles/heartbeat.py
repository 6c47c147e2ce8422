"""Each process tells the database every ten seconds that it is there, what it is and where."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path

from registryd.domain.errors import Unavailable
from registryd.store import migrations, processes
from registryd.store.pool import Database
from registryd.store.processes import Beat

LEAVE_TIMEOUT_S = 1.0
"""A database that is away must not hold up the end of a process, which is then missed for a day."""


class Heartbeat:
    def __init__(self, db: Database, role: str, instance: int) -> None:
        self._db = db
        self._beat = Beat(host_name(), role, instance, os.getpid(), version("registryd"), migrations.migrations()[-1].version)

    async def beat(self) -> None:
        """Raises: Unavailable."""
        await processes.tell(self._db, self._beat)

    async def leave(self) -> None:
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(LEAVE_TIMEOUT_S):
                await processes.leave(self._db, self._beat)


def host_name(machine_id: Path = Path("/etc/machine-id")) -> str:
    """A name that no other host has: the hostname, which several hosts may share, with a hash of machine-id(5) where there is one.

    Leases are held under it, with the role and the instance: a process that starts again takes its own lanes back at once.
    """
    try:
        # machine-id(5) asks that it is hashed before it is shown.
        return f"{socket.gethostname()} {blake2b(machine_id.read_bytes(), digest_size=6, person=b'registryd worker').hexdigest()}"
    except OSError:
        return socket.gethostname()
