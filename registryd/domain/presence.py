"""The presence rule, a query and its answer.

The database applies the rule to every query (`registry.is_present`). The same rule is written here to be read and tested; a test compares
the two over every combination.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import repeat
from typing import NamedTuple

import msgspec

from registryd.domain.binding import Bound
from registryd.domain.contract import EndUser, Status
from registryd.domain.identifiers import IdentificationCode, Msisdn


class Policy(NamedTuple):
    """The part of the policy in force that decides who counts as present."""

    organisation_rule: str
    """`subscriber` or `verified_end_user`."""
    suspended_is_present: bool


class PresenceQuery(msgspec.Struct, frozen=True, gc=False):
    msisdn: Msisdn
    code: IdentificationCode | None = None


class PresenceQueries(msgspec.Struct, frozen=True, gc=False):
    """Several queries by columns, because a thousand objects a batch cost more than reading it."""

    msisdns: Sequence[Msisdn]
    codes: Sequence[IdentificationCode | None] | None = None
    """By query; None where no query has a code."""

    def __len__(self) -> int:
        return len(self.msisdns)

    def __iter__(self) -> Iterator[PresenceQuery]:
        return map(PresenceQuery, self.msisdns, self.codes or repeat(None))

    def at(self, indexes: Sequence[int]) -> PresenceQueries:
        """Some of them."""
        if isinstance(indexes, range):  # the whole of a batch, or a part of it
            part = slice(indexes.start, indexes.stop)
            return PresenceQueries(self.msisdns[part], None if self.codes is None else self.codes[part])
        return by_columns(PresenceQuery(self.msisdns[i], None if self.codes is None else self.codes[i]) for i in indexes)


def by_columns(queries: Iterable[PresenceQuery]) -> PresenceQueries:
    listed = list(queries)
    codes = [query.code for query in listed]
    return PresenceQueries([query.msisdn for query in listed], codes if any(codes) else None)


class Answer(NamedTuple):
    """The answer to one query, which exists only once it is journaled durably. `bound` is None where there was no code or the number is
    absent.
    """

    query_id: str
    present: bool
    bound: Bound | None
    received_at: datetime
    """`answered_at` less the time that the query waited, so that no clock but the database's is in it."""
    answered_at: datetime


def is_present(status: Status, end_user: EndUser, policy: Policy) -> bool:
    """Whether the subscriber of a contract counts as being in the operator's databases (Decree 1801 of 2021)."""
    if status == "ended" or (status == "suspended" and not policy.suspended_is_present):
        return False
    return policy.organisation_rule == "subscriber" or end_user != "unregistered"
