"""Reads the fields of an action's form. What is wrong is told by the field's name and never repeated."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from uuid import UUID

from registryd.store import messengers
from registryd.store.messengers import Messenger
from registryd.store.pool import Connection

REASON_MAX = 500
EVERYBODY = ""
"""The value of a messenger's field that means all of them."""
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2})?", re.ASCII)
_DATE = re.compile(r"\b\d{4}-\d{2}-\d{2}\b", re.ASCII)
_NUMBER = re.compile(r"(?:\d[ ()-]{0,3}){7,}")


class NotDone(Exception):
    """An action is not done: the message says why, and what to do."""


class NumberTold(NotDone):
    """A reason holds what may be a telephone number, so it is not even written into the form again."""


class Fields:
    """The fields of a form, or of the link that leads to it."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = fields

    def text(self, name: str) -> str:
        return self._fields.get(name, "").strip()

    def reason(self) -> str:
        """Raises: NotDone. A reason is kept and shown, so it must hold no number."""
        reason = " ".join(self.text("reason").split())
        if len(reason) < 3:
            raise NotDone("Say why, for those who ask later.")
        if not reason.isprintable():
            raise NotDone("The reason may hold only what can be printed.")
        if len(reason) > REASON_MAX:
            raise NotDone(f"The reason may have {REASON_MAX} characters.")
        if _NUMBER.search(_DATE.sub("*", reason)):
            raise NumberTold("A reason is kept and shown to others, so it must not hold a telephone number.")
        return reason

    def whole(self, name: str, lowest: int, highest: int) -> int:
        """Raises: NotDone."""
        text = self.text(name).replace(",", "").replace(" ", "")
        if not (text.isascii() and text.isdigit() and len(text) < 16 and lowest <= int(text) <= highest):
            raise NotDone(f"{name.replace('_', ' ').capitalize()}: a whole number from {lowest:,} to {highest:,} is wanted.")
        return int(text)

    def time(self, name: str) -> datetime | None:
        """A time in UTC, as a browser's field has it; None where the field is empty. Raises: NotDone."""
        text = self.text(name)
        if not text:
            return None
        try:
            if _TIME.fullmatch(text) is None:
                raise ValueError
            return datetime.fromisoformat(text).replace(tzinfo=UTC)
        except ValueError:
            raise NotDone(f"{name.capitalize()}: a date and a time in UTC are wanted.") from None

    def uuid(self, name: str) -> UUID | None:
        """Raises: NotDone."""
        text = self.text(name)
        try:
            return UUID(text) if text else None
        except ValueError:
            raise NotDone("The id of a notification is wanted.") from None

    async def messenger(self, connection: Connection) -> Messenger:
        """Raises: NotDone."""
        found = await messengers.find(connection, self.text("messenger"))
        if found is None:
            raise NotDone("Choose a messenger.")
        return found

    async def messenger_or_all(self, connection: Connection) -> Messenger | None:
        """None: all of them. Raises: NotDone."""
        return None if self.text("messenger") == EVERYBODY else await self.messenger(connection)
