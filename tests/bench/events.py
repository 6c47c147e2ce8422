"""Billing's calls of ten thousand events, one after another without a pause: what else the registry does must not feel them."""

from __future__ import annotations

import http.client
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlsplit

from tests.conftest import Site, wait_for

CALL_EVENTS = 10_000


@dataclass
class Posted:
    """What was applied so far."""

    events: int = 0
    started: float = field(default_factory=time.perf_counter)

    @property
    def rate(self) -> float:
        return self.events / (time.perf_counter() - self.started)


@contextmanager
def posting(site: Site, operator: str, numbers: Sequence[int]) -> Iterator[Posted]:
    """Suspends and resumes the first ten thousand of the numbers in turn, until the end; the first call is applied when it begins."""
    numbers = sorted(set(numbers))[:CALL_EVENTS]
    posted, end, failed = Posted(), threading.Event(), []

    def post() -> None:
        connection = http.client.HTTPConnection(urlsplit(operator).netloc)
        headers = {**site.operator_headers, "Content-Type": "application/json"}
        run, call = secrets.token_hex(4), 0
        while not end.is_set():
            kind, at = ("suspended", "resumed")[call % 2], datetime.now(UTC).isoformat()
            events = (
                f'{{"eventId":"{run}-{call}-{number}","type":"{kind}","phoneNumber":"+{number}","occurredAt":"{at}"}}' for number in numbers
            )
            connection.request("POST", "/operator/v1/contract-events", f'{{"events":[{",".join(events)}]}}', headers)
            answer = connection.getresponse()
            told = answer.read()
            if answer.status != 200 or told.count(b'"applied"') != len(numbers):
                failed.append(answer.status)
                return
            posted.events += len(numbers)
            call += 1
        connection.close()

    thread = threading.Thread(target=post, daemon=True)
    thread.start()
    wait_for(lambda: posted.events or failed)
    try:
        yield posted
    finally:
        end.set()
        thread.join()
    assert not failed, f"a call of events was answered {failed[0]} or not applied"
