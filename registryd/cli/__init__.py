"""The commands. No SQL and no rules here: a command reads its words, calls the part that knows, and shows what came of it."""

from __future__ import annotations

import os
from pathlib import Path

import click

from registryd import config
from registryd.cli import audit, breakglass, client, contracts, listen, messenger, notifications, policy, ranges, service
from registryd.cli.running import Context


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    help="registryd.toml; default $REGISTRYD_CONFIG, then /etc/registryd/registryd.toml.",
)
@click.version_option(package_name="registryd")
@click.pass_context
def main(context: click.Context, path: Path | None) -> None:
    """The operator-side subscriber registry daemon: answers presence queries, records bindings, pushes termination notifications.

    Exit codes: 0 done, 1 the work failed, 2 usage, 3 configuration, 4 database away, 5 schema not compatible.
    """
    default = os.environ.get("REGISTRYD_CONFIG")
    context.obj = Context(path or (Path(default) if default else config.DEFAULT_PATH))


for command in (
    service.demo,
    service.serve,
    service.migrate,
    service.check,
    messenger.messenger,
    contracts.contracts,
    ranges.ranges,
    notifications.notifications,
    policy.policy,
    service.report,
    audit.audit,
    breakglass.breakglass,
    listen.listen,
    client.client,
):
    main.add_command(command)
