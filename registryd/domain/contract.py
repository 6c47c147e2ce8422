"""A contract, and what billing's events do to it.

    active <-> suspended ; active|suspended -> ended

Ended is final: a subscriber who comes back gets the next generation. `apply` decides what one event does, domain/events.py what a call of
them does, and store/contracts.py writes it. The database refuses whatever contradicts these rules, whoever writes it.

Events may come early, late, twice, and in any order. `t` is the event's occurredAt, `live` the number's live contract, `last` its last one
where none is live:

    event            no contract,   t at or before    t before      t in live
                     or after last  the end of last   live began
    activated        applied        refused (*)       refused       not_yet (**)
    an end           not_yet        refused           refused       applied (**)
    a state event    not_yet        no effect         no effect     applied; no effect where a newer one of its kind was told

    an end           terminated, ported_out, holder_changed
    a state event    suspended, resumed; end_user_registered, end_user_withdrawn (not_yet while the holder is an individual)
    (*)              applied at the very end of last
    (**)             activated and holder_changed at the very start of live are refused: they are known. So is one within a day after it
                     that the newest snapshot has told: a snapshot may know only the day

`not_yet` is what time, another event or a person would cure: it is not recorded, and the same event is judged anew when it comes again.
An event of the future is not_yet whatever its type. `refused` contradicts what is there whenever it comes. "No effect" is told as applied.

So a history that billing repeats until nothing is not_yet ends as it would have ended in its right order: the number is live or not, since
when, for whom and in which state. An end that comes before an earlier end and the start between them ends the contract that is there, and
those two, which then are over, are refused; generations may be fewer. Two state events of one time are taken in the order they come in.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple, get_args

import msgspec
from msgspec.structs import replace

from registryd.domain.identifiers import Msisdn, begins_with_trunk_8
from registryd.domain.testnumbers import is_under_code

Status = Literal["active", "suspended", "ended"]
Holder = Literal["individual", "sole_trader", "organisation"]
EndUser = Literal["not_required", "registered", "unregistered"]
EndReason = Literal["terminated", "ported_out", "holder_changed"]
StatedEndUser = Literal["registered", "unregistered"]
"""What an event may say of the end user; of an individual it says nothing."""
Outcome = Literal["applied", "duplicate", "refused", "not_yet"]
EventType = Literal[
    "activated", "terminated", "ported_out", "holder_changed", "suspended", "resumed", "end_user_registered", "end_user_withdrawn"
]

STATUSES: tuple[str, ...] = get_args(Status)
HOLDERS: tuple[str, ...] = get_args(Holder)
END_USERS: tuple[str, ...] = get_args(EndUser)
STATED_END_USERS: tuple[str, ...] = get_args(StatedEndUser)
END_REASONS: tuple[str, ...] = get_args(EndReason)
EVENT_TYPES: tuple[str, ...] = get_args(EventType)
OUTCOMES: tuple[str, ...] = get_args(Outcome)
EVENT_ID = re.compile("[!-~]{1,128}", re.ASCII)
EVENT_ID_WANTED = "1 to 128 printable ASCII characters without spaces"
CLOCK_SKEW_MAX = timedelta(minutes=4)
"""How far billing's clock may be ahead of ours. The database tolerates a minute more, so it never refuses what passed here."""
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
"""The id of a notification begins with a time that counts from here, so no contract ends earlier."""
GENERATION_MAX = 32_767
SNAPSHOT_GRAIN = timedelta(days=1)
"""How much earlier a snapshot may put a contract's start than the event that tells it."""


