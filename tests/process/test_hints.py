"""What the usual mistakes are told: what was meant, and what to type instead."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from registryd.cli import main
from registryd.cli.running import Exit
from tests.conftest import Site
from tests.process.commands import run, told


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command below `command`, with its words."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from commands(found, (*path, name))


def anyhow(*words: str) -> Result:
    return CliRunner().invoke(main, words, catch_exceptions=False)


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        (("notification", "status"), 2, "Did you mean 'notifications'?"),
        (("messenger", "list", "--jsn"), 2, "Did you mean '--json'?"),
        (("messenger", "set", "alpha", "--daily-quota", "minus"), 2, "write a whole number from 0 on"),
        (("messenger", "set", "alpha", "--batch-max", "1001"), 2, "write a whole number from 1 to 1,000"),
        (("notifications", "explain", "123"), 2, "write a notificationId, such as 0192f8a4-"),
        (("audit", "verify", "--from", "yesterday"), 2, "write a day, such as 2026-11-24"),
        (("listen", "--delay", "long"), 2, "write a number from 0 to 60"),
        (("listen",), 2, "no webhook secret is given: put the one that you have from the operator"),
        (("messenger", "list", "--config"), 2, "Option '--config' requires an argument."),
        (("migrate", "--dsn", "postgresql://nobody@127.0.0.1:9/nothing"), Exit.DATABASE_AWAY, "is it running, and is --dsn right?"),
    ],
)
def test_a_mistake_is_told_with_what_was_meant(words: tuple[str, ...], code: int, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REGISTRYD_WEBHOOK_SECRET", raising=False)
    result = anyhow(*words)
    assert (result.exit_code, hint in " ".join(result.stderr.split())) == (code, True), result.stderr


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        (("messenger", "show", "alhpa"), 1, "there is no messenger alhpa; did you mean alpha?"),
        (("messenger", "show", "zzz"), 1, "there is no messenger zzz (registryd messenger list)"),
        (("report", "quota_todya"), 2, "there is no report quota_todya; did you mean quota_today?"),
        (("policy", "set", "notic_within=1 h", "--note", "n"), 2, "the policy has no notic_within; did you mean notice_within? It has "),
        (("policy", "set", "answer_within=20", "--note", "n"), 1, "an interval says its unit, as in '12 hours'"),
    ],
)
def test_a_name_that_is_nearly_right_is_told_the_right_one(site: Site, words: tuple[str, ...], code: int, hint: str) -> None:
    asyncio.run(site.add_messenger("alpha"))
    result = run(site, *words)
    assert (result.exit_code, hint in result.stderr) == (code, True), result.stderr
    as_json = run(site, *words, "--json")
    assert (as_json.exit_code, as_json.stdout) == (code, "")
    assert hint in json.loads(as_json.stderr)["error"]


def test_the_configuration_may_be_named_after_the_command(site: Site) -> None:
    for words in (("messenger", "list", "--config", str(site.path)), ("messenger", f"--config={site.path}", "list", "--json")):
        assert anyhow(*words).exit_code == 0


def test_who_changes_a_messenger_sees_what_it_was_and_how_to_try_it(site: Site) -> None:
    asyncio.run(site.add_messenger("alpha"))
    changed = run(site, "messenger", "set", "alpha", "--endpoint", "http://127.0.0.1:9/x", "--daily-quota", "1000")
    assert changed.stdout.splitlines() == [
        "endpoint: none: it pulls → http://127.0.0.1:9/x",
        "daily quota: none → 1,000",
        "try the new endpoint, in 5 seconds: registryd messenger test alpha",
    ]
    assert run(site, "messenger", "set", "alpha", "--daily-quota", "1000").stdout == "nothing changed: it was so already\n"
    facts = told(site, "messenger", "set", "alpha", "--daily-quota", "0")
    assert (facts["before"]["dailyQuota"], facts["after"]["dailyQuota"]) == (1000, None)


def test_no_option_is_refused_in_the_words_of_our_library() -> None:
    """click would say 'integer range' and 'UUID'."""
    plain = (type(click.STRING), type(click.BOOL), click.Path, click.Choice)
    for path, command in commands(main):
        for parameter in command.params:
            kind = parameter.type
            assert isinstance(kind, plain) or type(kind).__module__ == "registryd.cli.kinds", (path, parameter.name)


def test_a_wrong_configuration_path_is_told(tmp_path: Path) -> None:
    result = anyhow("messenger", "list", "--config", str(tmp_path / "none.toml"))
    assert (result.exit_code, "no such file; name one with --config FILE or $REGISTRYD_CONFIG" in result.stderr) == (Exit.CONFIG, True)
