"""Errors on the wire: RFC 9457 problem documents with CAMARA's codes. They never contain anything that the client sent."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import orjson

from registryd.domain import errors
from registryd.http.reply import NO_HEADERS, Reply

ERRORS_MAX = 20
TITLES = {status.value: status.phrase for status in HTTPStatus} | {413: "Content Too Large", 422: "Unprocessable Content"}
"""As RFC 9110 has them: Python learnt these two with 3.13."""


class HttpError(Exception):
    """A refusal that only HTTP knows, such as 404 and 415."""

    reason: errors.Reason | None = "invalid"

    def __init__(self, status: int, code: str, detail: str, headers: Mapping[str, str] = NO_HEADERS, *, close: bool = False) -> None:
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers
        self.close = close


def not_found() -> HttpError:
    return HttpError(404, "NOT_FOUND", "There is no such path; GET /openapi.yaml has those there are.")


def method_not_allowed(allowed: list[str]) -> HttpError:
    return HttpError(405, "METHOD_NOT_ALLOWED", f"This path takes {', '.join(allowed)}.", {"Allow": ", ".join(allowed)})


def too_large(limit_bytes: int) -> HttpError:
    return HttpError(413, "TOO_LARGE", f"The body may hold {limit_bytes} bytes.", close=True)


def unsupported_media_type(detail: str) -> HttpError:
    return HttpError(415, "UNSUPPORTED_MEDIA_TYPE", detail, close=True)


def too_slow(seconds: float) -> HttpError:
    return HttpError(400, "INVALID_ARGUMENT", f"The body did not arrive within {seconds:g} seconds.", close=True)


def respond(error: Exception) -> Reply:
    """The problem document of an error. An error that is not ours to tell is a 500 without details."""
    detail = str(error)
    match error:
        case HttpError():
            return document(error.status, error.code, error.detail, headers=error.headers, close=error.close)
        case errors.InvalidArgument():
            return document(400, "INVALID_ARGUMENT", detail, errors=error.errors)
        case errors.Unauthenticated():
            return document(401, "UNAUTHENTICATED", detail, headers={"WWW-Authenticate": "Bearer"})
        case errors.PermissionDenied() | errors.OutOfScope():
            return document(403, "PERMISSION_DENIED", detail)
        case errors.NotFound():
            return document(404, "NOT_FOUND", detail)
        case errors.CodeInUse():
            return document(409, "CODE_IN_USE", detail)
        case errors.Conflict():
            return document(409, "CONFLICT", detail)
        case errors.NotPresent():
            return document(422, "NOT_PRESENT", detail)
        case errors.QuotaExceeded():
            return document(429, "QUOTA_EXCEEDED", detail, headers={"Retry-After": str(error.retry_after_s)})
        case errors.TooManyRequests():
            return document(429, "TOO_MANY_REQUESTS", detail, headers={"Retry-After": str(error.retry_after_s)})
        case errors.Unavailable():
            return document(503, "UNAVAILABLE", detail, headers={"Retry-After": str(error.retry_after_s)})
        case _:
            return document(500, "INTERNAL", "The registry failed; the operator has been told.")


def document(
    status: int,
    code: str,
    detail: str,
    *,
    errors: tuple[tuple[str, str], ...] = (),
    headers: Mapping[str, str] = NO_HEADERS,
    close: bool = False,
) -> Reply:
    body: dict[str, object] = {"type": "about:blank", "title": TITLES[status], "status": status, "detail": detail, "code": code}
    if errors:
        body["errors"] = [{"path": path, "message": message} for path, message in errors[:ERRORS_MAX]]
    return Reply(orjson.dumps(body), status, "application/problem+json", headers, close=close)
