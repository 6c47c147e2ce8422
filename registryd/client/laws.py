"""What `registryd conformance` tries at an endpoint: genuine messages that must be taken, forged ones that must be refused, and how to mend
what is not as it must be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from registryd.client.endpoint import Reply
from registryd.client.messages import CODE_MAX, Message, new_code, notice
from registryd.delivery import signing
from registryd.domain.secret import SigningSecret

HOUR_S = 3_600


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


def plain() -> Genuine:
    return Genuine(
        "genuine",
        "a genuine push is taken, though its code is of nobody here",
        "Verify over the raw bytes <webhook-id>.<webhook-timestamp>.<body>, before any parsing, with the secret given here; and answer 2xx "
        "to a code that you do not know, because its user may be gone.",
        [Message.of([notice()])],
    )


def plain_again() -> Genuine:
    return Genuine(
        "afterForgeries",
        "a genuine push is taken after forged ones",
        "Do not shut an address out for what others forge in its name: the operator's pushes come from few addresses.",
        [Message.of([notice()])],
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


def mended(mend: str, reply: Reply) -> str:
    instead = next((text for fits, text in _INSTEAD if fits(reply)), None)
    before = next((text for fits, text in _BEFORE if fits(reply)), "")
    return instead or f"{before} {mend}".strip()
