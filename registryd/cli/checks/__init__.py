"""What `check` looks at, by subject: this machine, the units that systemd would start on it, the database."""

from __future__ import annotations

from typing import NamedTuple

from registryd.cli.running import Exit


class CheckResult(NamedTuple):
    check: str
    detail: str
    code: Exit = Exit.DONE
    warns: bool = False
    """Whether a person should look, though `serve` works."""

    @property
    def state(self) -> str:
        return "failed" if self.code else "warning" if self.warns else "ok"
