"""What a person can do in the console. Each deed reads its form, says what it would do and to how many, and does it as the command does.

A deed changes nothing while it is planned. What it does, it does in the transaction in which the log tells of it.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from registryd.console.decisions import DECISIONS, pushed
from registryd.console.forms import Fields, NotDone
from registryd.console.plans import Deed, Places, Plan
from registryd.store import backlogs, feed, guard, holds, messengers, replays, test_pushes
from registryd.store.messengers import Messenger
from registryd.store.pool import Connection
from registryd.store.reading import Writing, reading
from registryd.store.replays import EVER, Choice

COUNT_S = 20.0
RELEASE_S = 20.0
"""How long a wave is released for in one go; the rest stays held for the next."""


def _whose(messenger: Messenger | None) -> str:
    return messenger.name if messenger else "everybody"


async def _owed(places: Places, messenger: Messenger | None) -> int:
    async with reading(places.looks) as moment:
        found = await backlogs.read(moment)
    return sum(b.pending for b in found if messenger is None or b.messenger_id == messenger.messenger_id)


async def _hold(places: Places, fields: Fields) -> Plan:
    async with places.db.connection() as connection:
        messenger = await fields.messenger_or_all(connection)
    reason, who = fields.reason(), fields.text("person")
    messenger_id = messenger.messenger_id if messenger else None

    async def do(connection: Connection) -> str:
        if not await holds.hold(Writing(connection), messenger_id, reason, who):
            raise NotDone("They are held already.")
        return "Held: no new push begins, and pull answers 503."

    warning = "Deadlines run on while they are held, and nothing releases them but a person."
    counted = await _owed(places, messenger)
    what = f"Hold the notifications of {_whose(messenger)}."
    return Plan(messenger_id, what, counted, "notifications are owed now", reason, do, is_bound=False, warning=warning)


async def _release(places: Places, fields: Fields) -> Plan:
    async with places.db.connection() as connection:
        messenger = await fields.messenger_or_all(connection)
    reason, who = fields.reason(), fields.text("person")
    messenger_id = messenger.messenger_id if messenger else None
    if not any(held.messenger_id == messenger_id for held in await holds.in_force(places.db)):
        raise NotDone("Nothing of theirs is held by hand: see Backlog for what is.")

    async def do(connection: Connection) -> str:
        if not await holds.release(Writing(connection), messenger_id, reason, who):
            raise NotDone("They were released meanwhile.")
        return "Released: pushes begin at once."

    counted = await _owed(places, messenger)
    what = f"Release the notifications of {_whose(messenger)}, which are held by hand."
    return Plan(messenger_id, what, counted, "notifications are owed now", reason, do, is_bound=False)


async def _release_wave(places: Places, fields: Fields) -> Plan:
    wave_id = fields.whole("wave", 1, 10**12)
    reason, who = fields.reason(), fields.text("person")
    wave = next((wave for wave in await holds.waves(places.db) if wave.wave_id == wave_id and wave.held), None)
    if wave is None:
        raise NotDone("There is no wave of that number that holds anything: see Backlog.")

    async def do(connection: Connection) -> None:
        released.append(await holds.release_wave(connection, wave_id, reason, who))

    async def then() -> str:
        ends = datetime.now(UTC) + timedelta(seconds=RELEASE_S)
        async with places.bulk() as connection:
            while released[-1] and datetime.now(UTC) < ends:
                released.append(await holds.release_wave(connection, wave_id, reason, who))
        rest = "" if not released[-1] else " More are held still: release the wave again."
        return f"Released {sum(released):,} notifications.{rest}"

    released: list[int] = []
    warning = "A notification that was sent cannot be called back. If the ends were a mistake, two persons undo them: registryd breakglass."
    what = f"Release wave {wave_id} of {wave.ends:,} ends by {wave.ended_by}."
    return Plan(None, what, wave.held, "notifications are held in it", reason, do, then, is_bulk=True, warning=warning)


async def _test_push(places: Places, fields: Fields) -> Plan:
    async with places.db.connection() as connection:
        messenger = await fields.messenger(connection)
    if messenger.endpoint_url is None:
        raise NotDone("It has no endpoint: it pulls its notifications.")

    async def do(connection: Connection) -> None:
        asked.append(await test_pushes.ask(connection, messenger.messenger_id))

    async def then() -> str:
        return await pushed(places, asked[0])

    asked: list[int] = []
    what = f"Push a test event to {messenger.name}."
    return Plan(messenger.messenger_id, what, 1, "signed test event, which tells nothing of anybody", "", do, then)


async def _replay(places: Places, fields: Fields) -> Plan:
    async with places.db.connection() as connection:
        messenger = await fields.messenger(connection)
    one, since = fields.uuid("id"), fields.time("since")
    until = fields.time("until") or datetime.now(UTC).replace(microsecond=0)
    per_second, reason = fields.whole("per_second", 1, 10_000), fields.reason()
    if (one is None) == (since is None):
        raise NotDone("Say either since when, or the id of one notification.")
    choice = Choice(messenger.messenger_id, since or EVER, datetime.now(UTC) if one else until, [one] if one else None)
    try:
        async with asyncio.timeout(COUNT_S), places.bulk() as own:
            counted = await replays.count(own, choice)
    except TimeoutError:
        raise NotDone("That is too much to count here: use the command, registryd notifications replay.") from None
    if not counted:
        raise NotDone("Nothing was delivered to it then, or it is no longer kept: a replay repeats what was delivered.")

    async def do(connection: Connection) -> str:
        asked = await replays.ask(connection, choice, per_second)
        return f"{asked:,} will be delivered again, {per_second} a second at most, once nothing else is due."

    which = "one notification" if one else f"what was delivered from {since:%F %H:%M} to {until:%F %H:%M} UTC"
    what = f"Deliver again to {messenger.name} {which}, {per_second} a second at most."
    keeps = {} if one else {"until": f"{until:%Y-%m-%dT%H:%M:%S}"}
    return Plan(messenger.messenger_id, what, counted, "notifications would be delivered again", reason, do, is_bulk=True, keeps=keeps)


async def _clear_alarm(places: Places, fields: Fields) -> Plan:
    async with places.db.connection() as connection:
        messenger = await fields.messenger(connection)
    reason = fields.reason()
    alarms = await guard.find_alarms(places.db, messenger.messenger_id)
    if not alarms:
        raise NotDone("No alarm of it is in force.")

    async def do(connection: Connection) -> str:
        cleared = await guard.clear_alarms(Writing(connection), messenger.messenger_id)
        if not cleared:
            raise NotDone("No alarm of it is in force any more.")
        return f"Cleared {cleared}: it is answered at full speed within seconds, and judged anew."

    what = f"Clear the alarms of {messenger.name}: {', '.join(sorted({alarm.kind for alarm in alarms}))}."
    warning = "Ask it first why its queries looked like a search."
    return Plan(messenger.messenger_id, what, len(alarms), "alarms are in force", reason, do, warning=warning)


async def _set_quota(places: Places, fields: Fields) -> Plan:
    async with places.db.connection() as connection:
        messenger = await fields.messenger(connection)
    quota = fields.whole("quota", 0, 10**12) or None
    reason = fields.reason()
    former = messenger.daily_quota
    if quota == former:
        raise NotDone("That is what it has now.")

    async def do(connection: Connection) -> str:
        if not await messengers.set_quota(connection, messenger.messenger_id, former, quota):
            raise NotDone("It was changed meanwhile.")
        return "Changed, in force within 5 seconds."

    shown = [f"{value:,} numbers" if value else "no quota" for value in (former, quota)]
    what = f"Change the daily quota of {messenger.name} from {shown[0]} to {shown[1]}."
    return Plan(messenger.messenger_id, what, quota or 0, "numbers a day from then on; 0 is no quota", reason, do)


async def _allow_ends(places: Places, fields: Fields) -> Plan:
    ends, until, reason, who = fields.whole("ends", 1, 10**9), fields.time("until"), fields.reason(), fields.text("person")
    if until is None:
        raise NotDone("Until when? Name when the wave will be over.")
    async with places.db.connection() as connection:
        now = await feed.read_status(connection)
    if not now.now < until <= now.now + timedelta(days=7):
        raise NotDone("The wave must be over in the future, and within a week.")

    async def do(connection: Connection) -> str:
        made = await feed.allow_ends(connection, ends, until, reason, who)
        return f"Allowance {made.allowance_id} was made."

    what = f"Let {ends:,} ends through beyond the bound until {until:%F %H:%M} UTC."
    bound = f"By the law's bound {now.ends_left:,} may end now."
    return Plan(None, what, ends, "contracts may end beyond the bound, by whatever path", reason, do, warning=bound)


DEEDS = {
    deed.kind: deed
    for deed in (
        Deed("hold", "Hold notifications", ("messenger_or_all", "reason"), _hold),
        Deed("release", "Release what is held by hand", ("messenger_or_all", "reason"), _release),
        Deed("release_wave", "Release a held wave", ("wave", "reason"), _release_wave),
        Deed("test_push", "Test push", ("messenger",), _test_push),
        Deed("replay", "Deliver again", ("messenger", "since", "until", "id", "per_second", "reason"), _replay),
        Deed("clear_alarm", "Clear alarms", ("messenger", "reason"), _clear_alarm),
        Deed("set_quota", "Change a daily quota", ("messenger", "quota", "reason"), _set_quota),
        Deed("allow_ends", "Let a known wave of ends through", ("ends", "until", "reason"), _allow_ends),
        *DECISIONS,
    )
}
