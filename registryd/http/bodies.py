"""The bodies of what a messenger does for itself, checked as wire.py checks the others."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Annotated

import msgspec

from registryd.domain.errors import InvalidArgument
from registryd.domain.identifiers import IdentificationCode, parse_code
from registryd.domain.times import parse_rfc3339
from registryd.http import wire

DAY = re.compile(r"2[0-9]{3}-[0-9]{2}-[0-9]{2}", re.ASCII)
KEY_ID = re.compile(r"[a-z2-7]{8,32}", re.ASCII)


class Codes(wire.Body, frozen=True):
    identificationCodes: Annotated[list[str], msgspec.Meta(min_length=1, max_length=1000)]


class Endpoint(wire.Body, frozen=True):
    url: str


class KeyName(wire.Body, frozen=True):
    keyId: str


class Page(wire.Body, frozen=True):
    """A page of a list that goes by codes: they are named in bodies only."""

    after: str | wire.UnsetType | None = wire.UNSET
    limit: Annotated[float, msgspec.Meta(ge=1, le=1000)] = 100.0
    """Some serializers write whole numbers as 5.0, which JSON Schema takes for an integer."""


class Window(wire.Body, frozen=True):
    """A day (UTC), or a time from one moment on until before another."""

    day: str | wire.UnsetType = wire.UNSET
    since: str | wire.UnsetType = msgspec.field(name="from", default=wire.UNSET)
    until: str | wire.UnsetType = msgspec.field(name="to", default=wire.UNSET)
    dryRun: bool = False


def read_codes(raw: bytes) -> list[IdentificationCode]:
    """As many as there stand, in their order. Raises: InvalidArgument, naming the first 20 bad ones."""
    codes: list[IdentificationCode] = []
    bad: list[tuple[str, str]] = []
    for place, text in enumerate(wire.read(raw, Codes).identificationCodes):
        try:
            codes.append(parse_code(text))
        except ValueError as error:
            bad.append((f"identificationCodes[{place}]", str(error)))
    if bad:
        raise InvalidArgument(*bad)
    return codes


def read_page(raw: bytes) -> tuple[str, int]:
    """The code after which to go on ("": from the beginning), and how many. Raises: InvalidArgument."""
    page = wire.read(raw, Page)
    if not page.limit.is_integer():
        raise InvalidArgument(("limit", "must be a whole number"))
    try:
        return parse_code(page.after) if isinstance(page.after, str) else "", int(page.limit)
    except ValueError as error:
        raise InvalidArgument(("after", str(error))) from None


def read_window(raw: bytes) -> tuple[datetime, datetime, bool]:
    """From when, until when, and whether it is a dry run. Raises: InvalidArgument."""
    body = wire.read(raw, Window)
    if isinstance(body.day, str):
        if body.since is not wire.UNSET or body.until is not wire.UNSET:
            raise InvalidArgument(("day", "say either a day, or from and to"))
        if DAY.fullmatch(body.day) is None or (since := parse_rfc3339(f"{body.day}T00:00:00Z")) is None:
            raise InvalidArgument(("day", "must be a day, such as 2026-03-02"))
        return since, since + timedelta(days=1), body.dryRun
    if not isinstance(body.since, str) or not isinstance(body.until, str):
        raise InvalidArgument(("", "say a day, or from and to"))
    times = parse_rfc3339(body.since), parse_rfc3339(body.until)
    bad = [name for name, time in zip(("from", "to"), times, strict=True) if time is None]
    if bad or times[0] is None or times[1] is None:
        raise InvalidArgument(*((name, "must be an RFC 3339 time with its offset, such as 2026-01-02T03:04:05Z") for name in bad))
    if not timedelta() < times[1] - times[0] <= timedelta(days=1):
        raise InvalidArgument(("to", "must be after from, by 24 hours at most"))
    return times[0], times[1], body.dryRun


def read_key_id(raw: bytes) -> str:
    """Raises: InvalidArgument."""
    key_id = wire.read(raw, KeyName).keyId
    if KEY_ID.fullmatch(key_id) is None:
        raise InvalidArgument(("keyId", "must be the middle of rk_<keyId>_<secret>"))
    return key_id


def read_endpoint(raw: bytes) -> str:
    """A URL that is not checked yet. Raises: InvalidArgument."""
    return wire.read(raw, Endpoint).url
