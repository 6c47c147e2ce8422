"""How an action is done: its form, a page that shows what it would do and to how many, and then the deed with its line in the log.

Invariants: nothing is done without a confirmation, and a confirmation is carried out once however often it is sent; what is done and the
line that tells of it commit together; where the count has changed since it was shown, it is shown again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

from registryd import observe
from registryd.console.forms import Fields, NotDone, NumberTold
from registryd.console.plans import Deed, Places, Plan
from registryd.console.replies import page, redirect
from registryd.console.sessions import Session
from registryd.domain.errors import OutOfScope, Refusal, TooManyTests
from registryd.http.reply import Reply
from registryd.store import actions, messengers
from registryd.store.actions import Action
from registryd.store.pool import Connection
from registryd.views.find import NAME

_SMALL = re.compile(r"[0-9]{1,9}", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


class DoneBefore(Exception):
    """This confirmation was carried out before; what was done again is taken back."""


def prefilled(query: Mapping[str, str]) -> dict[str, str]:
    """What a link of a page of ours fills in; nothing else of an address comes into a form."""
    wanted = {"messenger": NAME, "wave": _SMALL, "change": _SMALL, "id": _UUID}
    return {name: query[name] for name, form in wanted.items() if name in query and form.fullmatch(query[name])}


async def show_form(places: Places, frame: Mapping[str, Any], deed: Deed, given: Mapping[str, str], trouble: str = "") -> Reply:
    """The form, with what is known already filled in."""
    async with places.db.connection() as connection:
        names = [messenger.name for messenger in await messengers.read_all(connection)]
    values = {name: given.get(name, "") for name in ("messenger", "wave", "change", "id", "since", "until", "quota", "ends", "reason")}
    values["per_second"] = given.get("per_second", "20")
    return await page("form.html", 409 if trouble else 200, **frame, deed=deed, names_of_all=names, values=values, trouble=trouble)


async def handle(places: Places, frame: Mapping[str, Any], session: Session, deed: Deed, form: Mapping[str, str]) -> Reply:
    """A form that was sent: first to be confirmed, then to be carried out. Raises: OutOfScope, Unavailable."""
    refuse_lookers(session)
    try:
        plan = await deed.plan(places, Fields({**form, "person": session.person.name}))
        if "confirmation" not in form:
            return await _confirm(frame, deed, plan, form)
        confirmation = Fields(form).uuid("confirmation")
        done = None if confirmation is None else await actions.find(places.db, confirmation)
        if confirmation is None or (done is None and plan.is_bound and form.get("counted") != str(plan.counted)):
            return await _confirm(frame, deed, plan, form, has_changed=True)
        return _to_log(done if done is not None else await _carry_out(places, session, deed, plan, confirmation))
    except (NotDone, Refusal, TooManyTests) as error:
        sent_again = Fields(form).uuid("confirmation") if "confirmation" in form else None
        done = None if sent_again is None else await actions.find(places.db, sent_again)
        if done is not None:
            return _to_log(done)
        kept = {name: value for name, value in form.items() if name != "reason" or not isinstance(error, NumberTold)}
        return await show_form(places, frame, deed, kept, str(error))


def refuse_lookers(session: Session) -> None:
    """Raises: OutOfScope."""
    if not session.may_act:
        raise OutOfScope


async def _confirm(frame: Mapping[str, Any], deed: Deed, plan: Plan, form: Mapping[str, str], *, has_changed: bool = False) -> Reply:
    sent = {name: form.get(name, "") for name in (*deed.fields, "messenger") if name != "messenger_or_all"}
    values = {**sent, **plan.keeps, "confirmation": str(uuid4()), "counted": str(plan.counted)}
    return await page("confirm.html", **frame, deed=deed, plan=plan, values=values, has_changed=has_changed)


async def _carry_out(places: Places, session: Session, deed: Deed, plan: Plan, confirmation: UUID) -> int:
    """Does it; returns the number of its line in the log. Raises: NotDone, Refusal, TooManyTests, Unavailable."""

    async def write(connection: Connection) -> int:
        outcome = await plan.do(connection)
        line = Action(deed.kind, plan.messenger_id, plan.what, plan.counted, plan.reason, outcome)
        action_id = await actions.record(connection, confirmation, session.person, line)
        if action_id is None:
            raise DoneBefore
        return action_id

    try:
        if plan.is_bulk:
            async with places.bulk() as own, own.transaction():
                action_id = await write(own)
        else:
            async with places.db.transaction() as pooled:
                action_id = await write(pooled)
    except DoneBefore:
        found = await actions.find(places.db, confirmation)
        assert found is not None, "a line of the log stays"
        return found
    person = session.person
    observe.event("console_action", caller=person.name, key_id=person.key_id, kind=deed.kind, action=action_id, counted=plan.counted)
    if plan.then is not None:
        await actions.finish(places.db, action_id, await plan.then())
    return action_id


def _to_log(action_id: int) -> Reply:
    return redirect(f"/console/actions?done={action_id}")
