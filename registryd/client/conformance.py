"""Runs a messenger's endpoint through what the registry's pushes may bring, in a second or two, and says what it must mend.

Each check sends real messages (`messages.py`) and judges by the status alone, as the registry does. The first one is a genuine push: while
that is not taken nothing else tells anything, so the others are left out.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from registryd.client.endpoint import Endpoint, Reply, certificate_ends_at
from registryd.client.messages import CODE_MAX, Message, new_code, notice
from registryd.delivery import signing
from registryd.domain.secret import SigningSecret

ANSWER_TIMEOUT_S = 15.0
"""How long a push waits for an answer."""
HOUR_S = 3_600
AT_ONCE = 16
SLOW_SHARE = 0.2
"""The share of that time beyond which an answer is called slow."""
ENDS_SOON_S = 14 * 86_400


class Verdict(StrEnum):
    HELD = "held"
    MEND = "mend"
    ADVICE = "advice"
    """It works, but costs time or will not work for long."""
    UNTRIED = "untried"


class Check(NamedTuple):
    name: str
    law: str
    """What an endpoint must do."""
    verdict: Verdict
    seen: str
    mend: str = ""


@dataclass(frozen=True)
class Genuine:
    """Messages that must be taken, one after another."""

    name: str
    law: str
    mend: str
    messages: Sequence[Message]


@dataclass(frozen=True)
class Forged:
    """A message that must be refused: its headers, as the forger made them."""

    name: str
    law: str
    mend: str
    message: Message
    headers: dict[str, str]


_INSTEAD: Sequence[tuple[Callable[[Reply], bool], str]] = (
    (lambda r: "answer within" in r.failure, "Answer 2xx as soon as the notice is stored, and work afterwards."),
    (lambda r: "certificate" in r.failure, "Renew the certificate for the URL's name, and serve it with its chain."),
    (lambda r: r.status is None, "Look whether it runs, and at the URL's scheme, name and port."),
    (lambda r: 300 <= (r.status or 0) < 400, "No redirect is followed: give the operator the URL that takes the pushes."),
    (lambda r: r.status in (404, 405), "No POST is taken there: look at the path of the URL."),
)
"""What to do about an answer that has nothing to do with the message."""
_BEFORE: Sequence[tuple[Callable[[Reply], bool], str]] = (
    (lambda r: r.status == 410, "410 ends nothing: what you are owed stays owed and is pushed again until you take it."),
    (lambda r: r.status in (400, 413, 422), "What you refuse so is pushed again, after its deadline every hour, until you take it."),
    (lambda r: r.status in (429, 503), "The registry waits as Retry-After says, but the notice's deadline does not."),
)
"""What an answer means to the registry."""
GENUINE_LAW = "a genuine push is taken, though its code is of nobody here"
GENUINE_MEND = (
    "Verify over the raw bytes <webhook-id>.<webhook-timestamp>.<body>, before any parsing, with the secret given here; and answer 2xx to "
    "a code that you do not know, because its user may be gone."
)


def genuine(batch_max: int) -> list[Genuine]:
    """What must be taken."""
    first, repeated = notice(), Message.of([notice()])
    code, told = new_code(), notice()
    undone = notice(told.identification_code, generation=2, undoes=told.notification_id)
    many = [notice(new_code(CODE_MAX)) for _ in range(batch_max)]
    regrouped = [Message.of([first]), *([Message.of([first, notice()])] if batch_max > 1 else [])]
    return [
        Genuine("repeat", "the same webhook-id again is taken again", "Know a repeat by notificationId and answer it 2xx.", [repeated] * 2),
        Genuine(
            "regrouped",
            "a notice that came before is taken among others",
            "Know a repeat by each notificationId, not by webhook-id: a retry may group notices in another way. Answer it 2xx.",
            regrouped,
        ),
        Genuine(
            "batch",
            f"a push of {batch_max:,} notices with codes of {CODE_MAX} characters is taken",
            "Take so many in one request, whose body has some 350 bytes for each; or agree with the operator on fewer (--batch-max).",
            [Message.of(many)],
        ),
        Genuine(
            "order",
            "notices are taken in any order of their generation",
            "An older generation after a newer one tells of an earlier holder: answer 2xx, and leave the user alone.",
            [Message.of([notice(code, generation=2)]), Message.of([notice(code, generation=1)])],
        ),
        Genuine(
            "unknownMember",
            "members that you do not know are passed over",
            "Ignore members that you do not know: later versions have more.",
            [Message.of([notice()]).with_unknown_members()],
        ),
        Genuine(
            "reinstated",
            "binding.reinstated is taken, also of an end that you were not told",
            "Handle binding.reinstated: the code is bound again, under a new generation. Know a repeat by reinstatementId.",
            [Message.of([one]) for one in (told, undone, notice(generation=2, undoes=notice().notification_id))],
        ),
        Genuine("digest", "notifications.digest is taken", "Answer it 2xx, whether your own count agrees or not.", [Message.digest()]),
        Genuine("test", "endpoint.test is taken", "Answer it 2xx and do nothing.", [Message.about("endpoint.test", {})]),
    ]


def forged(secret: SigningSecret) -> list[Forged]:
    """What must be refused."""
    other = signing.new_secret(secret.kind)
    message, younger = Message.of([notice()]), Message.of([notice()], age_s=-HOUR_S)
    older = Message.of([notice()], age_s=HOUR_S)
    headers = message.headers(secret)
    sign = "Verify the signature over <webhook-id>.<webhook-timestamp>.<body>: all three, as they came."
    clock = "Refuse a webhook-timestamp more than five minutes from your clock: else whoever has an old push sends it again."
    missing = "Refuse a request that lacks one of webhook-id, webhook-timestamp and webhook-signature."
    cases = [
        ("changedBody", "a body that was changed is refused", sign, Message(message.body + b" ", message.message_id), headers),
        ("otherSecret", "a signature of another secret is refused", sign, message, message.headers(other)),
        ("malformed", "a signature that is none is refused", sign, message, headers | {"webhook-signature": "v1,*** v9 ,"}),
        ("old", "a push of an hour ago is refused", clock, older, older.headers(secret)),
        ("early", "a push of an hour from now is refused", clock, younger, younger.headers(secret)),
        *(
            (f"no{name.title().replace('-', '')}", f"a push without {name} is refused", missing, message, _without(headers, name))
            for name in ("webhook-id", "webhook-timestamp", "webhook-signature")
        ),
    ]
    return [Forged(*case) for case in cases]


def _without(headers: dict[str, str], left_out: str) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name != left_out}


async def conform(
    url: str, tls: ssl.SSLContext | None, secret: SigningSecret, *, batch_max: int, answer_timeout_s: float = ANSWER_TIMEOUT_S
) -> list[Check]:
    """Every check, in the order in which one would mend what they find. `tls`: None for an endpoint without TLS."""
    async with Endpoint(url, tls, answer_timeout_s) as endpoint:
        return await _Run(endpoint, secret, answer_timeout_s).all(url, tls, batch_max)


class _Run:
    def __init__(self, endpoint: Endpoint, secret: SigningSecret, answer_timeout_s: float) -> None:
        self._endpoint = endpoint
        self._slow_s = answer_timeout_s * SLOW_SHARE
        self._secret = secret
        self._taken: list[Reply] = []
        """The answers to genuine pushes that went one after another."""

    async def all(self, url: str, tls: ssl.SSLContext | None, batch_max: int) -> list[Check]:
        further, forgeries = genuine(batch_max), forged(self._secret)
        checks = [await self._genuine(Genuine("genuine", GENUINE_LAW, GENUINE_MEND, [Message.of([notice()])]))]
        if checks[0].verdict is not Verdict.HELD:
            untried = [*((case.name, case.law) for case in further), *((case.name, case.law) for case in forgeries)]
            return checks + [Check(*case, Verdict.UNTRIED, "") for case in untried]
        checks += [await self._genuine(case) for case in further]
        checks += [await self._unknown_type(), await self._rotation(), await self._burst()]
        checks += [await self._forged(case) for case in forgeries]
        again = Genuine(
            "afterForgeries",
            "a genuine push is taken after forged ones",
            "Do not shut an address out for what others forge in its name: the operator's pushes come from few addresses.",
            [Message.of([notice()])],
        )
        return [*checks, await self._genuine(again), self._speed(), self._connections(), self._length(), await _certificate(url, tls)]

    async def _genuine(self, case: Genuine) -> Check:
        for message in case.messages:
            reply = await self._endpoint.post(message.headers(self._secret), message.body)
            if not reply.is_receipt:
                return Check(case.name, case.law, Verdict.MEND, str(reply), _mend(case.mend, reply))
            self._taken.append(reply)
        return Check(case.name, case.law, Verdict.HELD, str(reply))

    async def _forged(self, case: Forged) -> Check:
        reply = await self._endpoint.post(case.headers, case.message.body)
        if reply.is_refusal:
            return Check(case.name, case.law, Verdict.HELD, str(reply))
        mend = case.mend if reply.is_receipt else f"{case.mend} Answer 4xx, such as 401."
        return Check(case.name, case.law, Verdict.MEND, str(reply), mend)

    async def _unknown_type(self) -> Check:
        law = "an event of a type that you do not know is taken"
        message = Message.about("registry.laterType", {})
        reply = await self._endpoint.post(message.headers(self._secret), message.body)
        if reply.is_receipt:
            return Check("unknownType", law, Verdict.HELD, str(reply))
        mend = "Answer 2xx to types that you do not know: a later version may have more, and would push each again and again."
        return Check("unknownType", law, Verdict.ADVICE if reply.is_refusal else Verdict.MEND, str(reply), mend)

    async def _rotation(self) -> Check:
        law = "of several signatures one is enough"
        message = Message.of([notice()])
        headers = message.headers(signing.new_secret(), self._secret)
        headers["webhook-signature"] = f"v0,unknown {headers['webhook-signature']}"
        reply = await self._endpoint.post(headers, message.body)
        mend = (
            "webhook-signature may list several, separated by spaces: take the push if any of them is good, and pass over other versions."
        )
        verdict = Verdict.HELD if reply.is_receipt else Verdict.MEND
        return Check("rotation", law, verdict, str(reply), "" if reply.is_receipt else _mend(mend, reply))

    async def _burst(self) -> Check:
        law = f"{AT_ONCE} pushes at once are taken"
        messages = [Message.of([notice()]) for _ in range(AT_ONCE)]
        replies = await asyncio.gather(*(self._endpoint.post(message.headers(self._secret), message.body) for message in messages))
        failed = next((reply for reply in replies if not reply.is_receipt), None)
        if failed is None:
            return Check("burst", law, Verdict.HELD, f"the slowest took {max(reply.seconds for reply in replies):.2f} s")
        taken = sum(reply.is_receipt for reply in replies)
        mend = "Take several pushes at once: a backlog drains so. Or agree with the operator on fewer."
        return Check("burst", law, Verdict.MEND, f"took {taken}; another {failed}", _mend(mend, failed))

    def _speed(self) -> Check:
        slowest = max(reply.seconds for reply in self._taken)
        mend = f"Answer as soon as the notice is stored, and work afterwards: after {ANSWER_TIMEOUT_S:g} s there is no receipt."
        slow = slowest > self._slow_s
        law = f"answers come within {self._slow_s:g} s"
        return Check("speed", law, Verdict.ADVICE if slow else Verdict.HELD, f"the slowest took {slowest:.2f} s", mend if slow else "")

    def _connections(self) -> Check:
        kept = sum(reply.is_reused for reply in self._taken)
        law, seen = "connections are kept", f"{kept} of {len(self._taken)} pushes went over a kept connection"
        if kept * 2 >= len(self._taken):
            return Check("keepAlive", law, Verdict.HELD, seen)
        mend = "Keep connections alive for a minute: else each push pays for a new one, with its TLS handshake."
        return Check("keepAlive", law, Verdict.ADVICE, seen, mend)

    def _length(self) -> Check:
        law = "answers are short"
        if not any(reply.is_long for reply in self._taken):
            return Check("shortAnswer", law, Verdict.HELD, "")
        mend = "Answer without a body: the registry reads 4 KiB of it, and then closes the connection."
        return Check("shortAnswer", law, Verdict.ADVICE, "an answer of more than 4 KiB", mend)


async def _certificate(url: str, tls: ssl.SSLContext | None) -> Check:
    law = "the certificate is valid, and for some time yet"
    ends_at = None if tls is None else await certificate_ends_at(url, tls)
    if ends_at is None:
        return Check("certificate", law, Verdict.UNTRIED, "http, which is for this machine alone")
    seen = f"it ends in {(ends_at - time.time()) / 86_400:.0f} days"
    if ends_at - time.time() > ENDS_SOON_S:
        return Check("certificate", law, Verdict.HELD, seen)
    return Check("certificate", law, Verdict.ADVICE, seen, "Renew it now, and let it be renewed by a program.")


def _mend(mend: str, reply: Reply) -> str:
    instead = next((text for fits, text in _INSTEAD if fits(reply)), None)
    before = next((text for fits, text in _BEFORE if fits(reply)), "")
    return instead or f"{before} {mend}".strip()
