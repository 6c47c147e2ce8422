"""What is owed to one messenger as a file for delivery by hand: a push a line, each signed as a push is, and a last line over the whole.

A line is a JSON object of the three headers and the raw body, so that a messenger verifies it with the secret it has and handles it by
the code it has; only the age of the timestamp is no matter here. The last line, `notifications.exported`, holds the count and the hash
of all ids before it: a file that was cut off is noticed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from registryd.delivery import signing
from registryd.delivery.signing import Key, Signer
from registryd.domain.digest import Digest, Digester, digest_of, export_event
from registryd.domain.notification import event, webhook_id
from registryd.store import notifications
from registryd.store.messengers import Messenger, SigningSecret
from registryd.store.pool import Database

ITEMS_A_LINE_MAX = 1_000


class BadFile(Exception):
    """The file is not one of `registryd notifications export`; the message names the line and what is wrong there."""


class Line(NamedTuple):
    """One signed event of a file."""

    message_id: str
    timestamp: str
    signatures: str
    body: str

    @property
    def event(self) -> dict[str, Any]:
        return dict(orjson.loads(self.body))

    @property
    def ids(self) -> list[UUID]:
        return [UUID(n["notificationId"]) for n in self.event["data"].get("notifications", [])]


async def write(db: Database, messenger: Messenger, live: Sequence[SigningSecret], path: Path) -> Digest:
    """Writes all that is owed to a new file that its owner alone may read; there is no file where it failed.

    Raises: FileExistsError, OSError, Unavailable.
    """
    signer = Signer(live)
    digester = Digester()  # an id begins with its deadline, so that the order of the key is the order of the ids
    made_at = datetime.now(UTC)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        try:
            after = notifications.BEGINNING
            while owed := await notifications.read_owed(db, messenger.messenger_id, after, ITEMS_A_LINE_MAX):
                body = orjson.dumps(event(owed, with_phone_number=messenger.includes_phone_number))
                file.write(_line(signer, webhook_id(owed), body))
                digester.add(n.notification_id for n in owed)
                after = (owed[-1].deadline_at, owed[-1].notification_id)
            body = orjson.dumps(export_event(digester.digest, made_at))
            file.write(_line(signer, f"msg_export_{messenger.messenger_id}_{time.time_ns():x}", body))
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            path.unlink()
            raise
    return digester.digest


def _line(signer: Signer, message_id: str, body: bytes) -> bytes:
    timestamp = int(time.time())
    signatures = signer.signature(message_id, timestamp, body)
    envelope = {"webhook-id": message_id, "webhook-timestamp": str(timestamp), "webhook-signature": signatures, "body": body.decode()}
    return orjson.dumps(envelope, option=orjson.OPT_APPEND_NEWLINE)


def read(path: Path) -> Iterator[Line]:
    """The lines of a file. Raises: BadFile, OSError."""
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            try:
                envelope = orjson.loads(text)
                line = Line(*(str(envelope[key]) for key in ("webhook-id", "webhook-timestamp", "webhook-signature", "body")))
                line.ids  # noqa: B018 # parsed here, so that a bad one is named with its line
            except (ValueError, KeyError, TypeError, AttributeError):
                raise BadFile(f"line {number} is not a signed event") from None
            yield line


def verify(path: Path, key: Key) -> Iterator[Line]:
    """The notices' lines, each once its signature was verified; the last line is checked against them.

    Raises: BadFile, at the first line that is not authentic, or where lines are missing. OSError.
    """
    ids: list[UUID] = []
    manifest: Line | None = None
    for number, line in enumerate(read(path), 1):
        if manifest is not None:
            raise BadFile(f"line {number} follows the last line of the export")
        if not signing.is_signed(key, line.message_id, line.timestamp, line.signatures, line.body.encode()):
            raise BadFile(f"line {number}: no signature fits the secret")
        if line.event["type"] == "notifications.exported":
            manifest = line
        else:
            ids += line.ids
            yield line
    if manifest is None:
        raise BadFile("the last line is missing: the file was cut off")
    if manifest.event["data"]["sha256"] != digest_of(ids).sha256.hex():
        raise BadFile("lines are missing: the last one names other notices")


def ids_in(path: Path) -> list[UUID]:
    """The ids in a file: an export, or what a messenger receipted, an id a line. Raises: BadFile, OSError."""
    with path.open("rb") as file:
        first = file.read(1)
    if first == b"{":
        return [i for line in read(path) for i in line.ids]
    ids = []
    for number, text in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
        try:
            ids += [UUID(text.strip())] if text.strip() else []
        except ValueError:
            raise BadFile(f"line {number} is not a notification's id") from None
    return ids
