"""Writes what is owed to one messenger to a file for delivery by hand: a signed push on each line (delivery/exported.py reads it)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

import orjson

from registryd.delivery.signing import Signer
from registryd.domain.digest import Digest, Digester, export_event
from registryd.domain.notification import event, webhook_id
from registryd.domain.secret import SigningSecret
from registryd.store import notifications
from registryd.store.messengers import Messenger
from registryd.store.pool import Database

ITEMS_A_LINE_MAX = 1_000


async def write(
    db: Database, messenger: Messenger, live: Sequence[SigningSecret], path: Path, progress: Callable[[int], None] = lambda _: None
) -> Digest:
    """Writes all that is owed to a new file that only its owner may read. Where that fails, no file is left.

    `progress` is told how many more are written. Raises: FileExistsError, OSError, Unavailable.
    """
    signer = Signer(live)
    digester = Digester()  # an id begins with its deadline, so that the order of the key is the order of the ids
    made_at = datetime.now(UTC)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        try:
            after = notifications.BEGINNING
            while owed := await notifications.read_owed(db, messenger.messenger_id, after, ITEMS_A_LINE_MAX):
                for _, alike in groupby(owed, key=lambda n: n.type):
                    items = list(alike)
                    body = orjson.dumps(event(items, with_phone_number=messenger.includes_phone_number))
                    file.write(_line(signer, webhook_id(items), body))
                digester.add(n.notification_id for n in owed)
                after = owed[-1].notification_id
                progress(len(owed))
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
