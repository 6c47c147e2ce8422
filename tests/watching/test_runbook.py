"""The runbook: a section for each alert, a row for each log event, and nothing in it that does not exist."""

from __future__ import annotations

import ast
import asyncio
import re
import shlex
from typing import get_args

import click
import pytest

from registryd import resources
from registryd.cli import main
from registryd.console import pages
from registryd.loglines import LogEvent
from tests.conftest import TestDatabase
from tests.watching.conftest import Exposed
from tests.watching.test_rules import ALERTS

TEXT = resources.path("systemd/RUNBOOK.md").read_text()
SECTIONS = {part.splitlines()[0]: part for part in re.split(r"(?m)^#{2,3} ", TEXT)[1:]}
CODE = [*re.findall(r"`([^`\n]+)`", TEXT), *"\n".join(re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)).splitlines()]
COMMANDS = sorted({code.partition("#")[0].strip() for code in CODE if code.startswith("registryd ") and not code.endswith(" serve")})
STATEMENTS = sorted({code for code in CODE if code.startswith("SELECT ")})
PARTS = ("Means", "Look", "First", "Do not", "Over")
NOT_METRICS = re.compile(r"registryd_(app|report|breakglass|approver|owner)\b")


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_section_that_says_what_to_do(alert: str) -> None:
    assert [part for part in PARTS if f"**{part}" not in SECTIONS[alert]] == []


def test_no_section_is_of_an_alert_that_there_is_not() -> None:
    assert {name for name in SECTIONS if name.startswith("Registryd")} == set(ALERTS)


def rows() -> dict[str, tuple[set[str], set[str]]]:
    """The levels and fields of each event, as the table has them."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    for line in SECTIONS["Log events"].splitlines():
        if line.startswith("| `"):
            names, levels, fields, asks = (cell.strip() for cell in line.strip("|").split("|"))
            assert asks, line
            found |= {name: (set(levels.split(", ")), set(fields.split(", "))) for name in names.split("`")[1::2]}
    return found


def told() -> list[tuple[str, set[str], set[str]]]:
    """Each place where the program logs: the event, its levels, and the fields that are written there."""
    found = []
    for path in resources.path("registryd").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and call.args and re.fullmatch(r"observe\.event|.*repeats\.tell", ast.unparse(call.func)):
                name = ast.literal_eval(call.args[0])
                level = ast.unparse(call.args[1]) if len(call.args) > 1 else "'info'"
                own = {"kind", "facts"} if ast.unparse(call.func).endswith("tell") else set()
                fields = {keyword.arg for keyword in call.keywords if keyword.arg} - own
                found.append((name, set(re.findall(r"'(info|warning|error)'", level)), fields))
    return found


def test_the_table_of_events_is_the_programs() -> None:
    table, places = rows(), told()
    assert set(table) == {name for name, _, _ in places} <= set(get_args(LogEvent))
    for event, (levels, _) in table.items():
        assert levels == set().union(*(found for name, found, _ in places if name == event)), event


def test_every_field_that_an_event_has_stands_in_its_row() -> None:
    table = rows()
    missing = {name: fields - table[name][1] for name, _, fields in told() if fields - table[name][1]}
    assert missing == {}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_runbook_exists(command: str) -> None:
    words = shlex.split(command)[1:]
    found: click.Command = main
    while isinstance(found, click.Group):
        name = words.pop(0)
        sub = found.get_command(click.Context(found), name)
        assert sub is not None, name
        found = sub
    options = {option for parameter in found.params for option in parameter.opts}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options


def test_every_statement_of_the_runbook_runs(database: TestDatabase) -> None:
    assert len(STATEMENTS) >= 15

    async def run() -> None:
        for statement in STATEMENTS:
            async with database.connect("postgres" if "pg_" in statement else "registryd_report") as connection:
                await connection.fetch(statement)

    asyncio.run(run())


def test_every_view_that_the_runbook_names_is_one_of_the_console() -> None:
    named = {name for line in re.findall(r"Console: ([^.\n]*)\.", TEXT) for name in re.findall(r"\*([^*]+)\*", line)}
    assert len(named) >= 8
    assert named <= {page.name for page in pages.PAGES}


def test_every_metric_of_the_operators_documents_is_exposed(exposed: Exposed) -> None:
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed.labels}
    text = TEXT + resources.path("systemd/README.md").read_text()
    named = {name for name in re.findall(r"`(registryd_[a-z_]+)`", text) if not NOT_METRICS.match(name)}
    assert named - families == set()
    assert [fault for code in CODE if re.search(r"registryd_\w+[\[{]|\(registryd_", code) for fault in exposed.faults(code)] == []
