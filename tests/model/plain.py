"""What the registry promises, in plain words of Python: dicts and lists, one event after another, nothing shared.

It is written to be read beside the law and the wire contract, and shares no code with what it judges. Times are the database's. Where the
database stamps a row itself, the model knows only before or after which step that was: `Plain.now` is the time before the current step, and
what the step records carries `Plain.stamp`, a microsecond later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import permutations
from typing import NamedTuple

NOTICE = timedelta(hours=24)
CLOCKS_DIFFER = timedelta(minutes=4)


@dataclass(frozen=True)
class Contract:
    status: str
    holder: str
    end_user: str
    started_at: datetime
    ended_at: datetime | None = None
    end_reason: str | None = None
    learned_at: datetime | None = None
    """When an event or a person last changed it; None: it is as a snapshot has it."""

    @property
    def is_live(self) -> bool:
        return self.ended_at is None


class Event(NamedTuple):
    event_id: str
    type: str
    number: int
    occurred_at: datetime
    holder: str | None = None
    end_user: str | None = None


class Line(NamedTuple):
    """A snapshot's line on one number."""

    holder: str
    end_user: str
    status: str
    started_at: datetime


@dataclass
class Binding:
    number: int
    generation: int
    messenger: int
    code: str
    made_in: datetime
    """When the step began that made it."""
    end_reason: str | None = None


class Key(NamedTuple):
    """What names a notice without the id that the database makes."""

    messenger: int
    number: int
    generation: int
    undoes: bool = False
    """It tells that an end was undone: `generation` has begun again."""


@dataclass
class Notice:
    code: str
    terminated_at: datetime
    deadline_at: datetime
    attempts: int = 0
    is_deferred: bool = False
    is_repeat: bool = False
    """Owed again by a replay."""
    is_refused: bool = False
    """The messenger's endpoint works, and refused it the last time."""


@dataclass
class Wave:
    ends: int = 0
    notifications: int = 0
    released: int = 0
    withdrawn: int = 0
    is_open: bool = True
    """Whether the next ends beyond the bound, of the same person, belong to it."""


STATES = {
    "suspended": ("status", "suspended"),
    "resumed": ("status", "active"),
    "end_user_registered": ("end_user", "registered"),
    "end_user_withdrawn": ("end_user", "unregistered"),
}
"""What state events say: which state of the contract, and how it is."""


