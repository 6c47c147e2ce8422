"""The bytes of TLS connections, without what the event loop's own way of reading them costs each request."""

from __future__ import annotations

import asyncio

DECRYPTED_MAX_BYTES = 262_144
"""How much of one connection is decrypted before the loop turns to another."""


class Decrypted(asyncio.BufferedProtocol):
    """Hands what a TLS connection decrypts to a protocol, by way of one buffer for all connections.

    Without a buffer uvloop allocates 256 KiB for each read, which the C library maps and unmaps: that was 12 of the 16 us that TLS cost a
    request.
    """

    _buffer = memoryview(bytearray(DECRYPTED_MAX_BYTES))

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self.connection_made = protocol.connection_made  # type: ignore[method-assign] # it is the protocol's own connection
        self.connection_lost = protocol.connection_lost  # type: ignore[method-assign]
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign]
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]
        self.eof_received = protocol.eof_received  # type: ignore[method-assign]
        self._data_received = protocol.data_received

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._data_received(bytes(self._buffer[:nbytes]))
