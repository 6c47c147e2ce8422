"""A small table in a file of any dress: read whole, decoded, and cut into rows of fields. Lines are counted over all files of an import."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from registryd.domain.files import BadLine, ImportRefused, told
from registryd.feed.lines import FIELD_TOO_LONG, SEPARATORS
from registryd.feed.source import opened

FILE_MAX_BYTES = 256 << 20
# Where files were joined, one without a line end is followed by the next one's mark and header on the same line.
_JOINED = re.compile('(?<=[^\n"\ufeff;,\t])\ufeff?(?="?[AА][BВ][CС]/ ?DEF)')
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class Table(NamedTuple):
    """`rows`: the number and the fields of each line that is not empty. `is_cut`: the last one has no line end."""

    rows: Iterator[tuple[int, list[str]]]
    is_cut: bool


def read(path: Path) -> Table:
    """A file, or standard input for `-`: plain, gzip or zstd; UTF-8, UTF-16 or windows-1251. Raises: ImportRefused."""
    with opened(path) as source:
        content = source.whole(FILE_MAX_BYTES)
    text = _JOINED.sub("\n", _decoded(content)).replace("\ufeff", "")
    header = text.partition("\n")[0]
    separator = max(SEPARATORS, key=header.count)
    return Table(_rows(text, separator), not text.endswith(("\n", "\r")))


def _decoded(content: bytes) -> str:
    if content[:2] in _UTF16:
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("windows-1251", "replace")


def _rows(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Raises: ImportRefused."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        for line, cells in enumerate(reader, 1):
            if cells or line == 1:
                yield line, cells or [""]
    except csv.Error:
        raise refused(reader.line_num, FIELD_TOO_LONG) from None


def columns_of(names: Sequence[str], wanted: Mapping[str, str]) -> dict[str, int]:
    """The position of each wanted column; `wanted` has what stands in the header for each. Raises: ImportRefused."""
    missing = [name for name, heading in wanted.items() if heading not in names]
    if missing:
        raise ImportRefused(f"line 1: the header must name the columns {', '.join(wanted)}: {', '.join(missing)} is missing")
    return {name: names.index(heading) for name, heading in wanted.items()}


def refused(line: int, reason: str) -> ImportRefused:
    return ImportRefused(told([BadLine(line, reason)]))
