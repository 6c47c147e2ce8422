"""`registryd conformance` finds each fault of an endpoint, and nothing where there is none. Every endpoint here is a real HTTP server."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import pytest

from registryd.client.conformance import Check, Verdict, conform
from registryd.client.receiver import Receiver
from registryd.delivery import signing
from registryd.delivery.signing import key_from_shown
from tests.certificates import Pair, make_pair
from tests.client.endpoints import (
    FORGERIES,
    SECRET,
    AnswersAtLength,
    ClosesConnections,
    Endpoint,
    FailsEveryFifth,
    FailsOnBadBase64,
    FailsOnUnknownTypes,
    FailsWithoutHeaders,
    Hangs,
    HangsUp,
    IsElsewhere,
    IsGone,
    IsSlow,
    KnowsOneType,
    Redirects,
    RefusesAll,
    RefusesARepeatedMessage,
    RefusesOlderGenerations,
    RefusesUnknownMembers,
    SaysGoneToARepeatedNotice,
    ShutsOutAfterForgeries,
    TakesAnyAge,
    TakesOneAtOnce,
    TakesOneNotice,
    TakesShortBodies,
    TakesTheFirstSignature,
    TrustsWhatIsUnsigned,
    VerifiesNothing,
    VerifiesWhatItParsed,
    served,
)


def tried(endpoint: Endpoint, *, answer_timeout_s: float = 2.0) -> list[Check]:
    async def run() -> list[Check]:
        async with served(endpoint) as url:
            return await conform(url, None, SECRET, batch_max=20, answer_timeout_s=answer_timeout_s)

    return asyncio.run(run())


def found(checks: list[Check], verdict: Verdict = Verdict.MEND) -> set[str]:
    return {check.name for check in checks if check.verdict is verdict}


def test_an_endpoint_without_a_fault_holds_every_check() -> None:
    checks = tried(Endpoint())
    assert found(checks) == found(checks, Verdict.ADVICE) == set()
    assert found(checks, Verdict.UNTRIED) == {"certificate"}
    assert len(checks) == len({check.name for check in checks}) > 20


@pytest.mark.parametrize(
    ("endpoint", "mend"),
    [
        (VerifiesNothing, FORGERIES),
        (TakesAnyAge, {"old", "early"}),
        (VerifiesWhatItParsed, {"changedBody"}),
        (TrustsWhatIsUnsigned, {"noWebhookSignature"}),
        (FailsWithoutHeaders, {"noWebhookId", "noWebhookTimestamp", "noWebhookSignature"}),
        (FailsOnBadBase64, {"malformed"}),
        (TakesTheFirstSignature, {"rotation"}),
        (RefusesARepeatedMessage, {"repeat"}),
        (SaysGoneToARepeatedNotice, {"repeat", "regrouped"}),
        (TakesOneNotice, {"batch", "regrouped"}),
        (TakesShortBodies, {"batch"}),
        (RefusesOlderGenerations, {"order"}),
        (RefusesUnknownMembers, {"unknownMember"}),
        (KnowsOneType, {"reinstated", "digest", "test"}),
        (FailsOnUnknownTypes, {"unknownType"}),
        (TakesOneAtOnce, {"burst"}),
        (FailsEveryFifth, {"steady"}),
        (ShutsOutAfterForgeries, {"afterForgeries"}),
    ],
)
def test_a_fault_is_named_and_no_other(endpoint: type[Endpoint], mend: set[str]) -> None:
    checks = tried(endpoint())
    assert found(checks) == mend
    assert all(check.mend.endswith((".", "!")) for check in checks if check.name in mend)
    assert found(checks, Verdict.ADVICE) == ({"unknownType"} if endpoint is KnowsOneType else set())


@pytest.mark.parametrize(("endpoint", "advice"), [(IsSlow, "speed"), (ClosesConnections, "keepAlive"), (AnswersAtLength, "shortAnswer")])
def test_what_only_costs_time_is_advice(endpoint: type[Endpoint], advice: str) -> None:
    checks = tried(endpoint())
    assert (found(checks), found(checks, Verdict.ADVICE)) == (set(), {advice})


@pytest.mark.parametrize(
    ("endpoint", "seen", "mend"),
    [
        (RefusesAll, "answered 401", "raw bytes"),
        (Hangs, "no answer within 0.3 s", "as soon as the notice is stored"),
        (HangsUp, "closed the connection", "whether it runs"),
        (Redirects, "answered 308", "No redirect is followed"),
        (IsGone, "answered 410", "410 ends nothing"),
        (IsElsewhere, "answered 404", "path of the URL"),
    ],
)
def test_while_no_genuine_push_is_taken_that_alone_is_told(endpoint: type[Endpoint], seen: str, mend: str) -> None:
    trial = endpoint()
    genuine, *others = tried(trial, answer_timeout_s=0.3)
    assert (genuine.name, genuine.verdict) == ("genuine", Verdict.MEND)
    assert seen in genuine.seen
    assert mend in genuine.mend
    assert {check.verdict for check in others} == {Verdict.UNTRIED}
    assert trial.pushes <= 1


def context(pair: Pair, directory: Path) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(*pair.write(directory, "endpoint"))
    return made


@pytest.mark.parametrize(
    ("days", "is_trusted", "checked"),
    [(60, True, ("certificate", Verdict.HELD)), (3, True, ("certificate", Verdict.ADVICE)), (60, False, ("genuine", Verdict.MEND))],
)
def test_a_certificate_is_looked_at(tmp_path: Path, days: int, is_trusted: bool, checked: tuple[str, Verdict]) -> None:
    authority, other = make_pair("authority"), make_pair("other")
    server = context(make_pair("endpoint", authority, days), tmp_path)
    trusting = ssl.create_default_context(cadata=(authority if is_trusted else other).certificate.decode())

    async def run() -> list[Check]:
        async with served(Endpoint(), server) as url:
            return await conform(url, trusting, SECRET, batch_max=1)

    checks = asyncio.run(run())
    assert checked in {(check.name, check.verdict) for check in checks}
    assert is_trusted == (not found(checks))
    if not is_trusted:
        assert "certificate" in checks[0].mend


def run_conformance(url: str, secret: str, *words: str) -> subprocess.CompletedProcess[str]:
    return run_command(secret, "conformance", url, *words)


def run_command(secret: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "registryd", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "REGISTRYD_WEBHOOK_SECRET": secret},
    )


@pytest.mark.parametrize("kind", ["hmac_sha256", "ed25519"])
def test_our_own_receiver_conforms_and_a_wrong_secret_is_told(kind: str) -> None:
    secret = signing.new_secret(kind)
    shown = signing.shown(secret)
    private = shown if kind == "hmac_sha256" else f"whsk_{b64encode(secret.secret).decode()}"

    async def run() -> tuple[subprocess.CompletedProcess[str], ...]:
        async with Receiver(key_from_shown(shown)) as receiver:
            return tuple(
                [await asyncio.to_thread(run_conformance, receiver.url, private, *words) for words in ((), ("--json", "--batch-max", "10"))]
                + [await asyncio.to_thread(run_conformance, receiver.url, signing.shown(signing.new_secret()))]
            )

    shown_to_people, as_json, wrong = asyncio.run(run())
    assert shown_to_people.returncode == 0, shown_to_people.stdout + shown_to_people.stderr
    assert "genuine" in shown_to_people.stdout
    facts = json.loads(as_json.stdout)
    assert facts["conforms"] is True
    assert {check["verdict"] for check in facts["checks"]} == {"held", "untried"}
    assert wrong.returncode == 1
    assert "genuine: Verify over the raw bytes" in wrong.stdout
    assert "1 of" in wrong.stderr


def test_it_says_which_secret_it_wants(tmp_path: Path) -> None:
    url = "http://127.0.0.1:9/"
    for command in (["conformance", url], ["listen", "--port", "0"]):
        told = run_command("", *command)
        assert (told.returncode, "no webhook secret is given" in told.stderr) == (2, True)
    assert "whsk_" in run_conformance(url, signing.shown(signing.new_secret("ed25519"))).stderr
    file = tmp_path / "secret"
    file.write_text(signing.shown(SECRET) + "\n")
    unreachable = run_conformance(url, "", "--secret-file", str(file))
    assert (unreachable.returncode, "takes no connection" in unreachable.stdout) == (1, True)


def test_listen_says_that_its_port_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = run_command(signing.shown(SECRET), "listen", "--port", str(port))
    assert (told.returncode, told.stderr.count("\n")) == (1, 1)
    assert f"cannot listen on 127.0.0.1:{port}" in told.stderr


def test_it_needs_no_database_and_no_server_of_ours() -> None:
    modules = subprocess.run(
        [sys.executable, "-c", "import sys, registryd.cli.conformance; print(*sys.modules)"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"asyncpg", "uvloop", "prometheus_client", "structlog", "registryd.store"} & {*modules}
