"""`listen`: a messenger engineer's receiver."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import orjson

from registryd.cli import webhook
from registryd.cli.kinds import Decimals, Whole
from registryd.cli.running import command, err, fail, out
from registryd.client.receiver import Ledger, Receipt, Receiver
from registryd.delivery import exported
from registryd.delivery.signing import Key

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=Whole(0, 65535), default=9000, show_default=True)
@webhook.secret_file_option("whsec_… or whpk_…")
@click.option("--status", type=Whole(200, 599), default=204, show_default=True, help="Answer this, to see how failures are retried.")
@click.option("--delay", type=Decimals(0, 60), default=0, help="Take so many seconds to answer.")
@click.option("--fail-every", type=Whole(0), default=0, help="Answer 503 to every Nth push.")
@click.option("--drop-every", type=Whole(0), default=0, help="Close the connection on every Nth push without an answer.")
@click.option("--verify", "file", type=_FILE, help="Verify and print a file of notices that came by hand, and end.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON for each push.")
@command
async def listen(
    *,
    host: str,
    port: int,
    secret_file: Path | None,
    status: int,
    delay: float,
    fail_every: int,
    drop_every: int,
    file: Path | None,
    as_json: bool,
) -> None:
    """Receive notifications, verify their signatures and print them, until Ctrl-C. Compares each daily digest with what came.

    The secret is not an option's value: a process list would show it.
    """
    key = webhook.key(secret_file)
    if file is not None:
        _verify(file, key, as_json)
        return
    ledger, started = Ledger(), datetime.now(UTC)

    def show(receipt: Receipt) -> None:
        now = datetime.now(UTC)
        ledger.note(receipt, now)
        is_complete = ledger.agrees(receipt.event["data"]) if receipt.verified and receipt.kind == "notifications.digest" else None
        if as_json:
            line = {"webhookId": receipt.webhook_id, "verified": receipt.verified, "answered": receipt.status, "event": receipt.event}
            click.echo(orjson.dumps(line if is_complete is None else {**line, "complete": is_complete}))
            return
        verdict = "verified" if receipt.verified else f"NOT VERIFIED: {receipt.problem}"
        answered = "" if 200 <= receipt.status < 300 else f"; answered {receipt.status or 'nothing'}"
        out.print(
            f"{now:%H:%M:%S} {receipt.webhook_id} {receipt.kind}: {verdict}{answered}",
            markup=False,
            soft_wrap=True,
            style="green" if receipt.verified else "red",
        )
        _print_notices(receipt.notifications)
        if is_complete is not None:
            data = receipt.event["data"]
            came = f"{ledger.received_on(datetime.fromisoformat(data['day']).date())} came here since {started:%F %T}Z"
            said = f"{data['day']}: {data['count']} delivered, {came}: {'complete' if is_complete else 'NOT THE SAME'}"
            out.print(f"         {said}", markup=False, soft_wrap=True, style="green" if is_complete else "red")

    options = {"status": status, "delay_s": delay, "fail_every": fail_every, "drop_every": drop_every}
    async with Receiver(key, host, port, **options, on_receipt=show) as receiver:  # type: ignore[arg-type] # each as declared
        err.print(f"listening on {receiver.url}; Ctrl-C ends")
        await asyncio.Event().wait()


def _verify(file: Path, key: Key, as_json: bool) -> None:
    """Prints what a file holds as far as it is authentic."""
    count = 0
    try:
        for line in exported.verify(file, key):
            notices = line.event["data"]["notifications"]
            count += len(notices)
            if as_json:
                click.echo(orjson.dumps({"webhookId": line.message_id, "verified": True, "event": line.event}))
            else:
                _print_notices(notices)
    except exported.BadFile as error:
        fail(f"{file}: NOT VERIFIED: {error}")
    err.print(f"{count:,} notices, verified and complete", style="green")


def _print_notices(notices: list[dict[str, Any]]) -> None:
    for notice in notices:
        what = f"reinstated {notice['reinstatedAt']}" if "reinstatedAt" in notice else f"ended {notice['terminatedAt']}"
        facts = f"{what}  generation {notice['generation']}  due {notice['deadlineAt']}"
        out.print(f"         {notice['identificationCode']}  {facts}", markup=False, soft_wrap=True)
