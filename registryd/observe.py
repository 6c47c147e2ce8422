"""Prometheus metrics, all of them, and a JSON log on stderr.

Neither ever holds a number, an identification code, a key or a byte that a client sent. Callers pass facts of ours: a route, a messenger's
name, a count.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, disable_created_metrics
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.process_collector import ProcessCollector

from registryd.loglines import LogEvent, LogWriter, Repeats, for_journal, goes_to_journal

PACKAGE = f"{Path(__file__).parent}/"
METRICS = CollectorRegistry()
"""All metrics of the program. exposition.py says which of them a process shows."""
PROCESS = ProcessCollector(registry=METRICS)
disable_created_metrics()  # they are a series more for each counter and histogram, which no query uses

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 1200)
"""The bounds of the buckets in which times are counted."""

requests = Counter("registryd_requests", "HTTP requests answered.", ["api", "route", "status"], registry=METRICS)
request_seconds = Histogram(
    "registryd_request_seconds", "From the request's headers to its answer.", ["api", "route"], buckets=SECONDS, registry=METRICS
)
requests_refused = Counter(
    "registryd_requests_refused",
    "Requests refused, by messenger (- where no valid key was shown; operator/NAME for the operator API's keys) and reason.",
    ["messenger", "reason"],
    registry=METRICS,
)
connections = Gauge("registryd_connections", "Open connections.", ["api"], registry=METRICS)
tls_handshakes_failed = Counter("registryd_tls_handshakes_failed", "TLS handshakes that failed.", ["api", "reason"], registry=METRICS)
certificate_expires = Gauge(
    "registryd_certificate_expires_timestamp_seconds", "When a certificate ends, by credential.", ["certificate"], registry=METRICS
)
connections_closed = Counter(
    "registryd_connections_closed",
    "Connections the daemon closed: cap (too many), room (idle, of whoever has the most), stalled (a client that does not read), bad_http.",
    ["api", "reason"],
    registry=METRICS,
)
answers_late = Counter(
    "registryd_answers_late", "Requests for presence answered after the period that the policy leaves for an answer.", registry=METRICS
)
queries = Counter("registryd_queries", "Presence queries answered.", ["messenger", "answer"], registry=METRICS)
query_groups = Histogram(
    "registryd_query_group_size",
    "Queries answered by one statement.",
    ["line"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 1000, 10000),
    registry=METRICS,
)
query_seconds = Histogram(
    "registryd_query_group_seconds", "One statement's time, commit included.", ["line"], buckets=SECONDS, registry=METRICS
)
queries_waiting = Gauge("registryd_queries_waiting", "Queries admitted and not yet in a statement.", ["line"], registry=METRICS)
enumeration_alarms = Counter(
    "registryd_enumeration_alarms", "Signs of a search for subscribers, by messenger and kind.", ["messenger", "kind"], registry=METRICS
)
policy_lapses = Gauge(
    "registryd_policy_lapses_seconds",
    "Until the law lapses without a successor that is planned by then; +Inf where no such date is known.",
    registry=METRICS,
)
policy = Gauge(
    "registryd_policy_info",
    "1 with the rule of presence that is in force.",
    ["organisation_rule", "suspended_is_present"],
    registry=METRICS,
)
answer_within = Gauge("registryd_policy_answer_within_seconds", "The period that the law leaves for an answer.", registry=METRICS)
notice_within = Gauge("registryd_policy_notice_within_seconds", "The period that the law leaves for a notice.", registry=METRICS)
messengers_throttled = Gauge("registryd_messengers_throttled", "Messengers slowed down by an enumeration alarm.", registry=METRICS)
events_applied = Counter("registryd_contract_events", "Contract events by type and outcome.", ["type", "outcome"], registry=METRICS)
event_lag = Histogram(
    "registryd_contract_event_lag_seconds",
    "From when an applied event happened, as billing says, to its recording.",
    buckets=(1, 10, 60, 300, 900, 3600, 14_400, 43_200, 86_400),
    registry=METRICS,
)
feed_last_event = Gauge("registryd_feed_last_event_timestamp_seconds", "When billing's last event was recorded.", registry=METRICS)
feed_last_snapshot = Gauge("registryd_feed_last_snapshot_timestamp_seconds", "When the newest snapshot was taken.", registry=METRICS)
feed_waiting = Gauge("registryd_feed_waiting", "Events that are not yet applied, by what they wait for.", ["reason"], registry=METRICS)
feed_waiting_age = Gauge(
    "registryd_feed_waiting_oldest_age_seconds", "Since the oldest of them came first; 0: none waits.", registry=METRICS
)
ends_left = Gauge("registryd_ends_left", "Contracts that may still end in this hour.", registry=METRICS)
outside_capacity = Gauge("registryd_contracts_outside_capacity", "Live contracts outside the numbering capacity.", registry=METRICS)
lanes_leased = Gauge("registryd_lanes_leased", "Lanes this process holds.", registry=METRICS)
pushes = Counter("registryd_pushes", "Delivery attempts.", ["messenger", "outcome"], registry=METRICS)
push_seconds = Histogram(
    "registryd_push_seconds",
    "One push, from start to answer.",
    ["messenger"],
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20),
    registry=METRICS,
)
notifications_delivered = Counter("registryd_notifications_delivered", "Notifications settled.", ["messenger", "via"], registry=METRICS)
notifications_late = Counter("registryd_notifications_late", "Notifications pushed after their deadline.", ["messenger"], registry=METRICS)
lane_gates = Counter("registryd_lane_gates", "Times a failing endpoint gated its lane.", ["messenger"], registry=METRICS)
pending = Gauge("registryd_notifications_pending", "Notifications owed; estimated beyond 20,000.", ["messenger"], registry=METRICS)
notifications_held = Gauge("registryd_notifications_held", "Of these held in a wave.", ["messenger"], registry=METRICS)
waves_held = Gauge("registryd_waves_held", "Waves of ends whose notifications are held.", registry=METRICS)
lane_held = Gauge("registryd_lane_held", "1 while a person holds the messenger's notifications.", ["messenger"], registry=METRICS)
overdue = Gauge("registryd_notifications_overdue", "Of these past their deadline; counted to 20,000.", ["messenger"], registry=METRICS)
refused = Gauge("registryd_notifications_refused", "Of the overdue, those that the messenger refuses.", ["messenger"], registry=METRICS)
slack_seconds = Gauge("registryd_notifications_slack_seconds", "Left to the earliest deadline.", ["messenger"], registry=METRICS)
eta_seconds = Gauge("registryd_notifications_eta_seconds", "Until all is delivered at the present pace.", ["messenger"], registry=METRICS)
oldest_age_seconds = Gauge(
    "registryd_notifications_oldest_age_seconds", "Since the one with the earliest deadline was written.", ["messenger"], registry=METRICS
)
lane_gated = Gauge("registryd_lane_gated", "1 while a failing endpoint gates its lane.", ["messenger"], registry=METRICS)
BACKLOG = (pending, overdue, refused, slack_seconds, eta_seconds, oldest_age_seconds, lane_gated, notifications_held, lane_held)
"""What each operate process shows."""
directory_age = Gauge("registryd_directory_age_seconds", "Since messengers and keys were last read.", registry=METRICS)
digests_undelivered = Gauge("registryd_digests_undelivered", "Daily digests that were made and not received.", registry=METRICS)
changes_waiting = Gauge("registryd_changes_waiting", "Changes that messengers ask for and nobody has decided.", registry=METRICS)
replays_waiting = Gauge("registryd_replays_waiting", "Replays of which not all was let in.", registry=METRICS)
partitions_ahead = Gauge(
    "registryd_partitions_ahead_seconds",
    "For how long from now every partition is there, of the table with the fewest.",
    registry=METRICS,
)
keys_end = Gauge(
    "registryd_keys_end_timestamp_seconds",
    "When the last key of a caller ends, of callers all of whose keys end: messengers by name, operator/NAME.",
    ["caller"],
    registry=METRICS,
)
evidence_verified = Gauge(
    "registryd_evidence_verified_timestamp_seconds", "When the evidence was last verified; 0: never.", registry=METRICS
)
evidence_findings = Gauge("registryd_evidence_findings", "What the last verification of the evidence found.", registry=METRICS)
breakglass_steps = Gauge("registryd_breakglass_steps", "Steps in the break-glass log, by step.", ["step"], registry=METRICS)
partitions_dropped = Counter(
    "registryd_partitions_dropped", "Partitions that the policy no longer keeps, dropped.", ["family"], registry=METRICS
)
partitions_over = Gauge(
    "registryd_partitions_over", "Partitions that the policy no longer keeps and that are still there.", ["family"], registry=METRICS
)
unplaced_rows = Gauge("registryd_unplaced_rows", "Rows that no partition took.", ["family"], registry=METRICS)
digest_keys_destroyed = Counter("registryd_digest_keys_destroyed", "Months whose digest key was destroyed.", registry=METRICS)
ended_purged = Counter(
    "registryd_ended_purged", "Ended contracts and bindings that the policy no longer keeps.", ["kind"], registry=METRICS
)
pages_sealed = Counter("registryd_pages_sealed", "Pages of the journal that this process sealed.", registry=METRICS)
unsealed_seconds = Gauge(
    "registryd_unsealed_seconds", "How long ago the oldest page of the journal was written that no seal covers; 0: none.", registry=METRICS
)
database_up = Gauge("registryd_database_up", "1 while the process reaches its database.", registry=METRICS)
database_primary = Gauge("registryd_database_primary_info", "1 with the host that the process works on.", ["host"], registry=METRICS)
database_connections = Gauge("registryd_database_connections", "Connections, by pool: busy or idle.", ["pool", "state"], registry=METRICS)
database_wait = Summary("registryd_database_wait_seconds", "How long work waited for a connection, by pool.", ["pool"], registry=METRICS)
database_errors = Counter("registryd_database_errors", "Statements that failed, by kind of failure.", ["kind"], registry=METRICS)
ready = Gauge("registryd_ready", "1 while the process can do its work, as /readyz says.", registry=METRICS)
log_lines_dropped = Counter("registryd_log_lines_dropped", "Lines of the log that stderr did not take.", registry=METRICS)
build = Gauge("registryd_build_info", "1 with what the process runs.", ["role", "version", "python", "schema"], registry=METRICS)
faults = Counter("registryd_faults", "Faults of ours, by the log event that tells of them.", ["event"], registry=METRICS)
job_done = Gauge("registryd_job_done_timestamp_seconds", "When a job last ran to its end; at first, the start.", ["task"], registry=METRICS)
job_interval = Gauge("registryd_job_interval_seconds", "How long a job rests between two runs.", ["task"], registry=METRICS)
loop_lag = Histogram(
    "registryd_loop_lag_seconds",
    "How late the event loop is for a timer that it looks at four times a second.",
    buckets=(0.002, 0.01, 0.05, 0.25, 1, 5),
    registry=METRICS,
)


FAULTS = ("request_failed", "event_failed", "background_failed")
DATABASE_ERRORS = ("away", "timeout", "read_only", "login", "broken")


_writer: LogWriter | None = None
_process = ""

Metric = TypeVar("Metric", bound=MetricWrapperBase)


@cache
def child(metric: Metric, *labels: object) -> Metric:
    """`metric.labels(...)`, cached: labels are few, and the hot path counts each request."""
    return metric.labels(*labels)


def event(name: LogEvent, level: Literal["debug", "info", "warning", "error"] = "info", **facts: Any) -> None:
    """Writes one log line. Facts are ours: names, counts, kinds of error; never what a client sent."""
    import structlog  # here and in `configure`: a small command logs nothing, and this import would be a fifth of its start

    if not structlog.is_configured():  # a command: stdout is its result
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    if name in FAULTS:
        faults.labels(name).inc()
    getattr(structlog.get_logger(), level)(name, **facts)


def _name_process(_: Any, __: str, facts: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Says which process writes, because `registryd serve` and whatever collects logs mix the lines of all."""
    return {"process": _process, **facts} if _process else facts


