"""The commands. There is no SQL and no rule here: a command parses its arguments, calls the module that does the work, and shows the
result.

A command's module is imported when the command is named, so that `--help`, completion and small commands start fast.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMMANDS = {
    "demo": ("demo", "A private PostgreSQL, a registry of made-up contracts, the daemon, a receiver, and the whole story."),
    "serve": ("service", "Start every role, and serve until SIGTERM, which drains; SIGHUP goes on to all."),
    "answer": ("service", "Answer messengers: the messenger API."),
    "deliver": ("service", "Deliver notifications: pushes, retries, daily digests."),
    "operate": ("service", "Take contract events, and do the work that is done once for all processes."),
    "migrate": (
        "migrate",
        "Bring the schema to this release, in one transaction: migrations in order, functions and views that changed, grants.",
    ),
    "check": ("check", "Look at everything `serve` needs: configuration, units, credentials, TLS, database, schema, permissions."),
    "status": ("status", "Show what needs a person, and how the service does."),
    "messenger": ("messenger", "Add, change and show messengers, their keys, signing secrets and endpoints."),
    "operator": ("operator", "Make, list, rotate and revoke keys of the operator API."),
    "contracts": ("contracts", "Import billing's contracts in bulk."),
    "feed": ("feed", "Look at billing's feed, say that the registry is complete, and let a known wave of ends through."),
    "ranges": ("ranges", "Import the operator's numbering capacity."),
    "notifications": ("notifications", "Look at notifications, hold them, deliver them again, or deliver them by hand."),
    "secrets": ("secrets", "Change the key under which messengers' signing secrets are sealed."),
    "policy": (
        "policy",
        "Show or change the law as dated data: time limits, who counts as present, what is kept, what looks like a search.",
    ),
    "report": ("report", "Show a view of schema report as a table; without NAME, list them."),
    "audit": ("audit", "Evidence: the journal and the break-glass log are sealed, so that a later change shows."),
    "breakglass": ("breakglass", "What nobody may do alone: look at one number unmasked, undo mistaken ends, withdraw notifications."),
    "listen": (
        "listen",
        "Receive notifications, verify their signatures and print them, until Ctrl-C.",
    ),
    "conformance": (
        "conformance",
        "Run your endpoint at URL through what pushes may bring, in seconds, and say what it must mend.",
    ),
    "client": ("client", "Tools for a messenger's engineers."),
}
"""By name: the module in this package, which holds the command under the same name, and the first sentence of its help."""


JSON = "registryd.json"
"""In a context's meta: whether --json was given, also where the words after it cannot be parsed."""


class Commands(click.Group):
    """The commands of the table."""

    def make_context(self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any) -> click.Context:
        as_json = "--json" in args
        with _usage_errors(as_json):
            context = super().make_context(info_name, args, parent, **extra)
        context.meta[JSON] = as_json
        return context

    def invoke(self, ctx: click.Context) -> Any:
        with _usage_errors(ctx.meta[JSON]):
            return super().invoke(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _with_config_first(args))

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(f"registryd.cli.{COMMANDS[cmd_name][0]}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:  # click knows only commands that are imported, so it finds none that is like it
            raise click.exceptions.NoSuchCommand(error.command_name, possibilities=COMMANDS, ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        named = [CompletionItem(name, help=text) for name, (_, text) in COMMANDS.items() if name.startswith(incomplete)]
        return named + click.Command.shell_complete(self, ctx, incomplete)


@contextmanager
def _usage_errors(as_json: bool) -> Iterator[None]:
    """Tells what click finds wrong with the words as every other error of a command with --json is told (running.fail)."""
    try:
        yield
    except click.ClickException as error:
        if not as_json:
            raise
        import orjson

        click.echo(orjson.dumps({"error": error.format_message(), "exitCode": error.exit_code}), err=True)
        raise click.exceptions.Exit(error.exit_code) from None


def _with_config_first(args: list[str]) -> list[str]:
    """The same words with `--config FILE`, which may stand anywhere, before the command."""
    named: list[str] = []
    rest: list[str] = []
    words = iter(args)
    for word in words:
        if word == "--":
            return [*named, *rest, word, *words]
        if word == "--config":
            named = [word, *itertools.islice(words, 1)]
        elif word.startswith("--config="):
            named = [word]
        else:
            rest.append(word)
    return named if named == ["--config"] else named + rest


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    help="registryd.toml, before the command or after it; default $REGISTRYD_CONFIG, then /etc/registryd/registryd.toml.",
)
@click.version_option(package_name="registryd")
@click.pass_context
def main(context: click.Context, path: Path | None) -> None:
    """The operator-side subscriber registry daemon: answers presence queries, records bindings, pushes termination notifications.

    Exit codes: 0 done, 1 the work failed, 2 usage, 69 database away, 76 schema not compatible, 78 configuration.
    """
    from registryd.cli.running import Context  # with it come the configuration's parser and the terminal, which --help does without

    default = os.environ.get("REGISTRYD_CONFIG")
    context.obj = Context(path or (Path(default) if default else None))
