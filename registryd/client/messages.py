"""The messages of `registryd conformance`: signed as pushes are, of invented notices, each of them new in every run."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from registryd.delivery import signing
from registryd.domain.digest import digest_event, digest_of
from registryd.domain.notification import Notification, event, webhook_id
from registryd.domain.secret import SigningSecret
from registryd.domain.testnumbers import Kind, example
from registryd.domain.times import rfc3339

CODE_MAX = 128


def notice(code: str = "", *, generation: int = 1, undoes: UUID | None = None) -> Notification:
    """A notice of a contract that ended just now; or one that undoes another. Its code is one that nobody has."""
    now = datetime.now(UTC)
    return Notification(
        notification_id=_new_id(now + timedelta(hours=24)),
        deadline_at=now + timedelta(hours=24),
        msisdn=example(Kind.PRESENT),
        generation=generation,
        identification_code=code or new_code(),
        terminated_at=now,
        recorded_at=now,
        attempts=0,
        undoes=undoes,
    )


def new_code(length: int = 24) -> str:
    return f"conformance-{secrets.token_hex(CODE_MAX)}"[:length]


def _new_id(at: datetime) -> UUID:
    """A version 7 UUID (RFC 9562), as the registry's own: milliseconds first, then chance."""
    milliseconds = int(at.timestamp() * 1000)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62))


@dataclass(frozen=True)
class Message:
    """A message before it is signed. `age_s`: how long ago it was signed."""

    body: bytes
    message_id: str = field(default_factory=lambda: f"msg_{secrets.token_hex(16)}")
    age_s: int = 0

    @classmethod
    def of(cls, notices: Sequence[Notification], age_s: int = 0) -> Message:
        return cls(orjson.dumps(event(notices, with_phone_number=False)), webhook_id(notices), age_s)

    @classmethod
    def about(cls, kind: str, data: Mapping[str, Any]) -> Message:
        return cls(orjson.dumps({"type": kind, "timestamp": rfc3339(datetime.now(UTC)), "data": data}))

    @classmethod
    def digest(cls) -> Message:
        """The digest of a day on which nothing was delivered."""
        yesterday = (datetime.now(UTC) - timedelta(days=1)).date()
        return cls(orjson.dumps(digest_event(yesterday, digest_of([]), datetime.now(UTC))))

    def with_unknown_members(self) -> Message:
        """With a further member in each object, as later versions may have."""
        content = orjson.loads(self.body)
        for place in (content, content["data"], *content["data"]["notifications"]):
            place["laterMember"] = {"of": ["a", "later", "version"]}
        return Message(orjson.dumps(content), self.message_id, self.age_s)

    def headers(self, *by: SigningSecret) -> dict[str, str]:
        """The three headers, with a signature of each secret."""
        at = int(time.time()) - self.age_s
        return {
            "webhook-id": self.message_id,
            "webhook-timestamp": str(at),
            "webhook-signature": signing.signature(by, self.message_id, at, self.body),
        }
