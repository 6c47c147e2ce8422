"""Accepts connections from a listener that several processes share: a few of a burst at a time, and the next after a moment.

Without the pause the process that wakes first takes nearly all of a burst (63 and 1 of 64 connections were measured), and connections are
kept for long. In the pause the others take theirs; a process that is busy comes late, and takes fewer.

Whether the listener blocks is a property that the processes share too: systemd clears O_NONBLOCK each time it hands the listener to one
of them, and in the others `accept` would then wait for a connection that another process took. So it is set before each turn, and a
timeout of the socket's own bounds the wait of an `accept` that was called in between.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable

from registryd.http.decrypting import Decrypted
from registryd.http.handshakes import Handshakes

ACCEPT_MAX = 4
PAUSE_S = 0.001
FULL_PAUSE_S = 1.0
ACCEPT_TIMEOUT_US = 1_000
TLS_HANDSHAKE_TIMEOUT_S = 10.0
TLS_SHUTDOWN_TIMEOUT_S = 2.0


class Opening:
    """A connection whose handshake is under way: a stranger's, who can make room for others."""

    owner = ""
    is_idle = True

    def __init__(self, acceptor: Acceptor, task: asyncio.Task[None], since: float) -> None:
        self._acceptor = acceptor
        self._task = task
        self.idle_since = since

    def leave(self) -> None:
        del self._acceptor.opening[self._task]
        self._task.cancel()


class Acceptor:
    """Makes a protocol of each connection, from now until `close`. One for which `has_room()` says no is closed at once."""

    def __init__(
        self,
        listener: socket.socket,
        backlog: int,
        has_room: Callable[[], bool],
        protocol_factory: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext | None,
        handshakes: Handshakes,
    ) -> None:
        listener.listen(backlog)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, ACCEPT_TIMEOUT_US))
        self._listener = listener
        self._has_room = has_room
        self._protocol_factory = protocol_factory
        self._tls = tls
        self._handshakes = handshakes
        self._loop = asyncio.get_running_loop()
        self.opening: dict[asyncio.Task[None], Opening] = {}
        """Connections that were accepted and have not ended their handshake. Their clients may have sent a request already."""
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
        self._listener.setblocking(False)
        try:
            for _ in range(ACCEPT_MAX):
                client, _address = self._listener.accept()
                if not self._has_room():
                    client.close()
                    continue
                client.setblocking(False)
                task = self._loop.create_task(self._open(client))
                self.opening[task] = Opening(self, task, self._loop.time())
                task.add_done_callback(self._opened)
        except (BlockingIOError, ConnectionAbortedError):  # nobody waits any more
            pass
        except OSError:  # out of descriptors
            pause_s = FULL_PAUSE_S
        self._loop.remove_reader(self._listener)
        self._turn = self._loop.call_later(pause_s, self._resume)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self.opening.pop(task, None)

    async def _open(self, client: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._protocol_factory if self._tls is None else lambda: Decrypted(self._protocol_factory()),
                client,
                ssl=self._tls,
                ssl_handshake_timeout=TLS_HANDSHAKE_TIMEOUT_S if self._tls else None,
                ssl_shutdown_timeout=TLS_SHUTDOWN_TIMEOUT_S if self._tls else None,
            )
        except OSError as error:
            if self._tls is not None:
                self._handshakes.tell_failure(error)
