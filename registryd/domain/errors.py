"""What can go wrong, as facts. The docstring of an error is its message; only the HTTP edge knows of statuses (http/problems.py)."""

from __future__ import annotations


class RegistryError(Exception):
    """The request cannot be met."""

    def __str__(self) -> str:
        return (type(self).__doc__ or "").strip()


class Refusal(Exception):
    """What a person asked for on the command line is not done: the message says why, and what to do."""


class InvalidArgument(RegistryError):
    """The request is not valid; see errors."""

    def __init__(self, *errors: tuple[str, str]) -> None:
        self.errors = errors
        """Pairs of a path in the body and what is wanted there; never what was found there."""


class NotPresent(RegistryError):
    """The number is not present, so nothing was bound."""


class CodeInUse(RegistryError):
    """This identification code is bound to another number; remove that binding first."""


class NotFound(RegistryError):
    """There is no such binding of yours."""


class Unauthenticated(RegistryError):
    """Send exactly one header Authorization: Bearer rk_<keyId>_<secret> with a live key, and the client certificate if one is pinned."""


class PermissionDenied(RegistryError):
    """Your access is suspended; ask the operator. Notifications go on being pushed."""


class QuotaExceeded(RegistryError):
    """Your budget of queries is used up; go on after Retry-After."""

    def __init__(self, retry_after_s: int) -> None:
        self.retry_after_s = retry_after_s


class Throttled(QuotaExceeded):
    """Your queries looked like a search for subscribers, so they are answered slowly; go on after Retry-After, or ask the operator."""


class Unavailable(RegistryError):
    """The registry cannot answer now, so it does not guess; ask again after Retry-After."""

    def __init__(self, retry_after_s: int = 1) -> None:
        self.retry_after_s = retry_after_s
