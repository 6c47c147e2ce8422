"""The commands. No SQL and no rules here: a command reads its words, calls the part that knows, and shows what came of it.

A command's module is imported when the command is named, so that `--help`, completion and small commands start fast.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

import click
from click.shell_completion import CompletionItem

COMMANDS = {
    "demo": ("demo", "A private PostgreSQL, a registry of made-up contracts, the daemon, a receiver, and the whole story."),
    "serve": ("service", "Serve until SIGTERM, which drains; SIGHUP reloads keys, messengers, the TLS certificate and the log level."),
    "migrate": ("migrate", "Bring the schema to this release: migrations in order, each in a transaction, then the reports."),
    "check": ("check", "Look at everything `serve` needs: configuration, credentials, TLS, database, schema, permissions."),
    "messenger": ("messenger", "Messengers: their keys, signing secrets and endpoints."),
    "contracts": ("contracts", "Billing's contracts in bulk."),
    "ranges": ("ranges", "The operator's numbering capacity."),
    "notifications": ("notifications", "What is owed, what was delivered, and the second channel."),
    "secrets": ("secrets", "The key that messengers' signing secrets are sealed under."),
    "policy": (
        "policy",
        "The law as dated data: how soon to answer and to notify, who counts as present.",
    ),
    "report": ("report", "Show a view of schema report as a table; without NAME, list them."),
    "audit": ("audit", "The evidence: sealed as it is written, so that it shows whether it was changed since."),
    "breakglass": ("breakglass", "An unmasked look at one number: for a reason, approved by a second person, logged before it answers."),
    "listen": (
        "listen",
        "Receive notifications, verify their signatures and print them, until Ctrl-C.",
    ),
    "client": ("client", "A messenger engineer's tools."),
}
"""By name: the module in this package, which holds the command under the same name, and the first sentence of its help."""


class Commands(click.Group):
    """The commands of the table."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(f"registryd.cli.{COMMANDS[cmd_name][0]}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        named = [CompletionItem(name, help=text) for name, (_, text) in COMMANDS.items() if name.startswith(incomplete)]
        return named + click.Command.shell_complete(self, ctx, incomplete)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
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
    from registryd.cli.running import Context  # with it come the configuration's parser and the terminal, which --help does without

    default = os.environ.get("REGISTRYD_CONFIG")
    context.obj = Context(path or (Path(default) if default else None))
