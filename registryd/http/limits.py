"""The fields RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-11): what a caller may do, and what is left of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

from registryd.http.reply import NO_HEADERS
from registryd.presence.bucket import Limit


def fields(limits: Sequence[Limit]) -> Mapping[str, str]:
    """Both fields; no field where there is no limit, because the draft knows no empty list."""
    if not limits:
        return NO_HEADERS
    return {
        "RateLimit-Policy": ", ".join([f'"{limit.name}";q={limit.quota};w={limit.window_s}' for limit in limits]),
        "RateLimit": ", ".join([f'"{limit.name}";r={limit.left};t={ceil(limit.whole_s)}' for limit in limits]),
    }
