"""`conformance`: what a messenger's endpoint must mend before the registry pushes to it."""

from __future__ import annotations

from pathlib import Path

import click

from registryd.cli import tls, webhook
from registryd.cli.kinds import Whole
from registryd.cli.printing import Table
from registryd.cli.running import Exit, command, fail, json_option, present
from registryd.client.conformance import Check, Verdict, conform
from registryd.delivery.egress import Egress

_STYLES = {Verdict.HELD: "green", Verdict.MEND: "red", Verdict.ADVICE: "yellow", Verdict.UNTRIED: "dim"}
EVERYWHERE = ("0.0.0.0/0", "::/0")
"""Here the endpoint's own engineers say where it is; the registry's pushes go to public addresses."""
UNSEEN = (
    "No request can show whether a notice is stored before it is answered, whether a repeat is known by its notificationId or "
    "reinstatementId, and whether you pull while your endpoint is down: look at these yourself."
)


@click.command()
@click.argument("url")
@webhook.secret_file_option("whsec_…, or whsk_…, the private half of a pair of yours")
@click.option(
    "--batch-max",
    type=Whole(1, 1000),
    default=1000,
    show_default=True,
    help="How many notices the operator may push at once, as agreed.",
)
@tls.tls_options("your endpoint")
@json_option
@command
async def conformance(
    *, url: str, secret_file: Path | None, batch_max: int, ca: Path | None, certificate: Path | None, key: Path | None, as_json: bool
) -> None:
    """Run your endpoint at URL through what pushes may bring, in seconds, and say what it must mend. It needs no registry.

    It sends signed notices of made-up codes: genuine ones, repeated, in a batch, out of order, of other types; and forged ones. Let the
    endpoint take the secret that you give here. The secret is not an option's value: a process list would show it. Exit code 1 where
    something must be mended.
    """
    secret = webhook.signing_secret(secret_file)
    try:
        Egress(EVERYWHERE, allow_http=True).check_url(url)
    except ValueError as error:
        fail(str(error), Exit.USAGE)
    context = tls.context(url, "URL", "a notice holds a user's identification code, which whoever listens would read", ca, certificate, key)
    checks = await conform(url, context, secret, batch_max=batch_max)
    wrong = [check for check in checks if check.verdict is Verdict.MEND]
    present(as_json, _facts(url, checks), _table(checks), *_advice(checks))
    if wrong:
        fail(f"{len(wrong)} of {len(checks)} must be mended: {', '.join(check.name for check in wrong)}")


def _facts(url: str, checks: list[Check]) -> dict[str, object]:
    shown = [{"check": c.name, "law": c.law, "verdict": c.verdict, "seen": c.seen, "mend": c.mend or None} for c in checks]
    return {"url": url, "conforms": all(check.verdict is not Verdict.MEND for check in checks), "checks": shown}


def _table(checks: list[Check]) -> Table:
    table = Table("check", "verdict", "what must hold", "seen")
    for check in checks:
        if check.verdict is Verdict.UNTRIED and check.seen == "":
            continue
        table.add(check.name, check.verdict, check.law, check.seen, style=_STYLES[check.verdict])
    return table


def _advice(checks: list[Check]) -> list[str]:
    untried = sum(check.verdict is Verdict.UNTRIED and not check.seen for check in checks)
    told = [f"{check.name}: {check.mend}" for check in checks if check.mend]
    return [*told, f"{untried} further checks wait until a genuine push is taken."] if untried else [*told, UNSEEN]
