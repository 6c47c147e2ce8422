"""Pages as answers: the headers of every one, and what is said where a page cannot be shown."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from aiohttp.web import BaseRequest

from registryd.console import assets
from registryd.console.rendering import brief, render
from registryd.console.sessions import ForeignForm
from registryd.domain import errors
from registryd.http.problems import HttpError
from registryd.http.reply import NO_HEADERS, Reply
from registryd.views.shape import NothingThere

AWAY_REFRESH_S = 5
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: a browser would then say of a form that it comes from nowhere, and it would be refused as foreign.
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


async def page(template: str, status: int = 200, headers: Mapping[str, str] = NO_HEADERS, **values: Any) -> Reply:
    """A page. It is made in a thread, so that a long table does not hold up billing's calls."""
    body = await asyncio.to_thread(render, template, **values)
    return Reply(body, status, "text/html; charset=utf-8", {**HEADERS, **headers})


def redirect(path: str, headers: Mapping[str, str] = NO_HEADERS) -> Reply:
    return Reply(b"", 303, "text/html; charset=utf-8", {**HEADERS, "Location": path, **headers})


def told(error: Exception, correlator: str) -> Reply:
    """The page of what went wrong. Nothing that a client sent is in it."""
    detail, headers = str(error), {}
    match error:
        case HttpError():
            status, detail, headers = error.status, error.detail, dict(error.headers)
            if status == HTTPStatus.NOT_FOUND:
                detail = "The console has no such page."
        case errors.NotFound() | NothingThere():
            status, detail = 404, "There is nothing of that name. It may have been removed, or the address was mistyped."
        case errors.OutOfScope():
            status, detail = 403, "Your key may look and not act. Log in with a key that has the scope act."
        case errors.TooManyRequests():
            status, headers = 429, {"Retry-After": str(error.retry_after_s)}
            detail = f"Too many logins were tried. Try again in {brief(error.retry_after_s)}."
        case errors.TooLong():
            status, headers = 503, {"Retry-After": str(error.retry_after_s)}
            detail = "This page takes longer than a look may take. Open it again when there is less to do."
        case ForeignForm():
            status = 403
        case errors.RegistryError():
            status = 409
        case _:
            status, detail = 500, "The console failed. This is a fault of registryd, and its log has been told."
    title = HTTPStatus(status).phrase
    body = render("message.html", title=title, sentence=detail, correlator=correlator if status == 500 else "")
    return Reply(body, status, "text/html; charset=utf-8", {**HEADERS, **headers}, close=getattr(error, "close", False))


def away(reason: str, lasts_s: float | None) -> Reply:
    """The page that stands in for every other while the database does not answer. It asks again by itself."""
    body = render(
        "away.html", reason=reason, lasts=brief(lasts_s) if lasts_s is not None and lasts_s >= 2 else None, refresh_s=AWAY_REFRESH_S
    )
    headers = {**HEADERS, "Refresh": str(AWAY_REFRESH_S), "Retry-After": str(AWAY_REFRESH_S)}
    return Reply(body, 503, "text/html; charset=utf-8", headers)


def static(path: str) -> Reply:
    """A file of assets.BY_PATH. A browser may keep it for ever."""
    asset = assets.BY_PATH[path]
    return Reply(asset.content, 200, asset.content_type, {**HEADERS, "Cache-Control": "public, max-age=31536000, immutable"})


def closed(request: BaseRequest) -> Reply | None:
    """The console's answer while its process cannot do its work; None for a path that is not the console's."""
    if request.method in ("GET", "HEAD") and (path := request.rel_url.raw_path) in assets.BY_PATH:
        return static(path)  # the page below looks by it
    if not is_ours(request):
        return None
    return away("It has not been there since this process started, or its schema is of another release.", None)


def is_ours(request: BaseRequest) -> bool:
    """Whether the path is the console's: the rest of the listener is the operator API's."""
    path = request.rel_url.raw_path
    return path in ("/", "/console") or path.startswith("/console/")
