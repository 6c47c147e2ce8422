"""What can go wrong, as facts. The docstring of an error is its message; only the HTTP edge knows of statuses (http/problems.py)."""

from __future__ import annotations

from typing import Literal

Reason = Literal[
    "no_key",
    "unknown_key",
    "wrong_secret",
    "revoked_key",
    "expired_key",
    "certificate",
    "keys",
    "suspended",
    "scope",
    "foreign_form",
    "budget",
    "quota",
    "throttle",
    "queue",
    "feed",
    "held",
    "delivery",
    "slow",
    "database",
    "pooling",
    "schema",
    "incomplete",
    "invalid",
]
"""Why a request is refused, as metric, log and report name it. systemd/README.md says of each what it means."""
NOT_COMPLETE_RETRY_S = 10
"""Until a person or an import has said that the registry is complete nothing changes by itself."""


class RegistryError(Exception):
    """The request cannot be met."""

    reason: Reason | None = None
    """By what name it is counted as a refusal; None for what is an answer."""

    def __str__(self) -> str:
        return (type(self).__doc__ or "").strip()


class Refusal(Exception):
    """What a person asked for on the command line is not done: the message says why, and what to do."""


class InvalidArgument(RegistryError):
    """The request is not valid; see errors."""

    reason = "invalid"

    def __init__(self, *errors: tuple[str, str]) -> None:
        self.errors = errors
        """Pairs of a path in the body and what is wanted there; never what was found there."""


class NotPresent(RegistryError):
    """The number is not present, so nothing was bound."""


class CodeInUse(RegistryError):
    """This identification code is bound to another number; remove that binding first."""


class Conflict(RegistryError):
    """This does not fit what is there already."""


class TwoLiveKeys(Conflict):
    """You have two live keys already; revoke one of them, or wait until one ends."""


class ReplayUnderWay(Conflict):
    """A replay that you asked for is under way; ask again when it has finished."""


class EndpointKept(Conflict):
    """This is your endpoint already."""


class NotFound(RegistryError):
    """There is no such binding of yours."""


class NoSuchKey(NotFound):
    """There is no such key of yours."""


class NoSuchThing(NotFound):
    """There is nothing of that name."""


class Unauthenticated(RegistryError):
    """Send exactly one header Authorization: Bearer with a live key of this API, and the client certificate if one is pinned."""

    def __init__(self, reason: Reason = "no_key", caller: str | None = None, key_id: str | None = None) -> None:
        self.reason = reason
        """For the operator, never for the client."""
        self.caller = caller
        """Whose key it is, where it is one of ours."""
        self.key_id = key_id


class PermissionDenied(RegistryError):
    """Your access is suspended; ask the operator. You may still pull and acknowledge what you are owed."""

    reason = "suspended"


class OutOfScope(RegistryError):
    """This key's scopes do not allow that."""

    reason = "scope"


class QuotaExceeded(RegistryError):
    """The day's quota does not cover so many numbers; ask for fewer, or go on after Retry-After."""

    reason = "quota"

    def __init__(self, retry_after_s: int) -> None:
        self.retry_after_s = retry_after_s


class TooManyRequests(RegistryError):
    """You ask faster than you may; go on after Retry-After."""

    def __init__(self, retry_after_s: int) -> None:
        self.retry_after_s = retry_after_s


class Throttled(TooManyRequests):
    """Your queries looked like a search for subscribers, so they are answered slowly; go on after Retry-After, or ask the operator."""

    reason = "throttle"


class TooManyCalls(TooManyRequests):
    """You call this too often or too many times at once; go on after Retry-After."""

    reason = "budget"


class TooManyKeys(TooManyRequests):
    """You have made too many keys within a day; go on after Retry-After, or ask the operator."""

    reason = "budget"


class TooManyReplays(TooManyRequests):
    """You have asked for too many replays within a day; go on after Retry-After, or ask the operator."""

    reason = "budget"


class TooManyChanges(TooManyRequests):
    """You have asked for too many changes within a day; go on after Retry-After, or ask the operator."""

    reason = "budget"


class TooManyTests(TooManyRequests):
    """A test of your endpoint is under way, or there were too many in the last minute; go on after Retry-After."""


class Unavailable(RegistryError):
    """The registry cannot answer now, so it does not guess; ask again after Retry-After."""

    def __init__(self, retry_after_s: int = 1, reason: Reason = "database") -> None:
        self.retry_after_s = retry_after_s
        self.reason = reason


class HeldBack(Unavailable):
    """The operator holds your notifications back for now; ask again after Retry-After. Acknowledgements are taken meanwhile."""

    def __init__(self) -> None:
        super().__init__(60, reason="held")


class NotComplete(Unavailable):
    """The registry is not ready to answer; ask again after Retry-After."""

    def __init__(self) -> None:
        super().__init__(NOT_COMPLETE_RETRY_S, "incomplete")


class TooLong(Unavailable):
    """This takes longer than a look may take; ask again when there is less to do, or run registryd report where it is a report."""

    def __init__(self) -> None:
        super().__init__(10, "slow")


class NotPushed(Unavailable):
    """No process of the registry has pushed it within 15 s."""

    def __init__(self) -> None:
        super().__init__(reason="delivery")