def place(error: BaseException) -> str:
    """Where in our code an exception was raised: the file and the line of the innermost frame that is ours."""
    found, trace = "", error.__traceback__
    while trace is not None:
        path = trace.tb_frame.f_code.co_filename
        if path.startswith(PACKAGE):
            found = f"registryd/{path.removeprefix(PACKAGE)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


def repeats() -> Repeats:
    """A teller of events that others can cause as often as they like."""
    return Repeats(event)


def configure(level: str, process: str = "") -> None:
    """Logs JSON lines to stderr from `level` on, each with the process's name; called again by a reload."""
    import structlog

    global _writer, _process
    _process = process or _process
    if _writer is None or _writer.stream is not sys.stderr:
        _writer = LogWriter(sys.stderr, log_lines_dropped.inc)
    is_journal = goes_to_journal(sys.stderr)
    library_format = "<4>%(message)s" if is_journal else "%(message)s"
    logging.basicConfig(level=logging.WARNING, stream=_writer, format=library_format, force=True)
    # aiohttp and asyncio quote offending bytes and tracebacks; roles/eventloop.py tells by kind what asyncio meets.
    for library in ("aiohttp", "asyncio", "asyncpg"):
        logging.getLogger(library).setLevel(logging.CRITICAL + 1)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _name_process,
            for_journal if is_journal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=_writer),  # type: ignore[arg-type] # it writes and flushes, and is no more a file
        cache_logger_on_first_use=False,
    )
