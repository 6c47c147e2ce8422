"""A contract, and what billing's events do to it.

    active <-> suspended ; active|suspended -> ended

Ended is final: a subscriber who comes back gets the next generation. `apply` decides what one event does, domain/events.py what a call of
them does, and store/contracts.py writes it. The database refuses whatever contradicts these rules, whoever writes it.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

import msgspec

from registryd.domain.identifiers import Msisdn

Status = Literal["active", "suspended", "ended"]
Holder = Literal["individual", "sole_trader", "organisation"]
EndUser = Literal["not_required", "registered", "unregistered"]
EndReason = Literal["terminated", "ported_out", "holder_changed"]
StatedEndUser = Literal["registered", "unregistered"]
"""What an event may say of the end user; of an individual it says nothing."""
EventType = Literal[
    "activated", "terminated", "ported_out", "holder_changed", "suspended", "resumed", "end_user_registered", "end_user_withdrawn"
]

STATUSES: tuple[str, ...] = get_args(Status)
HOLDERS: tuple[str, ...] = get_args(Holder)
END_USERS: tuple[str, ...] = get_args(EndUser)
STATED_END_USERS: tuple[str, ...] = get_args(StatedEndUser)
END_REASONS: tuple[str, ...] = get_args(EndReason)
EVENT_TYPES: tuple[str, ...] = get_args(EventType)
EVENT_ID = re.compile("[!-~]{1,128}", re.ASCII)
EVENT_ID_WANTED = "1 to 128 printable ASCII characters without spaces"
CLOCK_SKEW_MAX = timedelta(minutes=4)
"""How far billing's clock may be ahead of ours. The database tolerates a minute more, so it never refuses what passed here."""
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
"""The id of a notification begins with a time that counts from here, so no contract ends earlier."""
GENERATION_MAX = 32_767


class Contract(msgspec.Struct, frozen=True, kw_only=True):
    msisdn: Msisdn
    generation: int
    status: Status
    holder: Holder
    end_user: EndUser
    started_at: datetime
    ended_at: datetime | None = None
    end_reason: EndReason | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One contract event. `holder` and `end_user` belong to `activated` and `holder_changed` alone."""

    event_id: str
    type: EventType
    msisdn: Msisdn
    occurred_at: datetime
    holder: Holder | None = None
    end_user: StatedEndUser | None = None


class Result(msgspec.Struct, frozen=True):
    """What became of one event."""

    event_id: str
    outcome: Literal["applied", "duplicate", "refused"]
    reason: str | None = None


class Refused(Exception):
    """An event contradicts the registry's state. The text tells billing's engineer what the state is and what to send."""


def apply(latest: Contract | None, event: Event, now: datetime) -> list[Contract]:
    """Returns the rows that `event` writes: the latest contract as changed, the next generation, or both.

    `latest` is the number's contract of the highest generation, live or ended; None where the number has none. Raises: Refused.
    """
    if event.occurred_at > now + CLOCK_SKEW_MAX:
        raise Refused("occurredAt lies in the future: send the event when it has happened")
    if event.occurred_at < EARLIEST:
        raise Refused("occurredAt lies before 1970: correct the year")
    if event.type not in ("activated", "holder_changed") and (event.holder or event.end_user):
        raise Refused(f"holder and endUser do not belong to {event.type}: send holder_changed or end_user_registered for that")
    live = latest if latest is not None and latest.status != "ended" else None
    if event.type == "activated":
        if live is not None:
            raise Refused(f"the number has a live contract (generation {live.generation}): send terminated, ported_out or holder_changed")
        if latest is not None and latest.ended_at is not None and event.occurred_at < latest.ended_at:
            raise Refused(f"occurredAt is before generation {latest.generation} ended: an activation follows the end")
        return [_next_generation(latest, event)]
    if live is None:
        raise Refused("the number has no live contract: send activated first")
    if event.occurred_at < live.started_at:
        raise Refused(f"occurredAt is before the live contract (generation {live.generation}) started")
    if event.type == "holder_changed" and event.occurred_at == live.started_at:
        raise Refused(f"the live contract (generation {live.generation}) started then: the change is known")
    replace = msgspec.structs.replace
    match event.type:
        case "terminated" | "ported_out" | "holder_changed":
            ended = replace(live, status="ended", ended_at=event.occurred_at, end_reason=event.type)
            return [ended, _next_generation(ended, event)] if event.type == "holder_changed" else [ended]
        case "suspended" | "resumed":
            status: Status = "suspended" if event.type == "suspended" else "active"
            if live.status == status:
                raise Refused(f"the contract is {status} already")
            return [replace(live, status=status)]
        case "end_user_registered" | "end_user_withdrawn":
            if live.holder == "individual":
                raise Refused("the holder is an individual, who needs no registered end user: send holder_changed if that is wrong")
            end_user: EndUser = "registered" if event.type == "end_user_registered" else "unregistered"
            if live.end_user == end_user:
                raise Refused(f"the end user is {end_user} already")
            return [replace(live, end_user=end_user)]


def _next_generation(latest: Contract | None, event: Event) -> Contract:
    holder = event.holder or "individual"
    if holder == "individual" and event.end_user is not None:
        raise Refused("endUser belongs to an organisation or sole trader: leave it out, or send the holder")
    generation = 1 if latest is None else latest.generation + 1
    if generation > GENERATION_MAX:
        raise Refused("the number has had too many holders to count: tell the registry's operators")
    return Contract(
        msisdn=event.msisdn,
        generation=generation,
        status="active",
        holder=holder,
        end_user="not_required" if holder == "individual" else event.end_user or "unregistered",
        started_at=event.occurred_at,
    )
