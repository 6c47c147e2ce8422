"""`messenger rotate-key | revoke-key | rotate-secret`."""

from __future__ import annotations

from datetime import timedelta

import click

from registryd.cli.completion import messenger_name
from registryd.cli.printing import words
from registryd.cli.running import Context, command, err, fail, json_option, overlap_option, pass_context, present, present_once
from registryd.delivery import signing
from registryd.domain.errors import TwoLiveKeys
from registryd.store import messengers, rotation
from registryd.store.secretbox import signing_box


@click.command("rotate-key")
@messenger_name()
@overlap_option
@json_option
@pass_context
@command
async def rotate_key(context: Context, *, name: str, overlap_hours: float, as_json: bool) -> None:
    """Make a new API key and print it once. The former keys end after the overlap."""
    async with context.database() as db, db.transaction() as connection:
        found = await messengers.named(connection, name)
        try:
            rotated = await rotation.rotate(connection, found.messenger_id, timedelta(hours=overlap_hours))
        except TwoLiveKeys:
            fail(f"{name} has two live keys already (registryd messenger show {name}): registryd messenger revoke-key {name} KEY_ID")
        present_once(as_json, {"name": name, "apiKey": rotated.key.shown, "formerKeysEndIn": timedelta(hours=overlap_hours)})


@click.command("revoke-key")
@messenger_name()
@click.argument("key_id")
@json_option
@pass_context
@command
async def revoke_key(context: Context, *, name: str, key_id: str, as_json: bool) -> None:
    """Revoke one key now: refused everywhere within 5 seconds. KEY_ID is the middle of rk_<keyId>_<secret>.

    Whoever had a key that leaked may have made another with it, so the keys that are still live are shown.
    """
    async with context.database() as db, db.transaction() as connection:
        found = await messengers.named(connection, name)
        known = await messengers.read_keys(connection, found.messenger_id)
        if key_id not in {key.key_id for key in known} or not await messengers.revoke_key(connection, key_id):
            fail(f"{name} has no key of that id that is not revoked: registryd messenger show {name}")
        others = await messengers.read_live_keys(connection, found.messenger_id)
    hints = [f"still live: {key.key_id}, made {words(key.created_at)}; if the other leaked, ask {name} whose this one is" for key in others]
    facts = {"name": name, "keyId": key_id, "revoked": True, "otherLiveKeys": others}
    present(as_json, facts, f"the key {key_id} of {name} is revoked", *hints)


@click.command("rotate-secret")
@messenger_name()
@click.option("--ed25519", is_flag=True, help="An ed25519 pair (v1a) instead of an HMAC secret (v1).")
@overlap_option
@json_option
@pass_context
@command
async def rotate_secret(context: Context, *, name: str, ed25519: bool, overlap_hours: float, as_json: bool) -> None:
    """Make a new signing secret and print it once (of a key pair, the public key). Each push is signed with every live secret."""
    if ed25519:
        err.print("libraries of Standard Webhooks verify v1 alone, not v1a: registryd/http/README.md has verifiers for it", style="yellow")
    box = signing_box(context.settings.credentials)
    secret = signing.new_secret("ed25519" if ed25519 else "hmac_sha256")
    async with context.database() as db, db.transaction() as connection:
        found = await messengers.named(connection, name)
        await messengers.expire_secrets(connection, found.messenger_id, secret.kind, timedelta(hours=overlap_hours))
        await messengers.add_secret(connection, box, found.messenger_id, secret)
        present_once(as_json, {"name": name, "webhookSecret": signing.shown(secret), "formerSecretsEndIn": timedelta(hours=overlap_hours)})
