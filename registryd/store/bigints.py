"""Arrays of bigint on their way to the database, a thousand at once.

asyncpg asks of every element whether it is an array in its turn. For the numbers of a batch that took as long as all else that it does for
the statement. Here they are written as columns of words, as PostgreSQL's array_recv reads them.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from registryd.store.session import Connection

ARRAY_OID, ELEMENT_OID = 1016, 20
"""bigint[] and bigint in pg_type: built in, the same in every database."""
_HEADER = struct.Struct("!iiiii")
"""Dimensions (one), whether there are NULLs, the element's type, how many there are, and the first one's index."""
_LENGTH = int.from_bytes((8).to_bytes(4, "big"), sys.byteorder)
"""What stands before each element: its length, in the network's order."""


def write_many_at_once(connection: Connection) -> None:
    """Lets a session write and read bigint[] by `encode` and `decode`. NULLs and arrays of arrays are not needed, and raise."""
    # Connection.set_type_codec takes no array.
    connection.get_settings().add_python_codec(ARRAY_OID, "_int8", "pg_catalog", [], "scalar", encode, decode, "binary")


def encode(numbers: Sequence[int]) -> bytes:
    """Raises: OverflowError, TypeError."""
    elements = array("q", numbers)
    if sys.byteorder == "little":
        elements.byteswap()
    words = memoryview(elements).cast("B").cast("I")
    written = array("I", [_LENGTH]) * (3 * len(elements))
    columns = memoryview(written)
    columns[1::3], columns[2::3] = words[0::2], words[1::2]
    return _HEADER.pack(1, 0, ELEMENT_OID, len(elements), 1) + written.tobytes()


def decode(received: bytes) -> list[int]:
    if len(received) < _HEADER.size:  # an empty array has no dimension
        return []
    _, has_nulls, _, count, _ = _HEADER.unpack_from(received)
    if has_nulls or len(received) != _HEADER.size + 12 * count:
        raise ValueError("an array of one dimension without NULLs is wanted")
    return [number for _, number in struct.iter_unpack("!iq", received[_HEADER.size :])]
