"""A digest of notifications: count, first and last id, and a hash over all ids. With it a messenger can tell that it missed none.

The hash is SHA-256 over the ids in ascending order, each in lower case and followed by a line feed: `sort -u ids.txt | sha256sum`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import date, datetime
from typing import NamedTuple
from uuid import UUID

from registryd.domain.times import rfc3339


class Digest(NamedTuple):
    notifications: int
    first_id: UUID | None
    last_id: UUID | None
    sha256: bytes


class Digester:
    """Makes a digest of ids in ascending order, page by page, so that millions need no memory. A repeated id counts once."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._count = 0
        self._first: UUID | None = None
        self._last: UUID | None = None

    def add(self, ids: Iterable[UUID]) -> None:
        """Raises: ValueError, where an id is lower than the one before it."""
        for notification_id in ids:
            if self._last is not None and notification_id <= self._last:
                if notification_id == self._last:
                    continue
                raise ValueError("ids come in ascending order")
            self._hash.update(f"{notification_id}\n".encode())
            self._count += 1
            self._first = self._first or notification_id
            self._last = notification_id

    @property
    def digest(self) -> Digest:
        return Digest(self._count, self._first, self._last, self._hash.digest())


def digest_of(ids: Iterable[UUID]) -> Digest:
    """The digest of ids in any order."""
    digester = Digester()
    digester.add(sorted(ids))
    return digester.digest


def digest_event(day: date, digest: Digest, made_at: datetime) -> dict[str, object]:
    """The event `notifications.digest`: what was delivered on a day."""
    return {"type": "notifications.digest", "timestamp": rfc3339(made_at), "data": {"day": day.isoformat(), **_wire(digest)}}


def export_event(digest: Digest, made_at: datetime) -> dict[str, object]:
    """The event `notifications.exported`: the last line of a file, a digest of all notifications on the lines before it."""
    return {"type": "notifications.exported", "timestamp": rfc3339(made_at), "data": _wire(digest)}


def _wire(digest: Digest) -> dict[str, object]:
    return {
        "count": digest.notifications,
        "firstNotificationId": None if digest.first_id is None else str(digest.first_id),
        "lastNotificationId": None if digest.last_id is None else str(digest.last_id),
        "sha256": digest.sha256.hex(),
    }
