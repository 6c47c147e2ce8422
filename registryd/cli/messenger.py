"""`messenger add | list | show | rotate-key | rotate-secret | set | suspend | resume | probe | clear-alarm | revoke-key | test`."""

from __future__ import annotations

import re
import sys
from typing import Any

import click

from registryd.cli import keys
from registryd.cli.changes import changes
from registryd.cli.completion import messenger_name
from registryd.cli.kinds import Whole
from registryd.cli.printing import Record, Table, words
from registryd.cli.running import Context, Exit, command, fail, json_option, pass_context, present, present_once
from registryd.delivery import signing
from registryd.delivery.egress import Egress
from registryd.domain.errors import NotPushed, TooManyTests
from registryd.store import guard, lanes, messengers, notifications, rotation, test_pushes
from registryd.store.messengers import Messenger
from registryd.store.secretbox import signing_box


def _endpoint_options(run: Any) -> Any:
    for option in (
        click.option("--endpoint", help="Where notifications are pushed: an https URL; '' for none (the messenger then pulls)."),
        click.option("--batch-max", type=Whole(1, 1000), help="How many notifications a push may carry; default 1."),
        click.option(
            "--phone-number/--no-phone-number",
            "phone_number",
            default=None,
            help="Whether notifications carry the number (the agreement says so).",
        ),
        click.option("--daily-quota", type=Whole(0), help="Numbers it may ask for a day; 0: no quota."),
        click.option(
            "--certificate",
            "certificates",
            multiple=True,
            help="SHA-256 of a client certificate it must present, in hex; repeatable; '' for none.",
        ),
    ):
        run = option(run)
    return run


@click.group()
def messenger() -> None:
    """Add, change and show messengers, their keys, signing secrets and endpoints."""


for made in (keys.rotate_key, keys.revoke_key, keys.rotate_secret, changes):
    messenger.add_command(made)


