"""Resolves names in threads of their own, so that a name whose servers hang holds up no other messenger.

aiohttp would use the threads of the loop's executor, which are few and shared: six names that hang would stop them all. Here each name
has at most one look-up at a time, for which everybody who asks for the name waits. So a name that hangs for minutes costs one sleeping
thread.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

LOOKUP_TIMEOUT_S = 5.0

Key = tuple[str, int, int]


class Resolver(AbstractResolver):
    def __init__(self) -> None:
        self._lookups: dict[Key, asyncio.Future[list[Any]]] = {}

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        """Raises: OSError."""
        key = (host, port, int(family))
        try:
            lookup = self._lookups.get(key) or self._begin(key)
        except RuntimeError:
            raise OSError("no thread can be started") from None
        try:
            found = await asyncio.wait_for(asyncio.shield(lookup), LOOKUP_TIMEOUT_S)
        except TimeoutError:
            raise OSError("the name's servers do not answer") from None
        return [
            ResolveResult(hostname=host, host=address[0], port=address[1], family=kind, proto=proto, flags=socket.AI_NUMERICHOST)
            for kind, _, proto, _, address in found
        ]

    async def close(self) -> None:
        """Threads end with their look-ups. They do not keep the process from ending."""

    def _begin(self, key: Key) -> asyncio.Future[list[Any]]:
        """Raises: RuntimeError, where no thread can be started."""
        loop = asyncio.get_running_loop()
        lookup: asyncio.Future[list[Any]] = loop.create_future()

        def end(found: list[Any] | Exception) -> None:
            self._lookups.pop(key, None)
            if isinstance(found, Exception):
                lookup.set_exception(found)
                lookup.exception()  # perhaps nobody waits any more
            else:
                lookup.set_result(found)

        def look_up() -> None:
            host, port, family = key
            found: list[Any] | Exception
            try:
                found = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
            except (OSError, UnicodeError) as error:
                found = error
            with suppress(RuntimeError):  # the loop is closed: the daemon has stopped meanwhile
                loop.call_soon_threadsafe(end, found)

        threading.Thread(target=look_up, name="look-up", daemon=True).start()
        self._lookups[key] = lookup  # only now: one that never began would bar its name for ever
        return lookup
