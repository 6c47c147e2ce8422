"""One API as a table of routes: match, admit, handle, and turn every error into a problem document."""

from __future__ import annotations

import re
import time
from typing import Any, Generic

from aiohttp.web import BaseRequest

from registryd import observe
from registryd.config import ApiSection
from registryd.domain.errors import InvalidArgument, QuotaExceeded, RegistryError, TooManyRequests, Unauthenticated, Unavailable
from registryd.http import problems, receiving
from registryd.http.admission import Admission
from registryd.http.documents import Documents
from registryd.http.problems import HttpError
from registryd.http.reply import Reply, correlator, told_correlator
from registryd.http.routes import Call, Caller, Route, Routes
from registryd.http.transport import Connection

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)


class App(Generic[Caller]):
    """Handles the requests of one listener."""

    def __init__(self, name: str, limits: ApiSection, routes: Routes[Caller], admission: Admission[Caller]) -> None:
        """`name`: the API's, and its document's."""
        self._name = name
        self._documents = Documents(name)
        self._limits = limits
        self.routes = routes
        self._named = {path.removesuffix("{name}"): methods for path, methods in routes.items() if path.endswith("/{name}")}
        self._admission = admission
        self._repeats = observe.repeats()
        for route in {route.name for methods in routes.values() for route in methods.values()}:
            for status in (500, 503):  # what alerts count is there before the first of them
                observe.child(observe.requests, name, route, status)

    async def __call__(self, request: BaseRequest) -> Reply:
        received = time.monotonic()
        marked = correlator(request.headers)
        route: Route[Caller] | None = None
        caller: Caller | None = None
        connection = request.protocol
        assert isinstance(connection, Connection)
        try:
            route = self._match(request)
            if route is None:
                reply = self._documents.answer(request)
            else:
                caller = self._admission.identify(request)
                connection.owner = caller.name
                _check_parameters(request, route)
                reply = await self._serve(request, route, caller, received, marked)
                if route.tells_limits:
                    reply.headers = {**reply.headers, **self._admission.limits(caller, route)}
        except (RegistryError, HttpError) as error:
            reply = problems.respond(error)
            if isinstance(error, QuotaExceeded | TooManyRequests) and caller is not None and route is not None:
                reply.headers = {**reply.headers, **self._admission.limits(caller, route)}
            if error.reason is not None:
                self._tell_refusal(self._facts(request, marked, route, caller), error)
                connection.may_leave = True  # the refusal may be held for seconds
                await self._admission.refuse(caller, error.reason, is_ours=isinstance(error, Unavailable))
        except Exception as error:
            reply = problems.respond(error)
            self._tell_failure(self._facts(request, marked, route, caller), error)
        reply.correlator = marked
        name = route.name if route else "documents" if reply.status < 400 else "unknown"
        seconds = time.monotonic() - received
        observe.child(observe.requests, self._name, name, reply.status).inc()
        observe.child(observe.request_seconds, self._name, name).observe(seconds)
        return reply

    def _tell_refusal(self, facts: dict[str, Any], error: RegistryError | HttpError) -> None:
        """Logs a refusal. Those of our own making, such as an outage's, are one kind whoever meets them."""
        is_ours = isinstance(error, Unavailable)
        facts |= {"reason": error.reason}
        if isinstance(error, Unauthenticated) and error.key_id is not None:
            facts |= {"caller": error.caller, "key_id": error.key_id}
        kind = (error.reason, None if is_ours else facts.get("caller"))
        self._repeats.tell("request_refused", "warning" if is_ours else "info", kind=kind, facts=facts)

    def _tell_failure(self, facts: dict[str, Any], error: Exception) -> None:
        """Logs a fault of ours: only its kind and where in our code it is, because an exception's text may quote the request."""
        facts |= {"kind": type(error).__name__, "at": observe.place(error)}
        self._repeats.tell("request_failed", "error", kind=(facts["kind"], facts["at"], facts["route"]), facts=facts)

    def _facts(self, request: BaseRequest, marked: str, route: Route[Caller] | None, caller: Caller | None) -> dict[str, Any]:
        """Who asked for what. `marked` is the correlator."""
        facts: dict[str, Any] = {"api": self._name, "route": route.name if route else "unknown", **told_correlator(request.headers, marked)}
        return facts if caller is None else facts | {"caller": caller.name, "key_id": self._admission.key_id(request)}

    async def _serve(self, request: BaseRequest, route: Route[Caller], caller: Caller, received: float, marked: str) -> Reply:
        standing = self._admission.enter(caller, route)
        call = Call(request, caller, received, marked)
        if self._named:
            call.name = _parts(request.rel_url.raw_path)[1]
        try:
            if route.takes is not None and (request.body_exists or not route.body_optional):
                call.content = route.takes(await receiving.read_body(request, self._limits, route.body_max_bytes))
            if route.numbers is not None and (numbers := route.numbers(call.content)):
                call.reserved = self._admission.reserve(caller, numbers)
                try:
                    return await route.handle(call)
                finally:
                    call.reserved.close()
            if route.shares_pool:
                async with self._admission.pool_share(standing):
                    return await route.handle(call)
            return await route.handle(call)
        finally:
            self._admission.leave(standing, route)

    def _match(self, request: BaseRequest) -> Route[Caller] | None:
        """None where the path is no route's. Raises: HttpError. HEAD is GET whose body is not sent."""
        methods = self.routes.get(request.raw_path) or self.routes.get(path := request.rel_url.raw_path) or self._named.get(_parts(path)[0])
        if methods is None:
            return None
        route = methods.get("GET" if request.method == "HEAD" else request.method)
        if route is None:
            raise problems.method_not_allowed(sorted([*methods, "HEAD"] if "GET" in methods else methods))
        return route


def _parts(path: str) -> tuple[str, str]:
    """A path up to its last slash and what follows, which is empty where it cannot be a name."""
    head, slash, name = path.rpartition("/")
    return (head + slash, name) if _NAME.fullmatch(name) else (path, "")


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
