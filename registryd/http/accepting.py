"""Accepts connections from a listener that several workers share: a few of a burst at a time, and the next after a moment.

The worker that wakes first would else take nearly all of a burst (of 64 connections, two workers took up to 63 and 1), and connections
are kept. In that moment the others have their turn; one that is busy comes late to its own, and takes fewer.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable

ACCEPT_MAX = 4
PAUSE_S = 0.001
FULL_PAUSE_S = 1.0
TLS_HANDSHAKE_TIMEOUT_S = 10.0
TLS_SHUTDOWN_TIMEOUT_S = 2.0


class Acceptor:
    """Makes a protocol of each connection, from now until `close`."""

    def __init__(
        self, listener: socket.socket, backlog: int, protocol_factory: Callable[[], asyncio.Protocol], tls: ssl.SSLContext | None
    ) -> None:
        listener.listen(backlog)
        self._listener = listener
        self._protocol_factory = protocol_factory
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._turn: asyncio.TimerHandle | None = None
        self._resume()

    def close(self) -> None:
        """Accepts no more; who waits is left to whoever shares the listener."""
        if self._turn is not None:
            self._turn.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()

    def _resume(self) -> None:
        self._turn = None
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        pause_s = PAUSE_S
        try:
            for _ in range(ACCEPT_MAX):
                client, _address = self._listener.accept()
                client.setblocking(False)
                task = self._loop.create_task(self._open(client))
                self._opening.add(task)
                task.add_done_callback(self._opening.discard)
        except (BlockingIOError, ConnectionAbortedError):  # nobody waits any more
            pass
        except OSError:  # out of descriptors
            pause_s = FULL_PAUSE_S
        self._loop.remove_reader(self._listener)
        self._turn = self._loop.call_later(pause_s, self._resume)

    async def _open(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):  # a handshake that failed
            await self._loop.connect_accepted_socket(
                self._protocol_factory,
                client,
                ssl=self._tls,
                ssl_handshake_timeout=TLS_HANDSHAKE_TIMEOUT_S if self._tls else None,
                ssl_shutdown_timeout=TLS_SHUTDOWN_TIMEOUT_S if self._tls else None,
            )
