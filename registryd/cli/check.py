"""`check`: looks at everything that serving needs, before it is needed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
from rich.text import Text

from registryd.cli.checks import CheckResult, database, machine, units
from registryd.cli.running import Context, Exit, command, json_option, pass_context, present
from registryd.config import ConfigError, Settings

COLOURS = {"failed": "red", "warning": "yellow", "ok": "green"}
ROOT = Path("/")


@click.command()
@click.option("--config-only", is_flag=True, help="Look at registryd.toml alone, as a unit does before it reloads.")
@json_option
@pass_context
@command
async def check(context: Context, *, config_only: bool, as_json: bool) -> None:
    """Look at everything `serve` needs: configuration, units, credentials, TLS, database, schema, permissions. Changes nothing."""
    settings = context.settings
    found = [CheckResult("configuration", str(settings.path))]
    if config_only:
        found.append(_looked_at("networks", machine.networks, settings))
    else:
        found += _machine(settings)
        found += await database.look(context)
    lines = (Text.assemble((f"{f.state:<7}", COLOURS[f.state]), f"  {f.check:<14}  {f.detail}") for f in found)
    present(as_json, [{"check": f.check, "state": f.state, "detail": f.detail} for f in found], *lines)
    sys.exit(next((finding.code for finding in found if finding.code), Exit.DONE))


def _machine(settings: Settings) -> list[CheckResult]:
    listens = units.listens(ROOT)
    looks: tuple[tuple[str, Callable[[Settings], str | CheckResult]], ...] = (
        ("units", lambda _: units.look(ROOT)),
        ("credentials", machine.credentials),
        ("TLS", partial(machine.tls, of_units=listens)),
        ("certificates", machine.certificate_ends),
        ("test numbers", machine.numbers_for_tests),
        ("networks", machine.networks),
        ("resolvers", machine.resolvers),
        ("database link", machine.link),
    )
    return [_looked_at(name, look, settings) for name, look in looks]


def _looked_at(name: str, look: Callable[[Settings], str | CheckResult], settings: Settings) -> CheckResult:
    try:
        found = look(settings)
    except ConfigError as error:
        return CheckResult(name, str(error), Exit.CONFIG)
    return found if isinstance(found, CheckResult) else CheckResult(name, found)
