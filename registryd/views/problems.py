"""What a person must do something about, from what the database says. No word of it depends on anything else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Literal, NamedTuple

from registryd.domain.backlog import GRAVE
from registryd.store.changes import Change
from registryd.store.days import Retention
from registryd.store.evidence import Verified
from registryd.store.feed import FeedStatus
from registryd.store.guard import AlarmRow
from registryd.store.policy import LAPSES_SOON_S, Law
from registryd.store.processes import RoleRow
from registryd.views.answering import Answering
from registryd.views.backlog import Backlogs, MessengerBacklog
from registryd.views.shape import Shape

FAILING_SHARE = 0.01
UNSEALED_S = 900.0
FEED_SILENT_S = 26 * 3600.0
"""Billing sends a snapshot a day at least."""
DOES_NOTHING = {
    "answer": "no messenger is answered",
    "deliver": "no notification is pushed",
    "operate": "no event is taken in and no job is done",
}


class Problem(Shape, frozen=True):
    """What a person must do something about."""

    severity: Literal["page", "warning"]
    """page: now, for the duty is broken or will be; warning: today."""
    code: str
    messenger: str | None
    sentence: str
    """It says what is wrong and what to do, without a number or code."""
    link: str
    """Where the console shows it, such as lanes/NAME."""


class Facts(NamedTuple):
    backlogs: Backlogs
    late_today: int
    answering: Answering
    feed: FeedStatus
    waiting: int
    """Events that have waited for longer than 15 minutes."""
    alarms: Sequence[AlarmRow]
    """In force."""
    roles: Sequence[RoleRow]
    law: Law
    thresholds: Sequence[timedelta]
    """At what slack an alarm is raised."""
    retention: Sequence[Retention]
    unsealed_s: float
    verified: Verified | None
    changes: Sequence[Change]
    """That messengers ask for, and that wait."""
    rules_off: Sequence[str]
    """Triggers and unique indexes of the database that are switched off."""


def found(facts: Facts) -> list[Problem]:
    """The worst first."""
    every = [
        *_rules(facts.rules_off),
        *_answers(facts),
        *_processes(facts.roles),
        *_deadlines(facts),
        *_held(facts.backlogs),
        *_feed(facts),
        *_asked(facts.changes),
        *_keeping(facts),
    ]
    return sorted(every, key=lambda problem: problem.severity != "page")


def _page(code: str, sentence: str, link: str, messenger: str | None = None) -> Problem:
    return Problem(severity="page", code=code, messenger=messenger, sentence=sentence, link=link)


def _warning(code: str, sentence: str, link: str, messenger: str | None = None) -> Problem:
    return Problem(severity="warning", code=code, messenger=messenger, sentence=sentence, link=link)


def _rules(off: Sequence[str]) -> Iterator[Problem]:
    if off:
        sentence = f"What keeps the law in the database is switched off: {'; '.join(off)}. Ask your DBA; registryd check says more."
        yield _page("rules_off", sentence, "processes")


def _answers(facts: Facts) -> Iterator[Problem]:
    if not facts.feed.complete:
        yield _page(
            "registry_incomplete",
            "The registry is not complete, so every query is answered 503: import a whole snapshot, or say registryd feed complete.",
            "feed",
        )
    a = facts.answering
    if a.late_today:
        yield _page("answers_late", f"{a.late_today:,} queries of today were answered after the policy's time.", "presence")
    if a.failed_share > FAILING_SHARE:
        yield _page("answers_failing", f"{a.failed_share:.1%} of the requests of the last minutes were answered 5xx.", "presence")
    for alarm in facts.alarms:
        yield _warning(
            "alarm",
            f"{alarm.messenger} is slowed down, because its queries look like a search ({alarm.kind}): talk to it, or clear the alarm.",
            "alarms",
            alarm.messenger,
        )


def _processes(roles: Sequence[RoleRow]) -> Iterator[Problem]:
    for role in roles:
        if not role.up:
            sentence = f"No {role.role} process is up, so {DOES_NOTHING[role.role]}: systemctl status 'registryd-{role.role}@*'."
            yield _page("role_missing", sentence, "processes")
        if role.silent:
            what = f"{role.silent} {role.role} process{'es have' if role.silent > 1 else ' has'}"
            yield _warning(
                "process_silent",
                f"{what} told nothing of {'themselves' if role.silent > 1 else 'itself'} for a while: dead, or hung?",
                "processes",
            )


def _deadlines(facts: Facts) -> Iterator[Problem]:
    if facts.late_today:
        yield _warning("late", f"{facts.late_today:,} notifications were delivered today after their deadline.", "backlog")
    for b in facts.backlogs.messengers:
        yield from _deadline(b, facts.thresholds)


def _deadline(b: MessengerBacklog, thresholds: Sequence[timedelta]) -> Iterator[Problem]:
    link = f"lanes/{b.messenger}"
    if b.overdue:
        sentence = f"{b.messenger} has not received {b.overdue:,} notifications whose deadline is over{_why(b)}."
        yield _page("overdue", sentence, link, b.messenger)
    elif b.too_slow:
        yield _page("too_slow", f"The backlog of {b.messenger} will miss its deadline at this pace{_why(b)}.", link, b.messenger)
    elif b.slack_seconds is not None and any(b.slack_seconds < t.total_seconds() for t in thresholds):
        told = _page if b.slack_seconds < GRAVE.total_seconds() else _warning
        hours = f"{b.slack_seconds / 3600:.1f} h"
        yield told("slack_low", f"{b.messenger} has {hours} left until its earliest deadline{_why(b)}.", link, b.messenger)
    if b.refused:
        sentence = (
            f"{b.messenger} refuses {b.refused:,} overdue notifications, though its endpoint works: agree with it what is to be done."
        )
        yield _page("content_refused", sentence, link, b.messenger)
    if b.second_channel:
        sentence = f"Pushes to {b.messenger} have failed for hours: hand them over (registryd notifications export {b.messenger} FILE)."
        yield _page("second_channel_due", sentence, link, b.messenger)
    elif b.endpoint == "gated":
        yield _warning("lane_gated", f"The endpoint of {b.messenger} fails: {b.last_error}.", link, b.messenger)


def _why(b: MessengerBacklog) -> str:
    if b.is_held:
        return ", because they are held by hand"
    return f": its endpoint fails ({b.last_error})" if b.endpoint == "gated" else ": it pulls them" if b.endpoint == "none" else ""


def _held(owed: Backlogs) -> Iterator[Problem]:
    for wave in owed.waves:
        yield _page(
            "wave_held",
            f"Wave {wave.wave} of {wave.ends:,} ends holds {wave.held:,} notifications: release it or undo the ends in time.",
            "backlog",
        )
    for hold in owed.holds:
        who = hold.messenger or "all messengers"
        sentence = f"The notifications of {who} are held by hand, and their deadlines run: registryd notifications release."
        yield _warning("held", sentence, "backlog", hold.messenger)


def _feed(facts: Facts) -> Iterator[Problem]:
    feed = facts.feed
    if facts.waiting:
        sentence = f"{facts.waiting:,} of billing's events have waited for longer than 15 minutes: have billing send them again."
        yield _warning("feed_waiting", sentence, "feed")
    spoke = max((at for at in (feed.last_event_at, feed.last_snapshot_at) if at is not None), default=None)
    if spoke is not None and (feed.now - spoke).total_seconds() > FEED_SILENT_S:
        yield _warning("feed_silent", "Billing has sent neither an event nor a snapshot for more than a day.", "feed")


def _asked(changes: Sequence[Change]) -> Iterator[Problem]:
    for change in changes:
        what = "another endpoint" if change.kind == "endpoint" else "another webhook secret"
        sentence = f"{change.messenger} asks for {what}: ask its people, then confirm or refuse it: registryd messenger changes list."
        yield _warning("change_requested", sentence, "changes", change.messenger)


def _keeping(facts: Facts) -> Iterator[Problem]:
    if facts.law.lapses_s is not None and facts.law.lapses_s < LAPSES_SOON_S:
        days = max(int(facts.law.lapses_s // 86_400), 0)
        yield _warning("law_lapses", f"The law in force lapses in {days} days, and no policy is planned to follow it.", "policy")
    if facts.law.keeps_less_from is not None:
        day = f"{facts.law.keeps_less_from:%F}"
        sentence = f"The policy planned for {day} keeps something for less time, and what goes does not come back: is that meant?"
        yield _warning("keeps_less", sentence, "policy")
    if facts.unsealed_s > UNSEALED_S:
        yield _warning("unsealed", "The journal has not been sealed for a quarter of an hour: are operate processes up?", "evidence")
    if facts.verified is not None and facts.verified.findings:
        sentence = f"The last audit verify found {facts.verified.findings:,} places where the evidence is not as it was written."
        yield _page("evidence_altered", sentence, "evidence")
    for family in facts.retention:
        if family.unplaced_rows or family.parts_over > 1:
            sentence = f"{family.family} has rows without a partition, or partitions that should be gone: see the log of operate."
            yield _warning("retention", sentence, "evidence")
