"""The file of results of `client identify`, which is its only state."""

from __future__ import annotations

import fcntl
import os
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

from registryd.client.source import ClientRefused

HEADER = b"line,present,binding,generation,error\n"


class Results:
    """The file of results. Use: `with Results(path, source)`. The same source goes on where it stopped. One process at a time."""

    def __init__(self, path: Path, source: Path) -> None:
        self.path = path
        self._source = source
        self._done = bytearray()
        self.counts: Counter[str] = Counter()
        self.unasked = 0
        """How many lines could not be asked, in this run and earlier ones."""

    def __enter__(self) -> Self:
        """Raises: ClientRefused."""
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._resume()
        except BaseException:
            os.close(self._fd)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._fd)

    def _resume(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ClientRefused(f"another process is writing {self.path}: wait for it, or give other --results") from None
        there = os.fstat(self._fd)
        if there.st_size and self._source.stat().st_mtime > there.st_mtime:
            raise ClientRefused(
                f"{self._source} was changed since {self.path} was written, which names its lines by number: give other --results"
            )
        whole = 0
        with self.path.open("rb") as file:
            for place, text in enumerate(file):
                if not text.endswith(b"\n"):
                    break  # torn by a crash: its batch is asked again
                if place == 0 and text != HEADER:
                    raise ClientRefused(f"{self.path} is no file of results: give other --results")
                if place:
                    self._mark(int(text.partition(b",")[0]))
                    self.unasked += not text.endswith(b",\n")
                whole += len(text)
        os.ftruncate(self._fd, whole)
        if not whole:
            os.write(self._fd, HEADER)

    def _mark(self, line: int) -> None:
        if line >= len(self._done):
            self._done.extend(bytes(line + 1_000_000 - len(self._done)))
        self._done[line] = 1

    @property
    def done(self) -> int:
        return self._done.count(1)

    def has(self, line: int) -> bool:
        return line < len(self._done) and self._done[line] == 1

    def append(self, rows: list[tuple[int, str, str, str, str]]) -> None:
        """Appends (line, present, binding, generation, error) of each, in one write."""
        os.write(self._fd, "".join([f"{line},{','.join(facts)}\n" for line, *facts in rows]).encode())
        for line, present, binding, _, error in rows:
            self._mark(line)
            self.unasked += bool(error)
            self.counts[error or ("present" if present == "true" else "absent")] += 1
            if binding:
                self.counts[binding] += 1
