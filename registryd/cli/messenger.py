"""`messenger add | list | show | rotate-key | rotate-secret | set | suspend | resume | probe | clear-alarm | revoke-key | test`."""

from __future__ import annotations

import re
import sys
from typing import Any

import click
import orjson
from rich.table import Table

from registryd.cli import keys as rotation
from registryd.cli.running import Context, Exit, command, fail, json_option, out, pass_context, present, present_once
from registryd.delivery import signing
from registryd.delivery.egress import Egress
from registryd.domain.errors import NotPushed, TooManyTests
from registryd.store import guard, lanes, messengers, notifications, test_pushes
from registryd.store.messengers import Messenger
from registryd.store.secretbox import signing_box


def _endpoint_options(run: Any) -> Any:
    for option in (
        click.option("--endpoint", help="Where notifications are pushed: an https URL; '' for none (the messenger then pulls)."),
        click.option("--batch-max", type=click.IntRange(1, 1000), help="How many notifications a push may carry; default 1."),
        click.option(
            "--phone-number/--no-phone-number",
            "phone_number",
            default=None,
            help="Whether notifications carry the number (the agreement says so).",
        ),
        click.option("--daily-quota", type=click.IntRange(0), help="Numbers it may ask for a day; 0: no budget."),
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


for made in (rotation.rotate_key, rotation.revoke_key, rotation.rotate_secret):
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
        api_key = await rotation.add_key(connection, messenger_id)
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
    table = Table("name", "id", "state", "endpoint", "batch", "daily quota", "certificates")
    for m in found:
        quota = f"{m.daily_quota:,}" if m.daily_quota else "none"
        table.add_row(
            m.name, str(m.messenger_id), m.state, m.endpoint_url or "pulls", str(m.batch_max), quota, str(len(m.certificate_sha256))
        )
    present(as_json, [_view(m) for m in found], table)


@messenger.command()
@click.argument("name")
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
    view = {
        **_view(found),
        "keys": [key._asdict() for key in known],
        "lane": gate._asdict(),
        "notifications": backlog._asdict(),
        "alarms": [alarm._asdict() for alarm in alarms],
    }
    table = Table(show_header=False, box=None)
    for label, value in view.items():
        if label in ("keys", "alarms"):
            continue
        table.add_row(label, "\n".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else str(value))
    for key in known:
        life = f"made {key.created_at:%F %T}, expires {key.expires_at or 'never'}, revoked {key.revoked_at or 'no'}"
        table.add_row(f"key {key.key_id}", f"{life}, used {key.last_used_at or 'never'}")
    for alarm in alarms:
        table.add_row(f"alarm {alarm.kind}", f"since {alarm.raised_at:%F %T}, until {alarm.ends_at:%F %T}, {alarm.signs} signs")
    present(as_json, view, table)


@messenger.command("set")
@click.argument("name")
@_endpoint_options
@pass_context
@command
async def set_messenger(context: Context, *, name: str, **given: Any) -> None:
    """Change the settings that are named and leave the others. In force within 5 seconds."""
    if all(value is None or value == () for value in given.values()):
        fail("nothing to change: see registryd messenger set --help", Exit.USAGE)
    async with context.database() as db, db.transaction() as connection:
        found = await messengers.named(connection, name)
        await messengers.update(connection, _changed(context, found, given))
    out.print("changed")


@messenger.command()
@click.argument("name")
@pass_context
@command
async def suspend(context: Context, *, name: str) -> None:
    """Refuse the messenger's queries and bindings (403). What it is owed is still delivered, and it may pull."""
    await _set_state(context, name, "suspended")


@messenger.command()
@click.argument("name")
@pass_context
@command
async def resume(context: Context, *, name: str) -> None:
    """Let a suspended messenger ask again, and have a failing endpoint of its probed now."""
    await _set_state(context, name, "active")
    async with context.messenger(name) as (db, found):
        if await lanes.probe(db, found.messenger_id):
            out.print("its endpoint failed, and is probed now")


@messenger.command()
@click.argument("name")
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
@click.argument("name")
@pass_context
@command
async def clear_alarm(context: Context, *, name: str) -> None:
    """End the messenger's enumeration alarms. Within seconds it is answered at full speed again, and judged anew."""
    async with context.messenger(name) as (db, found):
        if not await guard.clear_alarms(db, found.messenger_id):
            fail(f"{name} has no alarm in force: registryd report enumeration_alarm")
    out.print("cleared")


@messenger.command()
@click.argument("name")
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
    if as_json:
        click.echo(orjson.dumps(result._asdict()))
    else:
        out.print(
            f"{'delivered' if result.delivered else 'not delivered'} in {result.latency_ms} ms: {result.error or f'status {result.status}'}"
        )
    if not result.delivered:
        sys.exit(Exit.FAILED)


async def _set_state(context: Context, name: str, state: str) -> None:
    async with context.database() as db, db.transaction() as connection:
        found = await messengers.named(connection, name)
        await messengers.update(connection, found._replace(state=state))
    out.print(state)


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
