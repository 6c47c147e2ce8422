"""What Tab offers: names that the database knows, or nothing."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from registryd.cli import completion, main
from tests.conftest import Site
from tests.process.commands import run, told


def offered(site: Site, *words: str) -> list[str]:
    """For the last of the words."""
    shell = ShellComplete(main, {}, "registryd", "_REGISTRYD_COMPLETE")
    return [item.value for item in shell.get_completions(["--config", str(site.path), *words[:-1]], words[-1])]


def test_names_of_the_registry_are_completed(site: Site) -> None:
    for name in ("alpha", "alp", "beta"):
        asyncio.run(site.add_messenger(name))
    told(site, "operator", "add", "billing", "--scope", "feed")
    for words in (("messenger", "show", "al"), ("notifications", "export", "al"), ("notifications", "hold", "al")):
        assert sorted(offered(site, *words)) == ["alp", "alpha"], words
    assert offered(site, "messenger", "add", "al") == [], "a new name is not there yet"
    assert offered(site, "operator", "rotate-key", "") == ["billing"]
    assert offered(site, "report", "feed_") == ["feed_lag", "feed_status", "feed_waiting"]
    assert offered(site, "policy", "set", "answer_within=1 h", "notice_") == ["notice_within="]
    hint = run(site, "policy", "set", "nonsense=1", "--note", "n").stderr.split("It has ")[1].strip().rstrip(".")
    assert [name.rstrip("=") for name in offered(site, "policy", "set", "")] == hint.split(", ")


@pytest.mark.parametrize("dsn", ["postgresql://nobody@127.0.0.1:9/nothing", "HANGS"])
def test_where_the_database_does_not_answer_nothing_is_offered_and_nothing_said(
    site: Site, dsn: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion, "PATIENCE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        there = f"postgresql://nobody@127.0.0.1:{mute.getsockname()[1]}/nothing"
        text = site.path.read_text().splitlines()
        site.path.write_text("\n".join(f'dsn = "{there if dsn == "HANGS" else dsn}"' if line.startswith("dsn") else line for line in text))
        assert offered(site, "messenger", "show", "al") == []
    site.path.write_text("[nonsense]\n")
    assert offered(site, "messenger", "show", "al") == []
    assert tuple(capfd.readouterr()) == ("", "")


def test_without_a_configuration_commands_are_completed_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRYD_CONFIG", str(tmp_path / "none.toml"))
    shell = ShellComplete(main, {}, "registryd", "_REGISTRYD_COMPLETE")
    assert [item.value for item in shell.get_completions(["messenger"], "rotate")] == ["rotate-key", "rotate-secret"]
    assert shell.get_completions(["messenger", "show"], "a") == []
