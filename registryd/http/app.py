"""One API as a table of routes: match, authenticate, handle, and turn every error into a problem document."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, NamedTuple, TypeVar

from aiohttp.web import BaseRequest

from registryd import observe
from registryd.domain.errors import InvalidArgument, RegistryError
from registryd.http import problems
from registryd.http.problems import HttpError
from registryd.http.reply import Reply

Caller = TypeVar("Caller")

_CORRELATOR = re.compile(r"[a-zA-Z0-9\-_:;./<>{}]{1,256}", re.ASCII)


class Route(NamedTuple, Generic[Caller]):
    name: str
    handle: Callable[[BaseRequest, Caller], Awaitable[Reply]]
    authenticated: bool = True
    parameters: frozenset[str] = frozenset()


class App(Generic[Caller]):
    """Handles the requests of one listener. While `draining`, each answer ends its connection, so that no request is lost in a restart."""

    def __init__(
        self, api: str, routes: Mapping[str, Mapping[str, Route[Caller]]], authenticate: Callable[[BaseRequest], Caller], nobody: Caller
    ) -> None:
        self._api = api
        self.routes = routes
        self._authenticate = authenticate
        self._nobody = nobody
        self.draining = False

    async def __call__(self, request: BaseRequest) -> Reply:
        started = time.perf_counter()
        name = "unknown"
        try:
            route = self._match(request)
            name = route.name
            caller = self._authenticate(request) if route.authenticated else self._nobody
            _check_parameters(request, route)
            reply = await route.handle(request, caller)
        except (RegistryError, HttpError) as error:
            reply = problems.respond(error)
        except Exception as error:
            # The kind alone: an exception's text may quote the request.
            observe.event("request_failed", "error", api=self._api, route=name, kind=type(error).__name__)
            reply = problems.respond(error)
        given = request.headers.get("x-correlator", "")
        reply.correlator = given if _CORRELATOR.fullmatch(given) else os.urandom(8).hex()
        reply.close = reply.close or self.draining
        seconds = time.perf_counter() - started
        observe.child(observe.requests, self._api, name, reply.status).inc()
        observe.child(observe.request_seconds, self._api, name).observe(seconds)
        if reply.status >= 400:
            observe.event("request_refused", api=self._api, route=name, status=reply.status, ms=round(seconds * 1000, 1))
        return reply

    def _match(self, request: BaseRequest) -> Route[Caller]:
        methods = self.routes.get(request.raw_path) or self.routes.get(request.rel_url.raw_path)
        if methods is None:
            raise problems.not_found()
        route = methods.get(request.method)
        if route is None:
            raise problems.method_not_allowed(sorted(methods))
        return route


def _check_parameters(request: BaseRequest, route: Route[Caller]) -> None:
    """Raises: InvalidArgument for a parameter that is unknown or stands twice; its name is the client's, so it is not repeated."""
    if "?" not in request.raw_path:
        return
    query = request.rel_url.query
    if any(name not in route.parameters for name in query):
        known = f"only {', '.join(sorted(route.parameters))}" if route.parameters else "none"
        raise InvalidArgument(("", f"of query parameters, this path takes {known}"))
    if len(query) != len(set(query)):
        raise InvalidArgument(("", "a query parameter stands twice"))
