"""What a command imports before it works: `--help` and small commands must not pay for the daemon. Modules are counted, not seconds."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.shell_completion import ShellComplete

from registryd.cli import COMMANDS, main

HELP_MAX_MODULES = 150
SMALL = (
    "messenger",
    "operator",
    "contracts",
    "feed",
    "ranges",
    "notifications",
    "policy",
    "report",
    "audit",
    "secrets",
    "breakglass",
    "migrate",
)


def imported(*words: str) -> set[str]:
    """The modules that are there once `registryd WORDS` has ended."""
    script = "import sys\nfrom registryd.cli import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("Usage:"), done.stdout
    return set(done.stderr.split())


def parts(modules: set[str]) -> set[str]:
    """Top-level packages, and of ours the second level: `registryd.store`."""
    return {".".join(name.split(".")[: 2 if name.startswith("registryd.") else 1]) for name in modules}


def test_help_imports_the_commands_table_and_nothing_behind_it() -> None:
    modules = imported("--help")
    assert {name for name in modules if name.startswith("registryd")} == {"registryd", "registryd.cli"}
    assert len(modules) <= HELP_MAX_MODULES
    assert not parts(modules) & {"asyncio", "rich", "msgspec", "aiohttp", "asyncpg", "uvloop", "structlog", "cryptography"}


@pytest.mark.parametrize("name", SMALL)
def test_a_small_command_imports_no_http_and_no_role(name: str) -> None:
    behind = {
        "aiohttp",
        "uvloop",
        "structlog",
        "registryd.http",
        "registryd.presence",
        "registryd.roles",
        "registryd.demo",
        "registryd.console",
        "jinja2",
    }
    assert not parts(imported(name, "--help")) & behind


@pytest.mark.parametrize("words", [("client", "identify"), ("listen",)])
def test_what_a_messengers_engineer_runs_knows_nothing_of_the_database(words: tuple[str, ...]) -> None:
    behind = {"asyncpg", "uvloop", "registryd.store", "registryd.http", "registryd.presence", "registryd.observe"}
    assert not parts(imported(*words, "--help")) & behind


def test_the_commands_table_says_what_each_command_says_of_itself() -> None:
    context = click.Context(main)
    for name, (_, text) in COMMANDS.items():
        command = main.get_command(context, name)
        assert command is not None
        assert command.get_short_help_str(200).rstrip(".") == text.rstrip("."), name


def test_completion_names_the_commands_with_their_help() -> None:
    offered = ShellComplete(main, {}, "registryd", "_REGISTRYD_COMPLETE").get_completions([], "po")
    assert [(item.value, item.help) for item in offered] == [("policy", COMMANDS["policy"][1])]
    assert {item.value for item in ShellComplete(main, {}, "registryd", "_X").get_completions(["policy"], "s")} == {"show", "set"}
