"""Reads a file or standard input in blocks of whole lines: plain, gzip or zstd, told by the first bytes.

A compressed file that is cut short is refused. Were it taken for a shorter one, a snapshot would end the contracts that it lacks.
"""

from __future__ import annotations

import gzip
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, cast

from registryd.domain.files import ImportRefused

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

STDIN = Path("-")
BLOCK_BYTES = 1 << 18
LINE_MAX_BYTES = 4096
_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, zstd.ZstdError)


class Source:
    """One file being read. `size`: its length in bytes as stored; `written_at`: when it was last written. Both are None for a pipe."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        facts = os.fstat(file.fileno())
        self._is_regular = stat.S_ISREG(facts.st_mode)
        self.size = facts.st_size if self._is_regular else None
        self.written_at = datetime.fromtimestamp(facts.st_mtime, UTC) if self._is_regular else None
        self._content = _decompressed(file)
        self._rest = b""

    @property
    def position(self) -> int:
        """How many bytes of the file have been read, as stored."""
        return self._file.tell() if self._is_regular else 0

    def first_line(self) -> str:
        """The header, without line end and byte order mark. Raises: ImportRefused."""
        self._rest = self._read()
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            return line.decode("utf-8-sig").rstrip("\r")
        except UnicodeDecodeError:
            raise ImportRefused("line 1: the header is not UTF-8 text") from None

    def block(self) -> bytes:
        """The next whole lines, each with its line feed; empty at the end of the file. Raises: ImportRefused."""
        while read := self._read():
            whole, newline, rest = read.rpartition(b"\n")
            if newline:
                block = self._rest + whole + newline
                self._rest = rest
                return block
            self._rest += rest
            if len(self._rest) > LINE_MAX_BYTES:
                raise ImportRefused(f"a line is longer than {LINE_MAX_BYTES} bytes: this is no file of lines")
        last, self._rest = self._rest, b""
        return last if not last or last.endswith(b"\n") else last + b"\n"

    def _read(self) -> bytes:
        try:
            return self._content.read(BLOCK_BYTES)
        except _DAMAGED:
            raise ImportRefused("the compressed file is damaged or cut short: fetch it again") from None


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """Opens a file, or standard input for `-`."""
    if path == STDIN:
        yield Source(sys.stdin.buffer)
        return
    with path.open("rb") as file:
        yield Source(file)


def _decompressed(file: BinaryIO) -> BinaryIO:
    magic = file.peek(4)[:4]  # type: ignore[attr-defined] # open(…, "rb") and stdin are buffered readers
    if magic[:2] == b"\x1f\x8b":
        return cast("BinaryIO", gzip.GzipFile(fileobj=file))
    if magic == b"\x28\xb5\x2f\xfd":
        return cast("BinaryIO", zstd.ZstdFile(file))
    return file
