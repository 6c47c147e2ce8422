"""The console: its listener is the operator API's. Finds the page, asks whose session it is, and turns every error into a page."""

from __future__ import annotations

import math
import random
import time
from typing import Any
from urllib.parse import parse_qsl

from aiohttp.web import BaseRequest

from registryd import observe
from registryd.config import ApiSection
from registryd.console import acting, assets, pages, replies, sessions
from registryd.console.deeds import DEEDS
from registryd.console.pages import LANE, NAMES, PAGES
from registryd.console.plans import Deed, Places
from registryd.console.replies import page, redirect
from registryd.console.sessions import ForeignForm, LoginNeeded, Logins, Session
from registryd.domain.errors import OutOfScope, RegistryError, TooLong, Unauthenticated, Unavailable
from registryd.http import problems, receiving
from registryd.http.auth import Operators
from registryd.http.problems import HttpError
from registryd.http.reply import Reply
from registryd.store import failures
from registryd.store import sessions as store
from registryd.views.shape import NothingThere

FORM_MAX_BYTES = 16 * 1024
FIELDS_MAX = 40
DO = "/console/do/"
REFRESH_S = 5
BY_ITSELF = "x-console-refresh"
"""The header by which a page asks for itself again: no person did, so an idle session goes on towards its end."""


