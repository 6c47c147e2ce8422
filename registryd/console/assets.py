"""The console's static files: read at the start, because an upgrade may replace them, and named by what they hold."""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

from registryd import resources

PREFIX = "/console/static/"
TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


class Asset(NamedTuple):
    path: str
    """With a digest of the content, so that a browser may keep it for ever."""
    content: bytes
    content_type: str


def _read() -> dict[str, Asset]:
    found: dict[str, Asset] = {}
    for file in sorted(resources.path("registryd/console/static").iterdir()):
        content = file.read_bytes()
        name = f"{PREFIX}{file.stem}.{sha256(content).hexdigest()[:16]}{file.suffix}"
        found[file.name] = Asset(name, content, TYPES[file.suffix])
    return found


ASSETS = _read()
BY_PATH = {asset.path: asset for asset in ASSETS.values()}
