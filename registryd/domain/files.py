"""How an import tells what is wrong with a file: by line and reason. It never quotes a line, because a line holds a number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from registryd.domain.errors import Refusal

BAD_LINES_TOLD = 20


class ImportRefused(Refusal):
    """The file cannot be imported, and nothing was changed. The message names the lines and what to do."""


class BadLine(NamedTuple):
    line: int
    reason: str


def told(bad: Iterable[BadLine]) -> str:
    """The first bad lines as text, one a line."""
    return "\n".join(f"line {line.line}: {line.reason}" for line in islice(bad, BAD_LINES_TOLD))


def one_of(words: Sequence[str]) -> str:
    """`active, suspended or ended`."""
    return f"{', '.join(words[:-1])} or {words[-1]}"
