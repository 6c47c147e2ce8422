"""Reads a file that was delivered by hand: the messenger verifies it, and the operator gives it to `acknowledge`.

A line is a JSON object with the three headers and the raw body of a push. A messenger verifies it with the secret and the code that it
has; only the age of the timestamp does not matter here. The last line, `notifications.exported`, holds the count and the hash of all ids
before it, so that a file that was cut off is noticed.
"""

from __future__ import annotations

from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from registryd.delivery import signing
from registryd.delivery.signing import Key
from registryd.domain.digest import digest_of
from registryd.domain.notification import own_id


class BadFile(Exception):
    """The file was not written by `registryd notifications export`. The message names the line and what is wrong there."""


class SignedLine(NamedTuple):
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
        """The ids by which its notices are acknowledged and counted."""
        return [own_id(n) for n in self.event["data"].get("notifications", [])]


def read(path: Path) -> Iterator[SignedLine]:
    """The lines of a file. Raises: BadFile, OSError."""
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            try:
                envelope = orjson.loads(text.removeprefix(BOM_UTF8) if number == 1 else text)
                line = SignedLine(*(str(envelope[key]) for key in ("webhook-id", "webhook-timestamp", "webhook-signature", "body")))
                line.ids  # noqa: B018 # parsed here, so that a bad one is named with its line
            except (ValueError, KeyError, TypeError, AttributeError):
                raise BadFile(f"line {number} is not a signed event") from None
            yield line


def verify(path: Path, key: Key) -> Iterator[SignedLine]:
    """The lines of notices, each after its signature was verified. In the end they are checked against the last line.

    Raises: BadFile, at the first line that is not authentic, or where lines are missing. OSError.
    """
    ids: list[UUID] = []
    manifest: SignedLine | None = None
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
    """The ids in a file: an export, or what a messenger receipted, an id a line, with or without a header. Raises: BadFile, OSError."""
    with path.open("rb") as file:
        first = file.read(4)
    if first.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        raise BadFile("it is UTF-16: save it as text in UTF-8")
    if first.removeprefix(BOM_UTF8).startswith(b"{"):
        return [i for line in read(path) for i in line.ids]
    ids = []
    for number, text in enumerate(path.read_text("utf-8-sig", "replace").splitlines(), 1):
        word = text.strip(" \t,;").strip("\"'")  # as spreadsheets write a column
        if not word or (number == 1 and word.lower() in ("notificationid", "id")):
            continue
        try:
            ids.append(UUID(word))
        except ValueError:
            raise BadFile(f"line {number} is not a notification's id") from None
    return ids
