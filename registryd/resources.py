"""Where the files beside the code are: the checkout's own folders, or their copies inside an installed wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def path(name: str) -> Path:
    """The file or folder `name` of the project (`sql`, `systemd/registryd.toml`, …)."""
    packaged = _PACKAGE / "_files" / name
    return packaged if packaged.exists() else _PACKAGE.parent / name
