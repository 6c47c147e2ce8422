"""The state machine: draws what is done, does it to the registry and to the plain model, and compares the two after every step."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from datetime import datetime, timedelta
from typing import Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from registryd.domain.contract import EVENT_TYPES
from tests.model.figures import figures
from tests.model.plain import Event, Key, Line, Plain
from tests.model.world import World

T = TypeVar("T")
NUMBERS = [79_160_000_001 + i for i in range(5)]
MESSENGERS = 3
CODES = ["a", "b", "c", "d", "e"]
AGO_HOURS = (-480, -240, -120, -72, -50, -30, -20, -10, -5, -2, -1)
"""When things happened, in hours from the example's beginning. None lies near the notice period, so that no deadline passes meanwhile."""
AHEAD_HOURS = (1, 50)

numbers = st.sampled_from(NUMBERS)
messengers = st.integers(0, MESSENGERS - 1)
codes = st.sampled_from(CODES)
moments = st.sampled_from(AGO_HOURS)
holders = st.sampled_from(["individual", "sole_trader", "organisation"])
ALL = (1 << 10) - 1
one_in_five = st.integers(0, 4).map(lambda drawn: drawn == 4)
picks = st.integers(0, ALL)
"""A choice among what is there: bit i takes the i-th."""

drawn_events = st.tuples(
    st.sampled_from(EVENT_TYPES),
    numbers,
    st.one_of(st.none(), moments, moments, moments, st.sampled_from(AHEAD_HOURS)),
    st.one_of(st.none(), holders),
    st.sampled_from([None, None, "registered", "unregistered"]),
)
drawn_lines = st.dictionaries(
    numbers, st.tuples(holders, st.booleans(), st.sampled_from(["active", "active", "suspended"]), moments), max_size=len(NUMBERS)
)


def picked(keys: set[Key], pick: int) -> list[Key]:
    return [key for i, key in enumerate(sorted(keys)) if pick >> i & 1]


