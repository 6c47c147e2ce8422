"""Who is logged in: login by an operator key, the session's cookie, and proof that a form came from a page of ours.

Invariants: of a session's token the database holds SHA-256 alone; no key stands in a URL, a page or the log; a session ends with its key. A
form is taken only where the browser says that it comes from this origin, and where it holds the token that only the session's pages have.
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections import OrderedDict
from hashlib import sha256
from math import ceil
from typing import NamedTuple
from urllib.parse import urlsplit

from aiohttp.web import BaseRequest

from registryd.domain.errors import Reason, TooManyCalls
from registryd.presence.bucket import TokenBucket
from registryd.store.sessions import Person

FAILURES_PER_MINUTE = 10
"""Logins from one address that may fail."""
SOURCES_MAX = 1_000
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)


class LoginNeeded(Exception):
    """Your session has ended, or you have not logged in yet."""


class ForeignForm(Exception):
    """This form does not come from a page of this console, or its session has ended. Nothing was done. Open the page again."""

    reason: Reason = "foreign_form"

    def __str__(self) -> str:
        return (self.__doc__ or "").strip()


class Session(NamedTuple):
    token: str
    person: Person

    @property
    def form_token(self) -> str:
        """What every form of the session's pages holds."""
        return hmac.new(self.token.encode(), b"registryd console form", sha256).hexdigest()

    @property
    def may_act(self) -> bool:
        return "act" in self.person.scopes


class _Failures:
    """Logins from one address that failed."""

    __slots__ = ("_bucket", "_refused_until")

    def __init__(self) -> None:
        self._bucket = TokenBucket()
        self._refused_until = 0.0

    def refuse(self, now: float) -> None:
        """Raises: TooManyCalls."""
        if self._refused_until > now:
            raise TooManyCalls(ceil(self._refused_until - now))

    def add(self, now: float) -> None:
        self._refused_until = now + self._bucket.take(now, 1, FAILURES_PER_MINUTE)


class Logins:
    """Logins that failed on this process. After too many from one address, every further one from there is refused for a while.

    There is no bound over all addresses: the secret of a key has 256 bits and is not guessed, and whoever has some addresses could lock
    everybody out.
    """

    def __init__(self) -> None:
        self._sources: OrderedDict[str, _Failures] = OrderedDict()

    def refuse(self, request: BaseRequest) -> None:
        """Raises: TooManyCalls."""
        self._source(request).refuse(time.monotonic())

    def failed(self, request: BaseRequest) -> None:
        self._source(request).add(time.monotonic())

    def _source(self, request: BaseRequest) -> _Failures:
        name = request.remote or ""
        found = self._sources.setdefault(name, _Failures())
        self._sources.move_to_end(name)
        while len(self._sources) > SOURCES_MAX:
            self._sources.popitem(last=False)
        return found


def new_token() -> str:
    return secrets.token_urlsafe(32)


def digest(token: str) -> bytes:
    return sha256(token.encode()).digest()


def shown_token(request: BaseRequest) -> str | None:
    """None where there is no cookie, or one that was never ours."""
    token = request.cookies.get(_cookie_name(request), "")
    return token if _TOKEN.fullmatch(token) else None


def cookie(request: BaseRequest, token: str | None) -> dict[str, str]:
    """The header that gives the browser a session, or takes it away (None)."""
    secure = "; Secure" if _has_tls(request) else ""
    ends = "" if token else "; Max-Age=0"
    return {"Set-Cookie": f"{_cookie_name(request)}={token or ''}; Path=/; HttpOnly; SameSite=Strict{secure}{ends}"}


def refuse_foreign(request: BaseRequest) -> None:
    """Raises: ForeignForm, unless the browser says that a page of this origin sent the request."""
    site, origin, host = (request.headers.getall(name, []) for name in ("Sec-Fetch-Site", "Origin", "Host"))
    if not site and not origin:
        raise ForeignForm
    if site and site != ["same-origin"]:
        raise ForeignForm
    if origin and (len(origin) != 1 or len(host) != 1 or urlsplit(origin[0]).netloc != host[0]):
        raise ForeignForm


def refuse_without_token(session: Session, given: str) -> None:
    """Raises: ForeignForm, unless the form holds the session's token."""
    if not hmac.compare_digest(session.form_token.encode(), given.encode()):
        raise ForeignForm


def _has_tls(request: BaseRequest) -> bool:
    return request.get_extra_info("ssl_object") is not None


def _cookie_name(request: BaseRequest) -> str:
    """`__Host-` binds the cookie to this host; browsers take it over TLS alone."""
    return "__Host-registryd-console" if _has_tls(request) else "registryd-console"
