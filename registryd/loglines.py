"""The log: its events, and how lines reach stderr: by a thread, with journald's priority, and only as often as is of use."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Hashable, MutableMapping
from typing import Any, Literal, TextIO

LOG_CLOSE_S = 1.0
SUMMARY_S = 60.0
"""How often at most the same kind of event is told."""
PRIORITIES = {"error": 3, "warning": 4, "info": 6, "debug": 7}

LogEvent = Literal[
    "started",
    "stopping",
    "stopped",
    "reloaded",
    "reload_failed",
    "certificate_expires",
    "request_refused",
    "request_failed",
    "console_login",
    "console_action",
    "tls_handshake_failed",
    "database_away",
    "database_back",
    "work_delayed",
    "last_writes_lost",
    "primary_moved",
    "primary_stuck",
    "primary_left_behind",
    "lane_gated",
    "lane_opened",
    "lane_lost",
    "notification_overdue",
    "slack_low",
    "wave_held",
    "policy_lapses",
    "second_channel_due",
    "content_refused",
    "enumeration_alarm",
    "change_requested",
    "replay_asked",
    "key_made",
    "key_revoked",
    "bindings_removed",
    "endpoint_gone",
    "secrets_unreadable",
    "partition_dropped",
    "digest_key_destroyed",
    "ended_purged",
    "forgotten",
    "rows_unplaced",
    "partitions_missing",
    "reports_ended",
    "feed_waiting",
    "event_failed",
    "background_failed",
    "all_started",
    "process_ended",
]
"""Every event that the log tells. systemd/RUNBOOK.md has a row for each."""


class LogWriter:
    """Writes lines to a stream from a thread of its own. A stderr that is broken or that nobody reads then costs lines, but does not stop
    the loop.

    What the thread cannot keep up with, or cannot write, is dropped, and `dropped` is called for each line.
    """

    def __init__(self, stream: TextIO, dropped: Callable[[], None], lines_max: int = 10_000) -> None:
        self.stream = stream
        self._dropped = dropped
        self._lines: queue.Queue[str | None] = queue.Queue(lines_max)
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def write(self, line: str) -> None:
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped()

    def flush(self) -> None:
        """Lines are flushed where they are written."""

    def close(self) -> None:
        """Waits until what was logged is written, or for a while where nobody reads."""
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=LOG_CLOSE_S)
            self._thread.join(LOG_CLOSE_S)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self.stream.write(line)
                self.stream.flush()
            except (OSError, ValueError):  # closed
                self._dropped()


class Repeats:
    """Tells what others can cause as often as they like: the first of a kind at once, the further ones once a minute as a number.

    `write(name, level, **facts)` writes a line. `later(seconds, call, *arguments)` calls later, by default on the running loop.
    """

    def __init__(self, write: Callable[..., None], later: Callable[..., object] | None = None) -> None:
        self._write = write
        self._later = later or (lambda seconds, *call: asyncio.get_running_loop().call_later(seconds, *call))
        self._last: dict[Hashable, tuple[int, dict[str, Any]]] = {}
        """By kind: how many were not yet told, and the facts of the last one."""

    def tell(self, name: str, level: str, *, kind: Hashable, facts: dict[str, Any]) -> None:
        """`facts` of the last one are told with the number. `kind` is made of facts of ours, so kinds are few."""
        if kind in self._last:
            self._last[kind] = self._last[kind][0] + 1, facts
            return
        self._last[kind] = 0, facts
        self._write(name, level, **facts)
        self._later(SUMMARY_S, self._sum_up, name, level, kind)

    def _sum_up(self, name: str, level: str, kind: Hashable) -> None:
        times, facts = self._last.pop(kind)
        if times:
            self._last[kind] = 0, facts
            self._write(name, level, **facts, times=times)
            self._later(SUMMARY_S, self._sum_up, name, level, kind)


def open_streams() -> None:
    """Opens what of stdin, stdout and stderr is closed as /dev/null. Else the next socket would bear its number, and be written to."""
    with contextlib.suppress(OSError):
        while (opened := os.open(os.devnull, os.O_RDWR)) < 3:  # the lowest number that is free
            pass
        os.close(opened)
    sys.stdin = sys.stdin or os.fdopen(0)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")


def goes_to_journal(stream: TextIO) -> bool:
    """Whether a stream is journald's (systemd.exec(5), $JOURNAL_STREAM)."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError, AttributeError):  # closed; None where it was so from the start
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def for_journal(logger: Any, method: str, facts: MutableMapping[str, Any]) -> str:
    """A line with syslog's priority before it: journald keeps it, filters by it, and limits floods by it."""
    return f"<{PRIORITIES.get(method, 6)}>{json.dumps(facts, default=repr)}"


def as_error(text: str, stream: TextIO) -> str:
    """A text whose lines journald keeps as errors, where the stream is its."""
    return "\n".join(f"<{PRIORITIES['error']}>{line}" for line in text.split("\n")) if goes_to_journal(stream) else text