class RegistryMachine(RuleBasedStateMachine):
    """Its world and loop are set before it runs."""

    world: ClassVar[World]
    loop: ClassVar[asyncio.AbstractEventLoop]
    steps: ClassVar[int] = 0
    """How many steps all examples have taken."""

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @initialize(ends_max=st.sampled_from([1, 2, 3, 1_000]), is_populated=st.sampled_from([True, True, False]))
    def begin(self, ends_max: int, is_populated: bool) -> None:
        self._begin(ends_max)
        if is_populated:
            self._apply([Event(f"e{i}", "activated", number, self.at(AGO_HOURS[0])) for i, number in enumerate(NUMBERS)])
            for of in range(MESSENGERS):
                self.bind_all(of, of)

    def _begin(self, ends_max: int) -> None:
        self.beginning = self.run(self.world.begin(MESSENGERS, ends_max))
        self.of = self.world.messengers
        self.model = Plain(self.of, self.beginning, ends_max=ends_max)
        self.times: list[datetime] = []
        """When each step began."""
        self.run(self.world.change_policy(suspended_is_present=True, organisation_rule="verified_end_user"))
        self.sent: list[Event] = []
        self.tick()

    def tick(self) -> None:
        """A step begins."""
        self.model.now = self.run(self.world.now())
        self.times.append(self.model.now)
        RegistryMachine.steps += 1

    def at(self, hours: int | None) -> datetime:
        """None: now."""
        return self.model.now if hours is None else self.beginning + timedelta(hours=hours)

    # Billing

    @rule(drawn=st.lists(drawn_events, min_size=1, max_size=4))
    def events(self, drawn: list[tuple[Any, ...]]) -> None:
        self.tick()
        new: list[Event] = []
        for type_, number, hours, holder, end_user in drawn:
            if type_ not in ("activated", "holder_changed"):
                holder = end_user = None
            elif holder in (None, "individual"):
                end_user = None
            new.append(Event(f"e{len(self.sent) + len(new)}", type_, number, self.at(hours), holder, end_user))
        self._apply(new)

    @rule(number=numbers, hours=moments)
    def activate(self, number: int, hours: int) -> None:
        """The event that most others need."""
        self.tick()
        self._apply([Event(f"e{len(self.sent)}", "activated", number, self.at(hours))])

    @rule(hours=moments)
    def activate_all(self, hours: int) -> None:
        self.tick()
        absent = [number for number in NUMBERS if self.model.live(number) is None]
        self._apply([Event(f"e{len(self.sent) + i}", "activated", number, self.at(hours)) for i, number in enumerate(absent)])

    @precondition(lambda self: self.sent)
    @rule(picks=st.lists(st.integers(0, 1 << 20), min_size=1, max_size=3), is_changed=st.booleans())
    def repeat_events(self, picks: list[int], is_changed: bool) -> None:
        """Sent before; `is_changed`: another event under the first one's id."""
        self.tick()
        again = [self.sent[pick % len(self.sent)] for pick in picks]
        if is_changed:
            again[0] = again[0]._replace(number=NUMBERS[(NUMBERS.index(again[0].number) + 1) % len(NUMBERS)])
        self._apply(again, is_new=False)

    def _apply(self, events: list[Event], *, is_new: bool = True) -> None:
        if is_new:
            self.sent += events
        assert self.run(self.world.apply(events)) == self.model.apply(events)

    @rule(
        lines=drawn_lines,
        since=st.one_of(st.none(), st.integers(0, 5), moments),
        keeps=st.sampled_from([True, True, True, False]),
        is_forced=st.booleans(),
    )
    def snapshot(self, lines: dict[int, tuple[Any, ...]], since: int | None, keeps: bool, is_forced: bool) -> None:
        """`since`: true now, when one of the last steps began, or hours before the example. `keeps`: what is not drawn stands in it as the
        registry has it.
        """
        self.tick()
        as_of = self.at(since) if since is None or since < 0 else self.times[max(0, len(self.times) - 1 - since)]
        billing: dict[int, Line] = {}
        if keeps:
            for number in NUMBERS:
                if (live := self.model.live(number)) is not None and live.started_at <= as_of:
                    billing[number] = Line(live.holder, live.end_user, live.status, live.started_at)
        for number, (holder, is_registered, status, hours) in lines.items():
            end_user = "not_required" if holder == "individual" else "registered" if is_registered else "unregistered"
            billing[number] = Line(holder, end_user, status, min(self.at(hours), as_of))
        expected = self.model.snapshot(billing, as_of, is_forced=is_forced)
        assert self.run(self.world.snapshot(billing, as_of, is_forced=is_forced)) == expected

    @rule(wanted=st.sets(numbers, min_size=1), hours=st.one_of(st.none(), moments))
    def end_by_sql(self, wanted: set[int], hours: int | None) -> None:
        self.tick()
        at = None if hours is None else self.at(hours)
        ends = sorted(n for n in wanted if (c := self.model.live(n)) is not None and (at is None or c.started_at <= at))
        ended_at = self.run(self.world.end_by_sql(ends, at))
        if ended_at is not None:
            assert _same_time(ended_at, at or self.model.now)
            self.model.end_by_sql(ends, ended_at)

    @rule(suspended_is_present=st.booleans(), organisation_rule=st.sampled_from(["subscriber", "verified_end_user"]))
    def change_policy(self, suspended_is_present: bool, organisation_rule: str) -> None:
        self.tick()
        self.run(self.world.change_policy(suspended_is_present=suspended_is_present, organisation_rule=organisation_rule))
        self.model.suspended_is_present, self.model.organisation_rule = suspended_is_present, organisation_rule

    # Messengers

    @rule(of=messengers, number=numbers, code=st.one_of(st.none(), codes, codes, codes))
    def ask(self, of: int, number: int, code: str | None) -> None:
        self.tick()
        told = self.run(self.world.ask(self.of[of], number, code))
        if not self.model.is_complete:
            assert told is None
            return
        assert told is not None
        assert told == self.model.ask(self.of[of], number, code)
        self.model.asked[self.of[of], told[0]] += 1

    @rule(of=messengers, queries=st.lists(st.tuples(numbers, st.one_of(st.none(), codes, codes)), min_size=1, max_size=6))
    def ask_batch(self, of: int, queries: list[tuple[int, str | None]]) -> None:
        self.ask_batch_of(of, queries)

    def ask_batch_of(self, of: int, queries: list[tuple[int, str | None]]) -> None:
        self.tick()
        told = self.run(self.world.ask_batch(self.of[of], queries))
        if not self.model.is_complete:
            assert told is None
            return
        assert told is not None
        assert self.model.ask_batch(self.of[of], queries, told)
        self.model.asked.update((self.of[of], present) for present, _ in told)

    @rule(of=messengers, shift=st.integers(0, len(NUMBERS) - 1))
    def bind_all(self, of: int, shift: int) -> None:
        """A code for each number. `shift`: which code is whose."""
        self.ask_batch_of(of, [(number, CODES[(i + shift) % len(CODES)]) for i, number in enumerate(NUMBERS)])

    @rule(of=messengers, code=codes)
    def remove(self, of: int, code: str) -> None:
        self.tick()
        assert self.run(self.world.remove(self.of[of], code)) == self.model.remove(self.of[of], code)

    # Deliveries

    @precondition(lambda self: self.model.owed)
    @rule(
        pick=st.integers(0, 10),
        receipts=st.one_of(st.just(0), picks),
        refusals=st.one_of(st.just(ALL), picks),
        later=st.booleans(),
        is_stale=one_in_five,
    )
    def push(self, pick: int, receipts: int, refusals: int, later: bool, is_stale: bool) -> None:
        """To one of those who are owed something."""
        self.tick()
        owed = sorted({key.messenger for key in self.model.owed})
        messenger = owed[pick % len(owed)]
        due = self.model.due(messenger)
        delivered = picked(due, receipts)
        refused = picked(due - set(delivered), refusals)
        found = self.run(self.world.push(messenger, delivered, refused, later=later, is_stale=is_stale))
        if self.model.is_held_back(messenger):
            assert found is None
            return
        assert found == due
        self.model.settle(delivered, "push")
        if not is_stale:
            self.model.defer(refused, later=later)
        self.model.attempts[messenger, "acknowledged", 204] += len(delivered)
        self.model.attempts[messenger, "rejected", 422] += len(refused)

    @rule(of=messengers, pick=picks, others=st.booleans())
    def pull(self, of: int, pick: int, others: bool) -> None:
        """Acknowledges some of what it finds; `others`: and ids that are another messenger's, or settled already."""
        self.tick()
        messenger = self.of[of]
        owed = self.model.pullable(messenger)
        assert self.run(self.world.pull(messenger)) == owed
        in_wave = any(key.messenger == messenger for key in self.model.held)
        assert self.run(self.world.is_held_back(messenger)) == (self.model.is_held_back(messenger), in_wave)
        mine = picked(owed, pick)
        foreign = [
            key
            for key in (*self.model.owed, *self.model.held, *self.model.withdrawn, *self.model.delivered)
            if key.messenger != messenger or key not in owed
        ]
        acknowledged = [*mine, *(foreign if others else ())]
        assert self.run(self.world.acknowledge(messenger, acknowledged)) == self.model.settle(mine, "pull")

    @precondition(lambda self: self.model.delivered)
    @rule(of=messengers, pick=picks)
    def replay(self, of: int, pick: int) -> None:
        self.tick()
        wanted = picked({key for key in self.model.delivered if key.messenger == self.of[of]}, pick)
        self.run(self.world.replay(self.of[of], wanted))
        self.model.replay(wanted)

    # Persons

    @rule(of=st.one_of(st.none(), messengers))
    def hold(self, of: int | None) -> None:
        self.tick()
        messenger = None if of is None else self.of[of]
        assert self.run(self.world.hold(messenger)) == (messenger not in self.model.holds)
        self.model.holds.add(messenger)

    @precondition(lambda self: self.model.holds)
    @rule(of=st.one_of(st.none(), messengers))
    def let_go(self, of: int | None) -> None:
        self.tick()
        messenger = None if None in self.model.holds or of is None else self.of[of]
        assert self.run(self.world.let_go(messenger)) == (messenger in self.model.holds)
        self.model.holds.discard(messenger)

    @rule(is_complete=st.sampled_from([True, True, False]))
    def declare(self, is_complete: bool) -> None:
        self.tick()
        self.run(self.world.declare(is_complete=is_complete))
        self.model.is_complete = is_complete

    @rule(ends=st.integers(1, 4))
    def allow(self, ends: int) -> None:
        self.tick()
        self.run(self.world.allow(ends))
        self.model.allowed.append(ends)

    @rule()
    def let_hour_pass(self) -> None:
        self.tick()
        self._let_hour_pass()

    def _let_hour_pass(self) -> None:
        self.run(self.world.let_hour_pass())
        self.model.let_hour_pass()

    @precondition(lambda self: self.model.waves)
    @rule(pick=st.integers(0, 10))
    def release_wave(self, pick: int) -> None:
        self.tick()
        wave = pick % len(self.model.waves)
        self.run(self.world.release(wave))
        self.model.release(wave)

    @precondition(lambda self: self.model.waves)
    @rule(pick=st.integers(0, 10))
    def withdraw_wave(self, pick: int) -> None:
        self.tick()
        wave = pick % len(self.model.waves)
        assert self.run(self.world.withdraw(wave=wave)) == self.model.withdraw_wave(wave)

    @precondition(lambda self: any(notice.is_refused for notice in self.model.owed.values()))
    @rule(of=messengers)
    def withdraw_refused(self, of: int) -> None:
        self.tick()
        assert self.run(self.world.withdraw(messenger=self.of[of])) == self.model.withdraw_refused(self.of[of])

    @precondition(lambda self: self.model.waves)
    @rule(pick=st.integers(0, 10))
    def reinstate_wave(self, pick: int) -> None:
        self.tick()
        wave = pick % len(self.model.waves)
        told = self.run(self.world.reinstate(wave=wave))
        self._reinstate(told, self.model.of_wave(wave))

    @precondition(lambda self: self.model.ended())
    @rule(ago=st.integers(1, 8))
    def reinstate_period(self, ago: int) -> None:
        """What was recorded since one of the last steps began."""
        self.tick()
        since = self.times[max(0, len(self.times) - 1 - ago)]
        told = self.run(self.world.reinstate(since=since))
        self._reinstate(told, self.model.ended_since(since))

    @precondition(lambda self: self.model.ended())
    @rule(wanted=st.sets(numbers, min_size=1))
    def reinstate_numbers(self, wanted: set[int]) -> None:
        self.tick()
        told = self.run(self.world.reinstate(numbers=sorted(wanted)))
        mistaken = self.model.last_ended(wanted)
        never = len(wanted) - len(mistaken)
        assert told.pop(("contract", "not_ended"), 0) == never
        self._reinstate(told, mistaken)

    def _reinstate(self, told: Counter[tuple[str, str]], mistaken: set[tuple[int, int]]) -> None:
        assert told == self.model.reinstate(mistaken)
        # What was undone no longer fills the bound, by minutes: so that no clock is in it, the hour is over.
        self._let_hour_pass()

    @rule()
    def fold(self) -> None:
        """Changes no figure."""
        self.tick()
        self.run(self.world.fold())

    # What must be the same

    @invariant()
    def the_registry_is_as_the_model_says(self) -> None:
        self.run(self._compare())

    async def _compare(self) -> None:
        now = await self.world.now()
        await self._compare_contracts(now)
        assert sorted(tuple(row) for row in await self.world.bindings() if row["end_reason"] is None) == sorted(
            (b.number, b.generation, b.messenger, b.code, None) for b in self.model.bindings if b.end_reason is None
        )
        assert sorted(map(tuple, await self.world.bindings()), key=repr) == sorted(
            ((b.number, b.generation, b.messenger, b.code, b.end_reason) for b in self.model.bindings), key=repr
        )
        await self._compare_notices()
        told = await self.world.ask_batch(self.of[0], [(number, None) for number in NUMBERS])
        assert (told is not None) == self.model.is_complete
        if told is not None:
            assert [present for present, _ in told] == [self.model.is_present(number) for number in NUMBERS]
            self.model.asked.update((self.of[0], present) for present, _ in told)
        assert await self.world.ends_left() == self.model.ends_left
        self.model.now = now
        assert await self.world.figures() == figures(self.model)

    async def _compare_contracts(self, now: datetime) -> None:
        found: dict[int, list[Any]] = {}
        for row in await self.world.contracts():
            of_number = found.setdefault(row["msisdn"], [])
            assert row["generation"] == len(of_number) + 1, "generations count from one without a gap"
            of_number.append(row)
        assert set(found) == {number for number, contracts in self.model.contracts.items() if contracts}
        for number, rows in found.items():
            expected = self.model.contracts[number]
            assert len(rows) == len(expected)
            for row, contract in zip(rows, expected, strict=True):
                told = (contract.status, contract.holder, contract.end_user, contract.started_at, contract.end_reason)
                assert tuple(row[field] for field in ("status", "holder", "end_user", "started_at", "end_reason")) == told
                assert _same_time(row["ended_at"], contract.ended_at), (row, contract)
                is_told = contract.learned_at in self.times or contract.learned_at is None  # by a snapshot, which says when it was taken
                assert row["recorded_at"] == contract.learned_at if is_told else _same_time(row["recorded_at"], contract.learned_at)

    async def _compare_notices(self) -> None:
        owed = await self.world.owed()
        assert set(owed) == set(self.model.owed)
        for key, row in owed.items():
            notice = self.model.owed[key]
            assert (row["identification_code"], row["attempts"], row["is_deferred"], row["replayed"]) == (
                notice.code,
                notice.attempts,
                notice.is_deferred,
                notice.is_repeat,
            )
            _compare_times(row, notice.terminated_at, notice.deadline_at)
        held = await self.world.held()
        assert {key: row["wave"] for key, row in held.items()} == {key: wave for key, (_, wave) in self.model.held.items()}
        for key, row in held.items():
            _compare_times(row, self.model.held[key][0].terminated_at, self.model.held[key][0].deadline_at)
        withdrawn = await self.world.withdrawn()
        assert {key: row["attempts"] for key, row in withdrawn.items()} == {key: n.attempts for key, n in self.model.withdrawn.items()}
        delivered = await self.world.delivered()
        assert set(delivered) == set(self.model.delivered)
        for key, row in delivered.items():
            notice, via = self.model.delivered[key]
            assert (row["identification_code"], row["attempts"], row["channel"]) == (notice.code, notice.attempts, via)
            _compare_times(row, notice.terminated_at, notice.deadline_at)


ONE_STEP = timedelta(seconds=10)
"""What the database stamps itself lies in the step that the model says: it is later by less than any step takes."""


def _same_time(found: datetime | None, expected: datetime | None) -> bool:
    if found is None or expected is None:
        return found is expected
    return found == expected or expected < found < expected + ONE_STEP


def _compare_times(row: Any, terminated_at: datetime, deadline_at: datetime) -> None:
    assert _same_time(row["terminated_at"], terminated_at)
    assert _same_time(row["deadline_at"], deadline_at - timedelta(microseconds=deadline_at.microsecond % 1000))