@messenger.command()
@click.argument("name")
@_endpoint_options
@click.option("--agreement", help="Number and date of the identification agreement.")
@click.option("--register-no", help="Number in the regulator's register.")
@json_option
@pass_context
@command
async def add(context: Context, *, name: str, agreement: str | None, register_no: str | None, as_json: bool, **given: Any) -> None:
    """Add a messenger. Its API key and webhook secret are printed now and never again."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", name):
        fail("a messenger's name is 1 to 63 of a-z, 0-9, dot, underscore and hyphen", Exit.USAGE)
    wanted = _changed(context, Messenger(0, name, "active", None, 1, False, None, []), given)  # type: ignore[arg-type] # not numbered yet
    box = signing_box(context.settings.credentials)
    async with context.database() as db, db.transaction() as connection:
        if await messengers.find(connection, name) is not None:
            fail(f"there is a messenger {name} already: registryd messenger show {name}")
        messenger_id = await messengers.add(connection, wanted, agreement, register_no)
        api_key = (await rotation.add(connection, messenger_id)).shown
        secret = signing.new_secret()
        await messengers.add_secret(connection, box, messenger_id, secret)
        present_once(as_json, {"messengerId": messenger_id, "name": name, "apiKey": api_key, "webhookSecret": signing.shown(secret)})


@messenger.command("list")
@json_option
@pass_context
@command
async def list_messengers(context: Context, *, as_json: bool) -> None:
    """List the messengers."""
    async with context.database() as db, db.connection() as connection:
        found = await messengers.read_all(connection)
        uses = await messengers.read_key_uses(connection)
    table = Table("name", "id", "state", "endpoint", "batch", "daily quota", "certificates", "keys end", "last used")
    for m in found:
        facts = (m.name, str(m.messenger_id), m.state, m.endpoint_url or "pulls", m.batch_max, m.daily_quota or "none")
        use = uses[m.name]
        table.add(*facts, len(m.certificate_sha256), use.keys_expire_at or "never", use.last_used_at or "never")
    shown = [{**_view(m), "keysExpireAt": uses[m.name].keys_expire_at, "lastUsedAt": uses[m.name].last_used_at} for m in found]
    present(as_json, shown, table)


@messenger.command()
@messenger_name()
@json_option
@pass_context
@command
async def show(context: Context, *, name: str, as_json: bool) -> None:
    """Show one messenger: settings, keys, lane, backlog and enumeration alarms in force."""
    async with context.messenger(name) as (db, found):
        async with db.connection() as connection:
            known = await messengers.read_keys(connection, found.messenger_id)
        gate = await lanes.find(db, found.messenger_id)
        backlog = await notifications.count_pending(db, found.messenger_id)
        alarms = await guard.find_alarms(db, found.messenger_id)
    facts = {**_view(found), "keys": known, "lane": gate, "notifications": backlog, "alarms": alarms}
    shown = Record(
        {
            **_words(found),
            "endpoint's last error": gate.last_error,
            "probed next": gate.gate_until,
            "pending notifications": backlog.pending,
            "earliest deadline": backlog.oldest_deadline_at,
        }
    )
    keys = Table("key", "made", "expires", "revoked", "used", title="keys")
    for key in known:
        keys.add(key.key_id, key.created_at, key.expires_at or "never", key.revoked_at or "no", key.last_used_at or "never")
    raised = Table("alarm", "since", "until", "signs", title="alarms in force")
    for alarm in alarms:
        raised.add(alarm.kind, alarm.raised_at, alarm.ends_at, alarm.signs, style="red")
    present(as_json, facts, shown, *(table for table in (keys, raised) if table.rows))


@messenger.command("set")
@messenger_name()
@_endpoint_options
@json_option
@pass_context
@command
async def set_messenger(context: Context, *, name: str, as_json: bool, **given: Any) -> None:
    """Change the settings that are named and leave the others. In force within 5 seconds."""
    if all(value is None or value == () for value in given.values()):
        fail("nothing to change: see registryd messenger set --help", Exit.USAGE)
    async with context.database() as db, db.transaction() as connection:
        found = await messengers.named_for_update(connection, name)
        wanted = _changed(context, found, given)
        await messengers.update(connection, wanted)
    before, after = _words(found), _words(wanted)
    changes = [f"{label}: {words(before[label])} → {words(value)}" for label, value in after.items() if value != before[label]]
    hints = []
    if wanted.endpoint_url is not None and wanted.endpoint_url != found.endpoint_url:
        hints.append(f"try the new endpoint, in 5 seconds: registryd messenger test {name}")
    present(as_json, {"before": _view(found), "after": _view(wanted)}, *(changes or ["nothing changed: it was so already"]), *hints)


@messenger.command()
@messenger_name()
@json_option
@pass_context
@command
async def suspend(context: Context, *, name: str, as_json: bool) -> None:
    """Refuse the messenger's queries and bindings (403). What it is owed is still delivered, and it may pull."""
    was = await _set_state(context, name, "suspended")
    present(as_json, {"messenger": name, "state": "suspended", "was": was}, f"state: {was} → suspended")


@messenger.command()
@messenger_name()
@json_option
@pass_context
@command
async def resume(context: Context, *, name: str, as_json: bool) -> None:
    """Let a suspended messenger ask again, and have a failing endpoint of its probed now."""
    was = await _set_state(context, name, "active")
    async with context.messenger(name) as (db, found):
        was_failing = await lanes.probe(db, found.messenger_id)
    probed = ["its endpoint failed, and is probed now"] if was_failing else []
    facts = {"messenger": name, "state": "active", "was": was, "wasFailing": was_failing}
    present(as_json, facts, f"state: {was} → active", *probed)


@messenger.command()
@messenger_name()
@json_option
@pass_context
@command
async def probe(context: Context, *, name: str, as_json: bool) -> None:
    """Push now what waits for a later attempt: the messenger has mended its endpoint, or what it refused.

    A failing endpoint is probed at once, and comes back through one notification. A hold is not lifted: registryd notifications release.
    """
    async with context.messenger(name) as (db, found):
        if found.endpoint_url is None:
            fail(f"{name} has no endpoint: registryd messenger set {name} --endpoint URL")
        made = await notifications.make_due(db, found.messenger_id)
        was_failing = await lanes.probe(db, found.messenger_id)
    lane = "its endpoint failed, and is probed now" if was_failing else "its endpoint works"
    facts = {"messenger": name, "wasFailing": was_failing, "madeDue": made}
    present(as_json, facts, f"{lane}; notifications that waited for a later attempt and are due now: {made:,}")


