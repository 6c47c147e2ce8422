"""Whatever bytes come, both APIs answer each request once or end the connection, repeat nothing of it, and serve the next client."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fuzz import cases, framing
from tests.fuzz.cases import GOOD, Case
from tests.fuzz.laws import answers
from tests.http.conftest import Service

TRACES = (b"79161357924", b"zebra", b"okapi", b"\xff\xfe", b"\xed\xa0", b"\x00", b"\x16\x03")
BODIES = {
    "messenger": b'{"phoneNumber": "+79161357924", "identificationCode": "zebra"}',
    "operator": b'{"events": [{"eventId": "e1", "type": "resumed", "phoneNumber": "+79161357924", "occurredAt": "2026-01-02T03:04:05Z"}]}',
}
PATHS = {"messenger": b"/v1/presence", "operator": b"/operator/v1/contract-events"}
ANSWER_MAX_S = 20.0


@dataclass(frozen=True)
class Target:
    """One API as one client with a key meets it."""

    api: str
    address: tuple[str, int]
    key: str
    log: Path

    def fill(self, template: bytes) -> bytes:
        return cases.fill(template, path=PATHS[self.api], key=self.key, body=BODIES[self.api])

    def told(self, sent: bytes) -> bytes:
        """All that comes back on a new connection. The client shuts its side once it has sent, or can send no more."""
        parts = []
        with socket.create_connection(self.address, timeout=ANSWER_MAX_S) as sock:
            try:
                sock.sendall(sent)
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it was refused before it was whole
            try:
                while part := sock.recv(65536):
                    parts.append(part)
            except ConnectionResetError:
                pass  # what it sent after the refusal was not read
        return b"".join(parts)


@pytest.fixture(scope="module")
def targets(service: Service) -> dict[str, Target]:
    def target(api: str, base: str, key: str, log: Path) -> Target:
        host, _, port = base.removeprefix("http://").rpartition(":")
        return Target(api, (host, int(port)), key, log)

    operating = service.operating
    return {
        "messenger": target("messenger", service.api, service.messenger().api_key, service.daemon.logs["answer"]),
        "operator": target("operator", service.operator, service.site.operator_key.shown, operating.logs["operate"]),
    }


def assert_kept(target: Target, case: Case, after: bytes) -> None:
    start = target.log.stat().st_size
    told = target.told(target.fill(case.sent) + after)
    found = list(answers(told))
    assert tuple(status for status, _ in found) == case.answers
    for _, body in found:
        assert type(json.loads(body)) is dict
    for trace in (*TRACES, target.key.encode()):
        assert trace not in told
    [(status, _)] = answers(target.told(target.fill(GOOD)))
    assert status == 200, "the next client is served"
    log = target.log.read_bytes()[start:]
    for trace in (*TRACES, target.key.encode()):
        assert trace not in log
    assert {json.loads(line)["event"] for line in log.splitlines()} <= {"request_refused"}


@pytest.mark.parametrize("api", ["messenger", "operator"])
@pytest.mark.parametrize("case", framing.FOLLOWED, ids=lambda case: case.name)
def test_what_comes_is_answered_once_or_ends_the_connection(targets: dict[str, Target], api: str, case: Case) -> None:
    target = targets[api]
    assert_kept(target, case, after=target.fill(GOOD))


@pytest.mark.parametrize("api", ["messenger", "operator"])
@pytest.mark.parametrize("case", framing.HALVES, ids=lambda case: case.name)
def test_what_ends_halfway_is_not_answered_as_if_it_were_whole(targets: dict[str, Target], api: str, case: Case) -> None:
    assert_kept(targets[api], case, after=b"")
