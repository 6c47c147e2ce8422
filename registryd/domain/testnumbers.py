"""Test numbers: numbers of a country code that nobody has, with which a messenger's engineers try things out.

They are +999 and twelve more digits. ITU-T keeps the country code 999 in reserve for a future global service (list of E.164 country
codes): no country, network or service has it. Fifteen digits are the most that E.164 allows, so every test number is larger than every
other number, and one comparison tells them apart. No contract may have a number under 999: the feed refuses all of them, and the schema
the test numbers.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from registryd.domain.identifiers import Msisdn

COUNTRY_CODE: Final = "999"
FIRST: Final = 999_000_000_000_000
"""The test numbers are those from here on."""
ID_PREFIX: Final = "99999999-9999-8999-9999-"
"""How their `queryId` and `batchId` begin. No page of the journal has such an id: those are version 7, these are version 8 (RFC 9562)."""
_KIND: Final = 10**11


class Kind(IntEnum):
    """What a test number shows, by the digit after 999. Any other digit is absent too."""

    PRESENT = 1
    ABSENT = 2
    CODE_IN_USE = 3
    """Present; every code that comes with it is bound to another number."""
    SLOW = 4
    """Present, after some seconds."""
    UNAVAILABLE = 5
    """Answered 503."""


_BY_DIGIT: Final = {kind.value: kind for kind in Kind}
IN_DEMO_ALONE: Final = frozenset({Kind.SLOW, Kind.UNAVAILABLE})
"""Elsewhere they are absent, because a held connection and a 503 would show in the figures of the service."""


def kind_of(msisdn: Msisdn, *, in_demo: bool) -> Kind:
    """The kind of a test number."""
    kind = _BY_DIGIT.get(msisdn // _KIND % 10, Kind.ABSENT)
    return Kind.ABSENT if kind in IN_DEMO_ALONE and not in_demo else kind


def example(kind: Kind) -> Msisdn:
    """The number of a kind that documents name."""
    return Msisdn(FIRST + kind * _KIND + 1)


def is_under_code(msisdn: Msisdn) -> bool:
    """Whether a number, of whatever length, begins with the code of the test numbers."""
    return str(msisdn).startswith(COUNTRY_CODE)