@messenger.command("clear-alarm")
@messenger_name()
@json_option
@pass_context
@command
async def clear_alarm(context: Context, *, name: str, as_json: bool) -> None:
    """End the messenger's enumeration alarms. Within seconds it is answered at full speed again, and judged anew."""
    async with context.messenger(name) as (db, found):
        alarms = await guard.find_alarms(db, found.messenger_id)
        if not await guard.clear_alarms(db, found.messenger_id):
            fail(f"{name} has no alarm in force: registryd report enumeration_alarm")
    present(as_json, {"messenger": name, "cleared": alarms}, f"cleared: {words([alarm.kind for alarm in alarms])}")


@messenger.command()
@messenger_name()
@json_option
@pass_context
@command
async def test(context: Context, *, name: str, as_json: bool) -> None:
    """Have a deliver process push one signed endpoint.test now; waits for it, 15 s at most."""
    async with context.messenger(name) as (db, found):
        if found.endpoint_url is None:
            fail(f"{name} has no endpoint: registryd messenger set {name} --endpoint URL")
        try:
            result = await test_pushes.run(db, found.messenger_id)
        except TooManyTests as error:
            fail(str(error))
        except NotPushed as error:
            fail(f"{error} Is registryd-deliver running?")
    verdict = "delivered" if result.delivered else "not delivered"
    present(as_json, result, f"{verdict} in {result.latency_ms} ms: {result.error or f'status {result.status}'}")
    if not result.delivered:
        sys.exit(Exit.FAILED)


async def _set_state(context: Context, name: str, state: str) -> str:
    """Returns the state that it had."""
    async with context.database() as db, db.transaction() as connection:
        found = await messengers.named_for_update(connection, name)
        await messengers.update(connection, found._replace(state=state))
    return found.state


def _changed(context: Context, found: Messenger, given: dict[str, Any]) -> Messenger:
    """`found` with the values of the options."""
    changes: dict[str, Any] = {}
    if given["endpoint"] is not None:
        try:
            changes["endpoint_url"] = Egress.of(context.settings.file.delivery).endpoint(given["endpoint"]) if given["endpoint"] else None
        except ValueError as error:
            fail(str(error), Exit.USAGE)
    if given["batch_max"] is not None:
        changes["batch_max"] = given["batch_max"]
    if given["phone_number"] is not None:
        changes["includes_phone_number"] = given["phone_number"]
    if given["daily_quota"] is not None:
        changes["daily_quota"] = given["daily_quota"] or None
    if given["certificates"]:
        texts = [text.replace(":", "") for text in given["certificates"] if text]
        if not all(re.fullmatch(r"[0-9a-fA-F]{64}", text) for text in texts):
            fail("--certificate is a SHA-256: 64 hexadecimal digits (openssl x509 -noout -fingerprint -sha256)", Exit.USAGE)
        changes["certificate_sha256"] = [bytes.fromhex(text) for text in texts]
    return found._replace(**changes)


def _view(found: Messenger) -> dict[str, object]:
    return {
        "messengerId": found.messenger_id,
        "name": found.name,
        "state": found.state,
        "endpoint": found.endpoint_url,
        "batchMax": found.batch_max,
        "includesPhoneNumber": found.includes_phone_number,
        "dailyQuota": found.daily_quota,
        "certificates": [digest.hex() for digest in found.certificate_sha256],
    }


def _words(found: Messenger) -> dict[str, object]:
    """The same for people."""
    return {
        "messenger": found.name,
        "id": str(found.messenger_id),
        "state": found.state,
        "endpoint": found.endpoint_url or "none: it pulls",
        "batch max": found.batch_max,
        "phone number": found.includes_phone_number,
        "daily quota": found.daily_quota or "none",
        "certificates": [digest.hex() for digest in found.certificate_sha256] or "none",
    }