class Console:
    """Handles the console's requests of one process."""

    def __init__(self, limits: ApiSection, places: Places, keys: Operators) -> None:
        self._limits = limits
        self._places = places
        self._db = places.db
        self._keys = keys
        self._logins = Logins()
        self._repeats = observe.repeats()
        self._away_since: float | None = None
        self._found_at = -math.inf
        """When the database last told whose a session is."""
        self._pages = {shown.path: shown for shown in PAGES}

    async def __call__(self, request: BaseRequest) -> Reply:
        received, correlator = time.monotonic(), f"{random.getrandbits(64):016x}"
        route = self._route(request)
        try:
            reply = await self._answer(route, request)
        except LoginNeeded:
            reply = self._lead_to_login(request)
        except Unavailable as error:
            reply = self._hindered(route, correlator, received, error)
        except (RegistryError, HttpError, ForeignForm, NothingThere) as error:
            reply = replies.told(error, correlator)
            self._tell_refusal(route, correlator, error)
        except Exception as error:
            reply = replies.told(error, correlator)
            facts = {"api": "console", "route": route, "correlator": correlator, "kind": type(error).__name__, "at": observe.place(error)}
            self._repeats.tell("request_failed", "error", kind=(facts["kind"], facts["at"], route), facts=facts)
        reply.correlator = correlator
        observe.child(observe.requests, "console", route, reply.status).inc()
        observe.child(observe.request_seconds, "console", route).observe(time.monotonic() - received)
        return reply

    def _hindered(self, route: str, correlator: str, received: float, error: Unavailable) -> Reply:
        """The page of what had to wait too long, or of a database that is away.

        Where the database has just told whose session it is, it is there: then this look alone waited for a lock or a free connection, and
        nobody is to read that messengers are not answered.
        """
        if self._found_at >= received and isinstance(error.__cause__, failures.WAITED):
            error = TooLong()
        self._tell_refusal(route, correlator, error)
        if isinstance(error, TooLong):
            return replies.told(error, correlator)
        self._away_since = self._away_since or time.monotonic()
        return replies.away(self._db.hindrance, time.monotonic() - self._away_since)

    def _route(self, request: BaseRequest) -> str:
        """What metrics and the log call the page: never a path as it was sent."""
        path = request.rel_url.raw_path
        if path in self._pages:
            return self._pages[path].template.removesuffix(".html")
        if path in assets.BY_PATH:
            return "static"
        if path.startswith(LANE):
            return "lane"
        if path.startswith(DO) and path.removeprefix(DO) in DEEDS:
            return path.removeprefix(DO)
        return {"/console/login": "login", "/console/logout": "logout"}.get(path, "unknown")

    async def _answer(self, route: str, request: BaseRequest) -> Reply:
        """Raises: RegistryError, HttpError, ForeignForm, LoginNeeded."""
        path, method = request.rel_url.raw_path, "GET" if request.method == "HEAD" else request.method
        if method not in ("GET", "POST"):
            raise problems.method_not_allowed(["GET", "HEAD", "POST"])
        if method == "POST":
            sessions.refuse_foreign(request)
        match route, method:
            case "static", "GET":
                return replies.static(path)
            case "login", "GET":
                return await self._login_page(request.rel_url.query.get("next", "/"))
            case "login", "POST":
                return await self._log_in(request)
        session = await self._session(request)
        match route, method:
            case "logout", "POST":
                sessions.refuse_without_token(session, (await self._form(request)).get("token", ""))
                return await self._log_out(request, session)
            case "unknown", _:
                raise problems.not_found()
            case "logout", _:
                raise problems.method_not_allowed(["POST"])
            case _ if route in DEEDS:
                return await self._act(DEEDS[route], request, session, method)
            case "lane", "GET":
                frame = self._frame(session, LANE.removesuffix("/"), "Lane")
                return await page("lane.html", **frame, **await pages.lane(self._places.looks, path.removeprefix(LANE)))
            case "find", "POST":
                form = await self._form(request)
                sessions.refuse_without_token(session, form.get("token", ""))
                return redirect(await pages.searched(self._places.looks, form.get("text", "")))
            case _, "GET":
                shown = self._pages[path]
                found = await shown.read(self._places.looks, request.rel_url.query)
                return await page(shown.template, **self._frame(session, shown.path, shown.name), **found)
        raise problems.method_not_allowed(["GET", "HEAD"])

    async def _act(self, deed: Deed, request: BaseRequest, session: Session, method: str) -> Reply:
        frame = self._frame(session, "", deed.title, refreshes=False)
        if method == "GET":
            acting.refuse_lookers(session)
            return await acting.show_form(self._places, frame, deed, acting.prefilled(request.rel_url.query))
        form = await self._form(request)
        sessions.refuse_without_token(session, form.get("token", ""))
        return await acting.handle(self._places, frame, session, deed, form)

    async def _session(self, request: BaseRequest) -> Session:
        """Raises: LoginNeeded."""
        token = sessions.shown_token(request)
        if token is None:
            raise LoginNeeded
        person = await store.find(self._db, sessions.digest(token), by_person=BY_ITSELF not in request.headers)
        self._away_since, self._found_at = None, time.monotonic()
        if person is None:
            raise LoginNeeded
        return Session(token, person)

    def _frame(self, session: Session, path: str, title: str, *, refreshes: bool = True) -> dict[str, Any]:
        """What every page of a session shows beside its own. `refreshes`: it asks for itself again every few seconds."""
        shared = {"session": session, "path": path, "title": title, "menu": PAGES, "names": NAMES}
        return {**shared, "refresh_s": REFRESH_S if refreshes else 0, "now": session.person.asked_at}

    async def _form(self, request: BaseRequest) -> dict[str, str]:
        """Raises: HttpError; ForeignForm for a form that is none of ours."""
        body = await receiving.read_body(request, self._limits, FORM_MAX_BYTES, "application/x-www-form-urlencoded")
        try:
            fields = parse_qsl(
                body.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=FIELDS_MAX
            )
        except ValueError:
            raise ForeignForm from None
        if len({name for name, _ in fields}) != len(fields):
            raise ForeignForm
        return dict(fields)

    async def _login_page(self, goes_on: str, status: int = 200, trouble: str = "") -> Reply:
        return await page("login.html", status, title="Log in", goes_on=goes_on if goes_on in self._pages else "/", trouble=trouble)

    async def _log_in(self, request: BaseRequest) -> Reply:
        """Raises: TooManyCalls, Unavailable."""
        form = await self._form(request)
        goes_on = form.get("next", "/")
        self._logins.refuse(request)
        try:
            operator = self._keys.admit(form.get("key", ""), request)
            if "read" not in operator.scopes:
                raise OutOfScope
        except Unauthenticated as error:
            self._logins.failed(request)
            self._tell_refusal("login", "", error)
            return await self._login_page(goes_on, 401, "This is no live key of the operator API. Nothing was logged in.")
        except OutOfScope as error:
            self._tell_refusal("login", "", error)
            return await self._login_page(goes_on, 403, "This key may not look: it lacks the scope read.")
        token = sessions.new_token()
        await store.begin(self._db, sessions.digest(token), operator.key_id)
        observe.event("console_login", caller=operator.name, key_id=operator.key_id)
        return redirect(goes_on if goes_on in self._pages else "/", sessions.cookie(request, token))

    async def _log_out(self, request: BaseRequest, session: Session) -> Reply:
        await store.end(self._db, sessions.digest(session.token))
        return redirect("/console/login", sessions.cookie(request, None))

    def _lead_to_login(self, request: BaseRequest) -> Reply:
        """A page that asks for itself is told by the status; a person comes to the login, and from there back to where he was."""
        if BY_ITSELF in request.headers:
            return Reply(b"", 401, "text/plain; charset=utf-8", replies.HEADERS)
        path = request.rel_url.raw_path
        return redirect(f"/console/login?next={path}" if path in self._pages and path != "/" else "/console/login")

    def _tell_refusal(self, route: str, correlator: str, error: RegistryError | HttpError | ForeignForm | NothingThere) -> None:
        if isinstance(error, NothingThere) or error.reason is None:
            return
        is_ours = isinstance(error, Unavailable)
        caller = error.caller if isinstance(error, Unauthenticated) else None
        name = f"operator/{caller}" if caller is not None else "-"
        observe.child(observe.requests_refused, name, error.reason).inc()
        facts: dict[str, Any] = {"api": "console", "route": route, "reason": error.reason}
        if correlator:
            facts["correlator"] = correlator
        if isinstance(error, Unauthenticated) and error.key_id is not None:
            facts |= {"caller": error.caller, "key_id": error.key_id}
        self._repeats.tell("request_refused", "warning" if is_ours else "info", kind=(error.reason, caller), facts=facts)
