"""`status`: the whole service on one screen, for a person on duty and for monitoring."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta

import click

from registryd.cli.printing import Record, Shown, Table, duration, words
from registryd.cli.running import Context, Exit, command, json_option, pass_context, present
from registryd.store import migrations
from registryd.views import duty
from registryd.views.duty import Duty
from registryd.views.shape import builtins

SHOWN_MAX = 15
COLOURS = {"page": "red", "warning": "yellow"}


@click.command()
@json_option
@pass_context
@command
async def status(context: Context, *, as_json: bool) -> None:
    """Show what needs a person, and how the service does. It asks the database alone, so it tells also that no process is up.

    It ends with 0 where nothing needs a person now, and with 1 where something does (severity page); warnings do not count.
    """
    async with context.database() as db:
        async with db.connection() as connection:
            await migrations.check(connection)
        seen = await duty.read(db)
    present(as_json, builtins(seen), *_problems(seen), Record(_subjects(seen)))
    sys.exit(Exit.FAILED if any(problem.severity == "page" for problem in seen.problems) else Exit.DONE)


def _problems(d: Duty) -> list[Shown]:
    """The worst ones: it is one screen."""
    if not d.problems:
        return ["nothing needs a person"]
    table = Table("severity", "what needs a person")
    for problem in d.problems[:SHOWN_MAX]:
        table.add(problem.severity, problem.sentence, style=COLOURS[problem.severity])
    more = len(d.problems) - SHOWN_MAX
    return [table, f"and {more:,} more: --json tells all"] if more > 0 else [table]


def _subjects(d: Duty) -> dict[str, object]:
    """A line a subject."""
    return {
        "answers": _answers(d),
        "notifications": _notifications(d),
        "lanes": f"{words(d.lanes_gated)} failing, {words(d.holds)} held by hand; {words(d.waves_held)} waves held",
        "alarms": f"{words(d.alarms_in_force)} in force",
        "feed": _feed(d),
        "processes": ", ".join(f"{role.role} {role.processes}" for role in d.roles),
        "law": _law(d),
    }


def _answers(d: Duty) -> str:
    a = d.answering
    speed = f", p50 {_ms(a.p50_seconds)}, p99 {_ms(a.p99_seconds)}" if a.p50_seconds is not None else ""
    absent = f", {a.absent_ratio:.1%} absent" if a.absent_ratio is not None else ""
    ready = "" if d.registry_complete else "none, because the registry is not complete; "
    today = f"today {a.queries_today:,}{absent}, {a.late_today:,} late"
    return f"{ready}{a.queries_per_second:,.1f} a second{speed}, {a.failed_share:.1%} 5xx; {today}"


def _notifications(d: Duty) -> str:
    owed = f"{d.pending:,} owed, {d.overdue:,} overdue, {d.held:,} held; {d.late_today:,} late today"
    if d.tightest is None:
        return owed
    t = d.tightest
    eta = "no pace yet" if t.eta_seconds is None else f"at its pace {_span(t.eta_seconds)}"
    return f"{owed}; tightest {t.messenger}: {_span(t.slack_seconds)} left, {eta}"


def _feed(d: Duty) -> str:
    if d.last_event_at is None:
        return "no event yet"
    lag = "" if d.feed_lag_seconds is None else f", mean lag today {_span(d.feed_lag_seconds)}"
    return f"last event {_ago(d.last_event_at, d.seen_at)}{lag}"


def _law(d: Duty) -> str:
    lapses = "lapses never" if d.law.lapses_at is None else f"lapses {d.law.lapses_at:%F}"
    planned = "" if d.law.next_from is None else f"; the next begins {d.law.next_from:%F}"
    return f"in force since {d.law.effective_from:%F}, {lapses}{planned}"


def _ms(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds * 1000:,.1f} ms"


def _span(seconds: float) -> str:
    return duration(timedelta(seconds=seconds if abs(seconds) < 1 else round(seconds)))


def _ago(at: datetime, now: datetime) -> str:
    return f"{_span(max((now - at).total_seconds(), 0))} ago"
