"""Reads a file or standard input in blocks of whole lines: plain, gzip or zstd, told by the first bytes.

A compressed file that is cut short is refused. Were it taken for a shorter one, a snapshot would end the contracts that it lacks. Of a
plain one, `is_cut` says that its last line has no line end: it may have been cut within that line. Empty lines at the end are nothing.
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
        self._blank = b""
        """Line ends that were read and are nothing, unless a line follows."""
        self.is_cut = False
        """Whether the last line that was read has no line end. It is known once `block` has returned that line."""

    @property
    def is_pipe(self) -> bool:
        return not self._is_regular

    @property
    def position(self) -> int:
        """How many bytes of the file have been read, as stored."""
        return self._file.tell() if self._is_regular else 0

    def first_line(self) -> str:
        """The header, without line end and byte order mark. Raises: ImportRefused."""
        self._rest = self._read()
        line, newline, self._rest = self._rest.partition(b"\n")
        self.is_cut = not newline
        try:
            return line.decode("utf-8-sig").rstrip("\r")
        except UnicodeDecodeError:
            hint = ": it is UTF-16, save the file as UTF-8" if line[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
            raise ImportRefused(f"line 1: the header is not UTF-8 text{hint}") from None

    def whole(self, bytes_max: int) -> bytes:
        """All of the file. Raises: ImportRefused."""
        parts, size = [], 0
        while part := self._read():
            parts.append(part)
            size += len(part)
            if size > bytes_max:
                raise ImportRefused(f"the file is larger than {bytes_max >> 20} MiB: the whole register of numbering has a tenth of that")
        return b"".join(parts)

    def block(self) -> bytes:
        """The next whole lines, each with its line feed; empty at the end of the file. Raises: ImportRefused."""
        while read := self._read():
            whole, newline, rest = read.rpartition(b"\n")
            if newline:
                block = self._filled(self._rest + whole + newline)
                self._rest = rest
                if block:
                    return block
                continue
            self._rest += rest
            if len(self._rest) > LINE_MAX_BYTES:
                raise ImportRefused(f"a line is longer than {LINE_MAX_BYTES} bytes: this is no file of lines")
        last, self._rest = self._rest, b""
        block = self._filled(last if last.endswith(b"\n") else last + b"\n")
        if block:
            self.is_cut = not last.endswith((b"\n", b"\r"))
        return block

    def _filled(self, lines: bytes) -> bytes:
        """Whole lines, after the blank ones that came before them and without those at their end."""
        lines = self._blank + lines
        kept = len(lines.rstrip(b"\r\n"))
        if kept == 0 and len(lines) < BLOCK_BYTES:
            self._blank = lines
            return b""
        end = lines.index(b"\n", kept) + 1
        self._blank = lines[end:]
        self.is_cut = False
        return lines[:end]

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
