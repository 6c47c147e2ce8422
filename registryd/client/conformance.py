"""Runs a messenger's endpoint through what the registry's pushes may bring, in a second or two, and says what it must mend.

Each check sends real messages (`laws.py`) and judges by the status alone, as the registry does. The first one is a genuine push: while that
is not taken nothing else tells anything, so the others are left out.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from enum import StrEnum
from typing import NamedTuple

from registryd.client.endpoint import Endpoint, Reply, certificate_ends_at
from registryd.client.laws import Forged, Genuine, forged, genuine, mended, plain, plain_again
from registryd.client.messages import Message, notice
from registryd.delivery import signing
from registryd.domain.secret import SigningSecret

ANSWER_TIMEOUT_S = 15.0
"""How long a push waits for an answer."""
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
        self._failed_once: list[Reply] = []
        """Failures of pushes that were taken the second time."""

    async def all(self, url: str, tls: ssl.SSLContext | None, batch_max: int) -> list[Check]:
        further, forgeries = genuine(batch_max), forged(self._secret)
        checks = [await self._genuine(plain())]
        if checks[0].verdict is not Verdict.HELD:
            untried = [*((case.name, case.law) for case in further), *((case.name, case.law) for case in forgeries)]
            return checks + [Check(*case, Verdict.UNTRIED, "") for case in untried]
        checks += [await self._genuine(case) for case in further]
        checks += [await self._unknown_type(), await self._rotation(), await self._burst()]
        checks += [
            await self._forged(case) for case in forged(self._secret)
        ]  # made now, so that they are refused for nothing but their fault
        return [
            *checks,
            await self._genuine(plain_again()),
            self._steadiness(),
            self._speed(),
            self._connections(),
            self._length(),
            await _certificate(url, tls),
        ]

    async def _genuine(self, case: Genuine) -> Check:
        for message in case.messages:
            reply = await self._push(message)
            if not reply.is_receipt:
                return Check(case.name, case.law, Verdict.MEND, str(reply), mended(case.mend, reply))
            self._taken.append(reply)
        return Check(case.name, case.law, Verdict.HELD, str(reply))

    async def _push(self, message: Message, *by: SigningSecret, further: str = "") -> Reply:
        """Pushes a genuine message, and once more where that failed for a cause that may pass. `further`: before its signatures."""
        headers = message.headers(*by, self._secret)
        headers["webhook-signature"] = further + headers["webhook-signature"]
        first = await self._endpoint.post(headers, message.body)
        if first.status is None or (first.status < 500 and first.status != 429):
            return first
        second = await self._endpoint.post(headers, message.body)
        if second.is_receipt:
            self._failed_once.append(first)
        return second

    async def _forged(self, case: Forged) -> Check:
        reply = await self._endpoint.post(case.headers, case.message.body)
        if reply.is_refusal:
            return Check(case.name, case.law, Verdict.HELD, str(reply))
        mend = case.mend if reply.is_receipt else f"{case.mend} Answer 4xx, such as 401."
        return Check(case.name, case.law, Verdict.MEND, str(reply), mend)

    async def _unknown_type(self) -> Check:
        law = "an event of a type that you do not know is taken"
        reply = await self._push(Message.about("registry.laterType", {}))
        if reply.is_receipt:
            return Check("unknownType", law, Verdict.HELD, str(reply))
        mend = "Answer 2xx to types that you do not know: a later version may have more, and each would be pushed again and again."
        return Check("unknownType", law, Verdict.ADVICE if reply.is_refusal else Verdict.MEND, str(reply), mend)

    async def _rotation(self) -> Check:
        law = "of several signatures one is enough"
        reply = await self._push(Message.of([notice()]), signing.new_secret(), further="v0,unknown ")
        mend = (
            "webhook-signature may list several, separated by spaces: take the push if any of them is good, and pass over other versions."
        )
        verdict = Verdict.HELD if reply.is_receipt else Verdict.MEND
        return Check("rotation", law, verdict, str(reply), "" if reply.is_receipt else mended(mend, reply))

    async def _burst(self) -> Check:
        law = f"{AT_ONCE} pushes at once are taken"
        messages = [Message.of([notice()]) for _ in range(AT_ONCE)]
        replies = await asyncio.gather(*(self._endpoint.post(message.headers(self._secret), message.body) for message in messages))
        failed = next((reply for reply in replies if not reply.is_receipt), None)
        if failed is None:
            return Check("burst", law, Verdict.HELD, f"the slowest took {max(reply.seconds for reply in replies):.2f} s")
        taken = sum(reply.is_receipt for reply in replies)
        mend = "Take several pushes at once: a backlog drains so. Or agree with the operator on fewer."
        return Check("burst", law, Verdict.MEND, f"took {taken}; another {failed}", mended(mend, failed))

    def _steadiness(self) -> Check:
        law = "no push fails that is taken the next time"
        if not self._failed_once:
            return Check("steady", law, Verdict.HELD, "")
        seen = f"{len(self._failed_once)} pushes failed once: {self._failed_once[0]}"
        return Check("steady", law, Verdict.MEND, seen, "Look in its log why they failed: each failure makes a notice later.")

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