@dataclass
class Plain:
    messengers: Sequence[int]
    now: datetime
    suspended_is_present: bool = True
    organisation_rule: str = "verified_end_user"
    contracts: dict[int, list[Contract]] = field(default_factory=dict)
    """By number, the first generation first."""
    bindings: list[Binding] = field(default_factory=list)
    owed: dict[Key, Notice] = field(default_factory=dict)
    held: dict[Key, tuple[Notice, int]] = field(default_factory=dict)
    """With their waves."""
    withdrawn: dict[Key, Notice] = field(default_factory=dict)
    waves: list[Wave] = field(default_factory=list)
    ends_max: int = 1_000_000
    """How many contracts may end in an hour."""
    ended_last_hour: int = 0
    """Of those that count towards the bound: not those of a wave, nor those that an allowance covers."""
    allowed: list[int] = field(default_factory=list)
    """What is left of each allowance."""
    holds: set[int | None] = field(default_factory=set)
    """Whose notices a person holds; None: everybody's."""
    delivered: dict[Key, tuple[Notice, str]] = field(default_factory=dict)
    """With the channel."""
    events: dict[str, tuple[Event, str]] = field(default_factory=dict)
    """What is kept: applied and refused ones."""
    states: dict[tuple[int, str], tuple[datetime, str]] = field(default_factory=dict)
    """By number and kind (status or end_user), the newest state that an event told, and its time."""
    last_snapshot: datetime | None = None
    is_complete: bool = True
    """Whether the registry holds every contract. Else nothing is answered."""
    attempts: Counter[tuple[int, str, int]] = field(default_factory=Counter)
    """Notifications pushed, by messenger, outcome and status."""
    asked: Counter[tuple[int, bool]] = field(default_factory=Counter)
    """Queries by messenger and answer."""

    _fresh: dict[Key, Notice] = field(default_factory=dict)
    """Of the statement under way."""
    _new: set[str] = field(default_factory=set)
    """The events that the call under way told first."""

    @property
    def stamp(self) -> datetime:
        return self.now + timedelta(microseconds=1)

    # Who is present

    def latest(self, number: int) -> Contract | None:
        of_number = self.contracts.get(number)
        return of_number[-1] if of_number else None

    def live(self, number: int) -> Contract | None:
        latest = self.latest(number)
        return latest if latest is not None and latest.is_live else None

    def is_present(self, number: int) -> bool:
        contract = self.live(number)
        if contract is None or (contract.status == "suspended" and not self.suspended_is_present):
            return False
        return self.organisation_rule == "subscriber" or contract.end_user != "unregistered"

    # Bindings

    def ask(self, messenger: int, number: int, code: str | None) -> tuple[bool, str | None]:
        """The answer, and what becomes of the code."""
        present = self.is_present(number)
        if not present or code is None:
            return present, None
        same_code = next((b for b in self._live_bindings(messenger) if b.code == code), None)
        if same_code is not None:
            return True, "unchanged" if same_code.number == number else "code_in_use"
        same_number = next((b for b in self._live_bindings(messenger) if b.number == number), None)
        if same_number is not None:
            same_number.end_reason = "replaced"
        self.bindings.append(Binding(number, len(self.contracts[number]), messenger, code, self.now))
        return True, "recorded" if same_number is None else "replaced"

    def ask_batch(self, messenger: int, queries: Sequence[tuple[int, str | None]], told: Sequence[tuple[bool, str | None]]) -> bool:
        """Whether the answers that were told are right in some order: one after another, those that name a number or code again after those
        that named it before. Only such an order is promised; it matters where one query frees the code that another one wants.
        """
        before = deepcopy(self.bindings)
        for order in permutations(range(len(queries))):
            if not _keeps_order(queries, order):
                continue
            self.bindings = deepcopy(before)
            if all(self.ask(messenger, *queries[i]) == told[i] for i in order):
                return True
        return False

    def remove(self, messenger: int, code: str) -> str | None:
        """What the messenger is told of its binding: `active` never; None where it never had one."""
        live = next((b for b in self._live_bindings(messenger) if b.code == code), None)
        if live is not None:
            live.end_reason = "removed"
            return "removed"
        return next((b.end_reason for b in reversed(self.bindings) if (b.messenger, b.code) == (messenger, code)), None)

    def _live_bindings(self, messenger: int) -> list[Binding]:
        return [b for b in self.bindings if b.messenger == messenger and b.end_reason is None]

    # Contracts

    def _write(self, number: int, contract: Contract) -> None:
        """Changes the latest contract. Where that ends it, its bindings end, and there is a fresh notice for each."""
        of_number = self.contracts[number]
        of_number[-1] = contract
        if contract.ended_at is None:
            return
        for binding in self.bindings:
            if (binding.number, binding.generation) == (number, len(of_number)) and binding.end_reason is None:
                binding.end_reason = "terminated"
                notice = Notice(binding.code, contract.ended_at, contract.ended_at + NOTICE)
                self._fresh[Key(binding.messenger, number, binding.generation)] = notice

    def _end(self, number: int, at: datetime, reason: str, learned_at: datetime | None) -> None:
        live = self.live(number)
        assert live is not None
        self._write(number, replace(live, status="ended", ended_at=at, end_reason=reason, learned_at=learned_at))

    def end_by_sql(self, numbers: Iterable[int], at: datetime) -> None:
        """A DBA's UPDATE of live contracts."""
        ends = 0
        for number in numbers:
            self._end(number, at, "terminated", self.stamp)
            ends += 1
        self._owe(ends)

    # The bound of the hour

    @property
    def ends_left(self) -> int:
        return max(self.ends_max - self.ended_last_hour, 0) + sum(self.allowed)

    def _owe(self, ends: int, *, is_allowed: bool = False) -> None:
        """A statement has ended so many contracts: its notices are owed, or held where the ends go beyond the bound."""
        fresh, self._fresh = self._fresh, {}
        if not ends:
            return
        if is_allowed or self._is_within_bound(ends):
            self.owed.update(fresh)
            return
        if not self.waves or not self.waves[-1].is_open:
            self.waves.append(Wave())
        wave = self.waves[-1]
        wave.ends += ends
        wave.notifications += len(fresh)
        self.held.update((key, (notice, len(self.waves) - 1)) for key, notice in fresh.items())

    def _is_within_bound(self, ends: int) -> bool:
        """Counts the ends, if they are. Allowances are used up before the bound, but only where the bound alone is not enough."""
        if self.ended_last_hour + ends > self.ends_max:
            if ends > self.ends_left:
                return False
            for i, left in enumerate(self.allowed):
                self.allowed[i] -= min(left, ends)
                ends -= min(left, ends)
        self.ended_last_hour += ends
        return True

    def let_hour_pass(self) -> None:
        self.ended_last_hour = 0
        for wave in self.waves:
            wave.is_open = False

    def release(self, wave: int) -> None:
        """A person lets the notices of a wave go."""
        self.waves[wave].is_open = False
        for key in [key for key, (_, of) in self.held.items() if of == wave]:
            self.owed[key] = self.held.pop(key)[0]
            self.waves[wave].released += 1

    def is_held_back(self, messenger: int) -> bool:
        return bool(self.holds & {None, messenger})

    # Billing's events

    def apply(self, events: Sequence[Event]) -> list[str]:
        """One call. Ends beyond the bound wait, and so does what follows them in the call on their numbers."""
        left = self.ends_left
        there = {number: len(self.contracts[number]) for number in self.contracts if self.live(number) is not None}
        ended: set[int] = set()
        stopped: set[int] = set()
        told = []
        for event in events:
            # What the call itself began is nobody's news when it ends.
            is_news = event.number not in ended and there.get(event.number) == len(self.contracts.get(event.number, ()))
            before = deepcopy((self.contracts.get(event.number, []), self.states, self.bindings, self._fresh))
            outcome = self._apply_one(event)
            if outcome == "applied" and event.event_id in self._new:
                ends = is_news and self.contracts[event.number][there[event.number] - 1].ended_at is not None
                if event.number in stopped or (ends and len(ended) == left):
                    stopped |= {event.number}
                    self.contracts[event.number], self.states, self.bindings, self._fresh = before
                    del self.events[event.event_id]
                    outcome = "not_yet"
                elif ends:
                    ended.add(event.number)
            told.append(outcome)
        self._new.clear()
        self._owe(len(ended))
        return told

    def _apply_one(self, event: Event) -> str:
        if event.event_id in self.events:
            known, outcome = self.events[event.event_id]
            return "duplicate" if known == event and outcome == "applied" else "refused"
        outcome = self._judge(event)
        self._new.add(event.event_id)
        if outcome in ("applied", "refused"):
            self.events[event.event_id] = (event, outcome)
        return outcome

    def _judge(self, event: Event) -> str:
        """Applies one new event, or says why not."""
        at, number = event.occurred_at, event.number
        live, latest = self.live(number), self.latest(number)
        begins = event.type in ("activated", "holder_changed")
        if not begins and (event.holder or event.end_user):
            return "refused"
        if begins and event.end_user and (event.holder or "individual") == "individual":
            return "refused"
        if at > self.now + CLOCKS_DIFFER:
            return "not_yet"
        is_over = latest is not None and latest.ended_at is not None and at <= latest.ended_at
        if event.type == "activated":
            if live is None:
                if is_over and latest is not None and at != latest.ended_at:
                    return "refused"
                self._begin(event)
                return "applied"
            return "refused" if at <= live.started_at or self._is_in_snapshot(live, event) else "not_yet"
        if event.type in ("terminated", "ported_out", "holder_changed"):
            if live is None:
                return "refused" if is_over else "not_yet"
            if at < live.started_at or (begins and (at == live.started_at or self._is_in_snapshot(live, event))):
                return "refused"
            self._end(number, at, event.type, self.stamp)
            if begins:
                self._begin(event)
            return "applied"
        return self._change_state(event, live, is_over=is_over)

    def _change_state(self, event: Event, live: Contract | None, *, is_over: bool) -> str:
        if live is None:
            return "applied" if is_over else "not_yet"
        kind, told = STATES[event.type]
        newest = self.states.get((event.number, kind))
        if event.occurred_at < live.started_at or (newest is not None and event.occurred_at < newest[0]):
            return "applied"
        if kind == "end_user" and live.holder == "individual":
            return "not_yet"
        self.states[event.number, kind] = event.occurred_at, told
        changed = replace(live, status=told) if kind == "status" else replace(live, end_user=told)
        self._write(event.number, replace(changed, learned_at=self.stamp))
        return "applied"

    def _is_in_snapshot(self, live: Contract, event: Event) -> bool:
        """Whether the newest snapshot has the live contract, and may mean by it what the event tells late, to the day."""
        return (
            live.learned_at is None
            and self.last_snapshot is not None
            and event.occurred_at <= self.last_snapshot
            and live.started_at <= event.occurred_at < live.started_at + timedelta(days=1)
            and (event.holder or "individual") == live.holder
        )

    def _begin(self, event: Event) -> None:
        """What was told of the state at a later time than the start is the state it begins with."""
        later = {kind: told for (number, kind), (at, told) in self.states.items() if number == event.number and at > event.occurred_at}
        holder = event.holder or "individual"
        end_user = "not_required" if holder == "individual" else later.get("end_user", event.end_user or "unregistered")
        begun = Contract(later.get("status", "active"), holder, end_user, event.occurred_at, learned_at=self.stamp)
        self.contracts.setdefault(event.number, []).append(begun)

    # Snapshots

    def snapshot(self, lines: Mapping[int, Line], as_of: datetime, *, is_forced: bool) -> dict[str, int] | None:
        """Makes the live contracts those of billing's table, but for what the registry learned later. Returns what was done, by kind.

        None, and nothing is changed, where more would end or turn absent than may; `is_forced`: a person lets all of it through.
        """
        trial = deepcopy(self)
        done = trial._reconcile_all(lines, as_of)
        ends = done.get("terminated", 0) + done.get("holder_changed", 0)
        absent = sum(self.is_present(number) and not trial.is_present(number) for number in self.contracts)
        if not is_forced and max(ends, absent) > self.ends_left:
            return None
        self._reconcile_all(lines, as_of)
        self._owe(ends, is_allowed=ends > self.ends_left)
        return done

    def _reconcile_all(self, lines: Mapping[int, Line], as_of: datetime) -> dict[str, int]:
        done: Counter[str] = Counter()
        if not any(self.contracts.values()):
            for number, line in lines.items():
                self.contracts[number] = [Contract(line.status, line.holder, line.end_user, line.started_at)]
            done["activated"] = len(lines)
        else:
            for number in sorted(set(lines) | set(self.contracts)):
                done[self._reconcile(number, lines.get(number), as_of)] += 1
        self.last_snapshot = max(as_of, self.last_snapshot or as_of)
        self.is_complete |= self.last_snapshot == as_of
        del done["unchanged"]
        return dict(+done)

    def _reconcile(self, number: int, line: Line | None, as_of: datetime) -> str:
        latest, live = self.latest(number), self.live(number)
        if line is None and live is None:
            return "unchanged"
        if line is not None and live is not None:
            same = (line.holder, line.status, line.end_user) == (live.holder, live.status, live.end_user)
            # Where somebody else told of the start, billing's table may have it later by less than a day.
            later_by = line.started_at - live.started_at
            is_later = later_by > timedelta(0) if live.learned_at is None else later_by >= timedelta(hours=24)
            if same and not is_later:
                return "unchanged"
        known = [self.last_snapshot, *((latest.learned_at, latest.started_at, latest.ended_at) if latest is not None else ())]
        if any(at is not None and at > as_of for at in known):
            return "newer"
        if line is None:
            self._end(number, as_of, "terminated", as_of)
            return "terminated"
        if live is None:
            starts = max(filter(None, (line.started_at, latest.ended_at if latest is not None else None)))
            self.contracts.setdefault(number, []).append(Contract(line.status, line.holder, line.end_user, starts))
            return "activated"
        if is_later or line.holder != live.holder:
            at = line.started_at if line.started_at > live.started_at else as_of
            self._end(number, at, "holder_changed", as_of)
            self.contracts[number].append(Contract(line.status, line.holder, line.end_user, at))
            return "holder_changed"
        self._write(number, replace(live, status=line.status, end_user=line.end_user, learned_at=as_of if live.learned_at else None))
        return "updated"

    # Deliveries

    def pullable(self, messenger: int) -> set[Key]:
        return {key for key in self.owed if key.messenger == messenger}

    def due(self, messenger: int) -> set[Key]:
        return {key for key in self.pullable(messenger) if not self.owed[key].is_deferred}

    def settle(self, keys: Iterable[Key], via: str) -> int:
        """A receipt. Returns how many notices it settled; those that are not owed are ignored."""
        settled = 0
        for key in keys:
            notice = self.owed.pop(key, None)
            if notice is None:
                continue
            settled += 1
            if not notice.is_repeat:
                self.delivered[key] = (replace(notice, attempts=notice.attempts + (via == "push")), via)
        return settled

    def defer(self, keys: Iterable[Key], *, later: bool) -> None:
        """The messenger's endpoint refused them."""
        for key in keys:
            notice = self.owed[key]
            notice.attempts += 1
            notice.is_deferred = later
            notice.is_refused = True

    def replay(self, keys: Iterable[Key]) -> None:
        """Owes what was delivered once again."""
        for key in keys:
            notice, _ = self.delivered[key]
            self.owed.setdefault(key, replace(notice, attempts=0, is_deferred=False, is_repeat=True, is_refused=False))

    # What two persons undo

    def _withdraw(self, key: Key) -> None:
        if key in self.held:
            notice, wave = self.held.pop(key)
            self.waves[wave].withdrawn += 1
            self.waves[wave].is_open = False
        else:
            notice = self.owed.pop(key)
        if not notice.is_repeat:
            self.withdrawn[key] = notice

    def withdraw_wave(self, wave: int) -> int:
        """Returns how many notices."""
        chosen = [key for key, (_, of) in self.held.items() if of == wave]
        for key in chosen:
            self._withdraw(key)
        return len(chosen)

    def withdraw_refused(self, messenger: int) -> int:
        """Of a messenger, what it refuses and is overdue."""
        owed = [(key, notice) for key, notice in self.owed.items() if key.messenger == messenger]
        chosen = [key for key, notice in owed if notice.is_refused and notice.deadline_at < self.now]
        for key in chosen:
            self._withdraw(key)
        return len(chosen)

    def of_wave(self, wave: int) -> set[tuple[int, int]]:
        """The contracts, by number and generation, of a wave's held notices, and those that ended in the same steps."""
        held = {(key.number, key.generation) for key, (_, of) in self.held.items() if of == wave}
        steps = {self.contracts[number][generation - 1].learned_at for number, generation in held}
        return held | {of for of, contract in self.ended().items() if contract.learned_at in steps}

    def ended_since(self, at: datetime) -> set[tuple[int, int]]:
        return {of for of, contract in self.ended().items() if contract.learned_at is not None and contract.learned_at >= at}

    def last_ended(self, numbers: Iterable[int]) -> set[tuple[int, int]]:
        ended = self.ended()
        return {max(of for of in ended if of[0] == number) for number in numbers if any(of[0] == number for of in ended)}

    def ended(self) -> dict[tuple[int, int], Contract]:
        return {
            (number, i + 1): contract
            for number, of_number in self.contracts.items()
            for i, contract in enumerate(of_number)
            if not contract.is_live
        }

    def reinstate(self, mistaken: set[tuple[int, int]]) -> Counter[tuple[str, str]]:
        """Begins those contracts and their bindings again. Returns how many contracts, bindings and notices had which outcome."""
        told: Counter[tuple[str, str]] = Counter()
        last = {of for of in mistaken if of[1] == len(self.contracts[of[0]])}
        told["contract", "reinstated"] = len(last)
        told["contract", "moved_on"] = len(mistaken - last)
        chosen, outcomes = self._bindings_to_reinstate(mistaken, last)
        told.update(("binding", outcome) for outcome in outcomes)
        for number, generation in sorted(last):
            ended = self.contracts[number][generation - 1]
            assert ended.ended_at is not None
            self.contracts[number].append(Contract("active", ended.holder, ended.end_user, ended.ended_at, learned_at=self.stamp))
        for binding in chosen:
            again = Binding(binding.number, binding.generation + 1, binding.messenger, binding.code, self.now)
            self.bindings.append(again)
            told.update(("notification", state) for state in self._tell_reinstated(binding))
        return +told

    def _bindings_to_reinstate(self, mistaken: set[tuple[int, int]], last: set[tuple[int, int]]) -> tuple[list[Binding], list[str]]:
        """The bindings that are made again, and what becomes of each that those ends ended."""
        ended = [b for b in self.bindings if (b.number, b.generation) in mistaken and b.end_reason == "terminated"]
        made: dict[tuple[int, str], Binding] = {}
        outcomes = []
        # The latest first: it has the code that was bound to one number after another. No step makes two bindings of one code.
        for b in sorted(ended, key=lambda b: b.made_in, reverse=True):
            live = self._live_bindings(b.messenger)
            if any(other.number == b.number for other in live):
                outcomes.append("number_taken")
            elif any(other.code == b.code for other in live):
                outcomes.append("code_taken")
            elif (b.number, b.generation) not in last:
                outcomes.append("moved_on")
            elif (b.messenger, b.code) in made:
                outcomes.append("code_taken")
            else:
                made[b.messenger, b.code] = b
                outcomes.append("reinstated")
        return list(made.values()), outcomes

    def _tell_reinstated(self, binding: Binding) -> list[str]:
        """What was the state of the notices of a binding that is made again. Whoever may have been told hears of it."""
        key = Key(binding.messenger, binding.number, binding.generation)
        states = []
        if key in self.held:
            states.append("held")
        if key in self.owed:
            states.append("repeated" if self.owed[key].is_repeat else "owed")
        if key in self.delivered:
            states.append("delivered")
        if "held" in states or "owed" in states or "repeated" in states:
            self._withdraw(key)
        if "owed" in states or "delivered" in states:
            again = Notice(binding.code, self.stamp, self.stamp + NOTICE, is_deferred="owed" in states)
            self.owed[key._replace(generation=binding.generation + 1, undoes=True)] = again
        return states


def _keeps_order(queries: Sequence[tuple[int, str | None]], order: Sequence[int]) -> bool:
    """Whether those that name the same number or code stand in their own order."""
    return not any(
        later < earlier and any(a is not None and a == b for a, b in zip(queries[earlier], queries[later], strict=True))
        for place, earlier in enumerate(order)
        for later in order[place + 1 :]
    )
