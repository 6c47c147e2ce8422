"""A messenger asks for another endpoint or webhook secret; a person tries the endpoint, and confirms or refuses the request."""

from __future__ import annotations

from registryd.console.forms import Fields, NotDone
from registryd.console.plans import Deed, Places, Plan
from registryd.domain.errors import NotPushed
from registryd.store import changes, test_pushes
from registryd.store.changes import CannotDecide, Change
from registryd.store.pool import Connection
from registryd.store.reading import Writing

ASK_FIRST = "Ask its people by another way than its API whether they ask for this: its key may be a thief's."


async def pushed(places: Places, test_id: int) -> str:
    """What came of a test push, once it has ended. Raises: Unavailable."""
    try:
        result = await test_pushes.result(places.db, test_id)
    except NotPushed:
        return "No deliver process pushed it within 15 s: is registryd-deliver running?"
    how = result.error or f"status {result.status}"
    return f"{'Delivered' if result.delivered else 'Not delivered'} in {result.latency_ms:,} ms: {how}."


def shown_url(url: str | None) -> str:
    """An endpoint without its query, which may hold a secret."""
    if url is None:
        return "none: it pulls"
    path, question, _ = url.partition("?")
    return f"{path}{question}{'…' if question else ''}"


async def _waiting(places: Places, fields: Fields) -> Change:
    """Raises: NotDone."""
    try:
        change = await changes.find(places.db, fields.whole("change", 1, 10**12))
    except CannotDecide:
        raise NotDone("There is no such request.") from None
    if change.state != "waiting":
        raise NotDone(f"It waits no more: {changes.REFUSED[change.state]}.")
    return change


def _wanted(change: Change) -> str:
    if change.endpoint_url is None:
        return "a new webhook secret, beside which the former ones sign for 24 hours"
    wanted, present = shown_url(change.endpoint_url), shown_url(change.present_url)
    if wanted == present:
        return f"the endpoint {wanted} with another query, which registryd messenger changes list shows"
    return f"the endpoint {wanted} instead of {present}"


async def _test(places: Places, fields: Fields) -> Plan:
    change = await _waiting(places, fields)
    if change.endpoint_url is None:
        raise NotDone("A secret that is not confirmed signs nothing, so there is nothing to push.")

    async def do(connection: Connection) -> None:
        asked.append(await test_pushes.ask(connection, change.messenger_id, change.endpoint_url))

    async def then() -> str:
        return await pushed(places, asked[0])

    asked: list[int] = []
    what = f"Push a test event to the endpoint that {change.messenger} asks for, {shown_url(change.endpoint_url)}."
    return Plan(change.messenger_id, what, 1, "signed test event, which tells nothing of anybody", "", do, then)


async def _confirm(places: Places, fields: Fields) -> Plan:
    change, reason, who = await _waiting(places, fields), fields.reason(), fields.text("person")

    async def do(connection: Connection) -> str:
        await changes.confirm(Writing(connection), change.change_id, who)
        return "Confirmed, in force within seconds."

    what = f"Give {change.messenger} {_wanted(change)}."
    return Plan(change.messenger_id, what, 1, f"request, made with the key {change.requested_by}", reason, do, warning=ASK_FIRST)


async def _refuse(places: Places, fields: Fields) -> Plan:
    change, reason, who = await _waiting(places, fields), fields.reason(), fields.text("person")

    async def do(connection: Connection) -> str:
        await changes.refuse(Writing(connection), change.change_id, reason, who)
        return "Refused: nothing changes, and the messenger is told why."

    what = f"Refuse {change.messenger} {_wanted(change)}."
    warning = "If its people know nothing of it, revoke the key that asked: registryd messenger revoke-key."
    return Plan(change.messenger_id, what, 1, f"request, made with the key {change.requested_by}", reason, do, warning=warning)


DECISIONS = (
    Deed("test_change", "Try the endpoint that is asked for", ("change",), _test),
    Deed("confirm_change", "Confirm a request", ("change", "reason"), _confirm),
    Deed("refuse_change", "Refuse a request", ("change", "reason"), _refuse),
)
