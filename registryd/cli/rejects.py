"""The file that tells the bad lines of an import by line number and reason.

It holds nothing else of a line, so that no list of subscribers' numbers lies about.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import click

from registryd.domain.files import BadLine


class RejectFile:
    """The file is made before the import, so that it can be written for certain, and removed where no line was bad."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_new = not path.exists()

    def __enter__(self) -> Self:
        try:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
            os.fchmod(self._fd, 0o600)
        except OSError as error:
            raise click.UsageError(f"{self.path} cannot be written ({error.strerror}): name another reject file with --rejects") from None
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
        if self._is_new:
            self.path.unlink(missing_ok=True)

    def write(self, bad: Sequence[BadLine]) -> None:
        self._is_new = False
        os.ftruncate(self._fd, 0)
        with open(self._fd, "w", encoding="utf-8", newline="", closefd=False) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(BadLine._fields)
            writer.writerows(bad)


def beside(file: Path) -> Path:
    """The path beside the imported file; for a pipe, or where that directory cannot be written to, in the current directory."""
    directory = file.parent.resolve()
    is_pipe = not file.is_file() or directory == Path("/dev") or directory.is_relative_to("/proc")
    name = f"{'contracts' if is_pipe else file.name}.rejects.csv"
    return Path(name) if is_pipe or not os.access(directory, os.W_OK) else file.with_name(name)