class Contract(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    msisdn: Msisdn
    generation: int
    status: Status
    holder: Holder
    end_user: EndUser
    started_at: datetime
    ended_at: datetime | None = None
    end_reason: EndReason | None = None


class Known(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the registry knows of one number.

    A state event may come before an older one, or before its contract began: then it is applied to the former contract. So the newest of
    each kind is kept beside the contract, with its time: an older one has no effect, and a contract that begins later takes over what
    was told of a time after its start.
    """

    latest: Contract | None = None
    """The contract of the highest generation, live or ended; None where the number has none."""
    snapshot_at: datetime | None = None
    """When the newest snapshot was taken, where `latest` is as that has it; None where something was told since."""
    status: Literal["active", "suspended"] | None = None
    """What the newest of `suspended` and `resumed` said, at `status_at`; both None where there was none, or long ago."""
    status_at: datetime | None = None
    end_user: StatedEndUser | None = None
    """What the newest of `end_user_registered` and `end_user_withdrawn` said, at `end_user_at`."""
    end_user_at: datetime | None = None

    @property
    def state(self) -> tuple[object, ...]:
        return self.status, self.status_at, self.end_user, self.end_user_at

    @property
    def live(self) -> Contract | None:
        return self.latest if self.latest is not None and self.latest.status != "ended" else None


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One contract event. `holder` and `end_user` belong to `activated` and `holder_changed` alone."""

    event_id: str
    type: EventType
    msisdn: Msisdn
    occurred_at: datetime
    holder: Holder | None = None
    end_user: StatedEndUser | None = None


class Result(msgspec.Struct, frozen=True, gc=False):
    """What became of one event."""

    event_id: str
    outcome: Outcome
    reason: str | None = None


class Refused(Exception):
    """An event contradicts the registry's state. The text tells billing's engineer what the state is and what to send."""


Lack = Literal[
    "in_the_future", "no_contract_yet", "still_live", "held_by_an_individual", "too_many_ends", "follows_a_waiting_event", "registry_failed"
]
"""What an event waits for. Billing may rely on these words; the sentence behind them may change."""


class NotYet(Exception):
    """An event does not fit yet. The text tells what it waits for, and begins with the word of it."""

    def __init__(self, lack: Lack, sentence: str) -> None:
        super().__init__(f"{lack}: {sentence}")
        self.lack = lack


class Effect(NamedTuple):
    """What is known after an event, and the contracts that it wrote: the latest as changed, the next generation, both, or none."""

    known: Known
    written: tuple[Contract, ...] = ()


def apply(known: Known, event: Event, now: datetime) -> Effect:
    """What `event` does to its number. `now` is the database's clock. Raises: Refused, NotYet."""
    _refuse_nonsense(event)
    if event.occurred_at > now + CLOCK_SKEW_MAX:
        raise NotYet("in_the_future", "occurredAt lies in the future; send the event again when it has happened, or with its right time")
    match event.type:
        case "activated":
            return _activate(known, event)
        case "terminated" | "ported_out" | "holder_changed":
            return _end(known, event, event.type)
        case "suspended" | "resumed" | "end_user_registered" | "end_user_withdrawn":
            return _change_state(known, event)


def _refuse_nonsense(event: Event) -> None:
    """Refuses what is wrong with an event whatever the registry holds."""
    if begins_with_trunk_8(event.msisdn):
        raise Refused("the number begins with 8, which is dialled inside Russia for +7: send it with +7")
    if is_under_code(event.msisdn):
        raise Refused("no subscriber has a number under +999, the code of test numbers: send the number that the contract has")
    if event.occurred_at < EARLIEST:
        raise Refused("occurredAt lies before 1970: correct the year")
    begins = event.type in ("activated", "holder_changed")
    if not begins and (event.holder or event.end_user):
        raise Refused(f"holder and endUser do not belong to {event.type}: send holder_changed or end_user_registered for that")
    if begins and event.end_user is not None and event.holder in (None, "individual"):
        raise Refused("endUser belongs to an organisation or sole trader: leave it out, or send the holder")


def _activate(known: Known, event: Event) -> Effect:
    latest, live = known.latest, known.live
    if live is None:
        if latest is not None and latest.ended_at is not None and event.occurred_at < latest.ended_at:
            raise Refused(f"occurredAt is before generation {latest.generation} ended: an activation follows the end")
        return _begin(known, event)
    if event.occurred_at < live.started_at:
        raise Refused(f"occurredAt is before the live contract (generation {live.generation}) started: that holder's time is over")
    if event.occurred_at == live.started_at or _is_in_snapshot(known, live, event):
        raise Refused(f"the live contract (generation {live.generation}) started then: the activation is known")
    raise NotYet(
        "still_live",
        f"the number has a live contract (generation {live.generation}); send terminated, ported_out or holder_changed, then this again",
    )


def _end(known: Known, event: Event, reason: EndReason) -> Effect:
    live = known.live
    if live is None:
        raise _missing(known, event) or Refused("the contract had ended by then: its end is known")
    if event.occurred_at < live.started_at:
        raise Refused(f"occurredAt is before the live contract (generation {live.generation}) started")
    if reason == "holder_changed" and (event.occurred_at == live.started_at or _is_in_snapshot(known, live, event)):
        raise Refused(f"the live contract (generation {live.generation}) started then: the change is known")
    ended = replace(live, status="ended", ended_at=event.occurred_at, end_reason=reason)
    after = Effect(replace(known, latest=ended, snapshot_at=None), (ended,))
    if reason != "holder_changed":
        return after
    begun = _begin(after.known, event)
    return Effect(begun.known, (ended, *begun.written))


def _change_state(known: Known, event: Event) -> Effect:
    live = known.live
    if live is None and (missing := _missing(known, event)):
        raise missing
    is_service = event.type in ("suspended", "resumed")
    newest = known.status_at if is_service else known.end_user_at
    if live is None or event.occurred_at < live.started_at or (newest is not None and event.occurred_at < newest):
        return Effect(known)
    if is_service:
        status: Literal["active", "suspended"] = "suspended" if event.type == "suspended" else "active"
        changed = replace(live, status=status)
        after = replace(known, status=status, status_at=event.occurred_at)
    else:
        if live.holder == "individual":
            raise NotYet("held_by_an_individual", "an individual needs no registered end user; send holder_changed first")
        end_user: StatedEndUser = "registered" if event.type == "end_user_registered" else "unregistered"
        changed = replace(live, end_user=end_user)
        after = replace(known, end_user=end_user, end_user_at=event.occurred_at)
    # Written also where it changes nothing, so that no snapshot taken before now undoes what was told.
    return Effect(replace(after, latest=changed, snapshot_at=None), (changed,))


def _missing(known: Known, event: Event) -> NotYet | None:
    """Of a number without a live contract: the event's contract has not been told. None where it is over."""
    latest = known.latest
    if latest is not None and latest.ended_at is not None and event.occurred_at <= latest.ended_at:
        return None
    return NotYet("no_contract_yet", "the number has no live contract at that time; send activated, then this again")


def _is_in_snapshot(known: Known, live: Contract, event: Event) -> bool:
    """Whether a snapshot has told the start that `event` tells late: it knows the day where the event tells the second."""
    return (
        known.snapshot_at is not None
        and event.occurred_at <= known.snapshot_at
        and timedelta(0) <= event.occurred_at - live.started_at < SNAPSHOT_GRAIN
        and (event.holder or "individual") == live.holder
    )


def _begin(known: Known, event: Event) -> Effect:
    """The number's next generation. What was told of its state before it came is taken over."""
    latest = known.latest
    generation = 1 if latest is None else latest.generation + 1
    if generation > GENERATION_MAX:
        raise Refused("the number has had too many holders to count: tell the registry's operators")
    status: Literal["active", "suspended"] = "active"
    if known.status is not None and known.status_at is not None and known.status_at > event.occurred_at:
        status = known.status
    end_user = event.end_user or "unregistered"
    if known.end_user is not None and known.end_user_at is not None and known.end_user_at > event.occurred_at:
        end_user = known.end_user
    holder = event.holder or "individual"
    begun = Contract(
        msisdn=event.msisdn,
        generation=generation,
        status=status,
        holder=holder,
        end_user="not_required" if holder == "individual" else end_user,
        started_at=event.occurred_at,
    )
    return Effect(replace(known, latest=begun, snapshot_at=None), (begun,))
