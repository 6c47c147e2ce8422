"""`listen`: a messenger engineer's receiver."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path

import click
import orjson

from registryd.cli.running import Exit, command, err, fail, out
from registryd.delivery import signing
from registryd.delivery.receiver import Receipt, Receiver


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=9000, show_default=True)
@click.option(
    "--secret-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The webhook secret (whsec_…), in a file; else $REGISTRYD_WEBHOOK_SECRET.",
)
@click.option(
    "--status", type=click.IntRange(200, 599), default=204, show_default=True, help="Answer this, to see how failures are retried."
)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON for each notification.")
@command
async def listen(*, host: str, port: int, secret_file: Path | None, status: int, as_json: bool) -> None:
    """Receive notifications, verify their signatures and print them, until Ctrl-C.

    The secret is not an option's value: a process list would show it.
    """
    text = secret_file.read_text("utf-8").strip() if secret_file else os.environ.get("REGISTRYD_WEBHOOK_SECRET", "")
    try:
        secret = signing.from_shown(text)
    except ValueError:
        fail("the webhook secret is not whsec_<base64>: registryd messenger rotate-secret NAME makes one", Exit.USAGE)

    def show(receipt: Receipt) -> None:
        verdict = "verified" if receipt.verified else f"NOT VERIFIED: {receipt.problem}"
        if as_json:
            click.echo(orjson.dumps({"webhookId": receipt.webhook_id, "verified": receipt.verified, "event": receipt.event}))
            return
        out.print(
            f"{datetime.now(UTC):%H:%M:%S} {receipt.webhook_id} {receipt.kind}: {verdict}",
            markup=False,
            style="green" if receipt.verified else "red",
        )
        for notice in receipt.notifications:
            facts = f"ended {notice['terminatedAt']}  generation {notice['generation']}  due {notice['deadlineAt']}"
            out.print(f"         {notice['identificationCode']}  {facts}", markup=False)

    async with Receiver(secret, host, port, status=status, on_receipt=show) as receiver:
        err.print(f"listening on {receiver.url}; Ctrl-C ends")
        await asyncio.Event().wait()
