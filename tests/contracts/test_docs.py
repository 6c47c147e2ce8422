"""What is not documented does not exist: each fact stands in the document that owns it, links lead somewhere, and SQL in documents runs.

Facts are read from the tables of a document, never from its prose.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
import msgspec
import pytest

from registryd import config, observe, resources
from registryd.cli import main
from registryd.domain.errors import Reason
from registryd.presence.answerer import connections_needed
from registryd.roles import operate
from tests.conftest import TestDatabase

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (
    "README.md",
    "systemd/README.md",
    "systemd/RUNBOOK.md",
    "registryd/README.md",
    "registryd/http/README.md",
    "registryd/http/README.ru.md",
    "registryd/feed/README.md",
    "sql/README.md",
    "tests/README.md",
)
OPERATOR, DBA = "systemd/README.md", "sql/README.md"


def rows(document: str, first_header: str) -> list[tuple[str, ...]]:
    """The cells of each row of the table whose first column is headed so."""
    found: list[tuple[str, ...]] = []
    inside = False
    for line in (ROOT / document).read_text().splitlines():
        cells = tuple(cell.strip() for cell in line.strip("|").split("|")) if line.startswith("|") else ()
        if cells and not inside:
            inside = cells[0] == first_header
        elif inside and not cells:
            return found
        elif inside:
            found.append(cells)
    raise AssertionError(f"{document} has no table {first_header}")


def names(cell: str) -> set[str]:
    """What a cell says in backticks."""
    return set(cell.split("`")[1::2])


def named(document: str, first_header: str) -> set[str]:
    return {name for row in rows(document, first_header) for name in names(row[0])}


def test_every_configuration_key_is_documented() -> None:
    documented = {name: names(row[1]) for row in rows(OPERATOR, "Section") for name in names(row[0])}
    assert documented == {
        f"[{section.name}]": {key.name for key in msgspec.structs.fields(section.type)} for section in msgspec.structs.fields(config.File)
    }


def test_what_the_law_begins_with_is_documented(database: TestDatabase) -> None:
    tables = [zip(row[0].split("`")[1::2], row[1].split("`")[1::2], strict=True) for row in rows(OPERATOR, "Column")]
    documented = dict(itertools.chain.from_iterable(tables))

    async def run() -> None:
        async with database.connect() as connection:
            held = ", ".join(f"p.{name} = '{value}' AS {name}" for name, value in documented.items())
            row = await connection.fetchrow(f"SELECT {held} FROM registry.policy AS p ORDER BY p.effective_from LIMIT 1")
            assert row is not None
            assert [name for name, is_so in row.items() if not is_so] == []
            columns = await connection.fetch("SELECT attname FROM pg_attribute WHERE attrelid = 'registry.policy'::regclass AND attnum > 0")
            assert {row["attname"] for row in columns} - set(documented) == {"effective_from", "note", "recorded_at", "recorded_by"}

    asyncio.run(run())


def test_every_metric_is_documented_and_no_other() -> None:
    """Under the names that Prometheus has for them."""
    exposed = {family.name + "_total" * (family.type == "counter") for family in observe.METRICS.collect()}
    assert named(OPERATOR, "Metric") == {name for name in exposed if name.startswith("registryd_")}


def test_every_reason_of_a_refusal_is_documented_and_no_other() -> None:
    [cell] = [row[1] for row in rows(OPERATOR, "Metric") if "registryd_requests_refused_total" in row[0]]
    assert names(cell) - {"-"} == set(get_args(Reason))


def commands(command: click.Command, path: str = "registryd") -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            sub = command.get_command(context, name)
            assert sub is not None, name
            yield from commands(sub, f"{path} {name}")


def test_every_command_is_documented() -> None:
    documented = {
        " ".join(word for word in name.split() if word.islower()): row for row in rows(OPERATOR, "Command") for name in names(row[0])
    }
    for path, command in commands(main):
        if not isinstance(command, click.Group):
            parent, _, name = path.rpartition(" ")
            assert path in documented or name in {text.split()[0] for text in names(documented[parent][1])}, path


def test_all_that_check_looks_at_is_documented() -> None:
    """A name stands in the code as an argument of CheckResult, or beside the function that looks."""
    sources = [path.read_text() for place in ("check.py", "checks/*.py") for path in (ROOT / "registryd/cli").glob(place)]
    looked_at = {
        name for source in sources for name in re.findall(r'CheckResult\(\s*"([\w ]+)"|\("([\w ]+)", (?:lambda|machine|partial)', source)
    }
    assert named(OPERATOR, "`check`") == {name for pair in looked_at for name in pair if name}


def test_every_option_explains_itself() -> None:
    for path, command in commands(main):
        assert command.help, path
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.opts not in (["--json"], ["--host"], ["--port"]):
                assert parameter.help, f"{path} {parameter.opts}"


def test_every_report_is_documented_and_no_other(database: TestDatabase) -> None:
    views = database.psql(
        "-Atc", "SELECT 'report.' || relname FROM pg_class WHERE relnamespace = 'report'::regnamespace AND relkind = 'v'"
    ).stdout.split()
    assert len(views) >= 12
    assert named(DBA, "View") == set(views)


def test_how_many_connections_a_process_opens_is_documented() -> None:
    """What max_connections is reckoned from. Each pool of a process asks every host of the DSN over one more."""
    pool, statements = config.DatabaseSection().pool_size, config.PresenceSection().statements_in_flight
    of_console = operate.VIEW_CONNECTIONS + operate.CONSOLE_CONNECTIONS + operate.BULK_CONNECTIONS
    works = {"answer": connections_needed(statements) + 1 + pool, "deliver": pool, "operate": 2 * pool + 1 + of_console}
    pools = {role: resources.path(f"registryd/roles/{role}.py").read_text().count("life.database(") for role in works}
    documented = {name: (row[1], row[3]) for row in rows(DBA, "Process") for name in names(row[0])}
    assert documented == {role: (str(works[role]), f"{pools[role]} a host") for role in works}


def test_every_recipe_for_the_dba_runs(database: TestDatabase) -> None:
    recipes = re.findall(r"```sql\n(.*?)```", resources.path(DBA).read_text(), re.DOTALL)
    assert len(recipes) >= 7

    async def run() -> None:
        for recipe in recipes:
            user = "postgres" if re.search("registry\\.|breakglass|ROLE", recipe) else "registryd_report"
            async with database.connect(user) as connection:
                await connection.execute(recipe)

    asyncio.run(run())


def test_a_recipe_for_the_law_changes_what_it_names_and_nothing_else(database: TestDatabase) -> None:
    found = re.findall(r"```sql\nBEGIN;\n(.*?)ROLLBACK;\n```", resources.path(DBA).read_text(), re.DOTALL)
    recipes = [text for text in found if "change_policy" in text]
    assert len(recipes) >= 2

    async def run(recipe: str) -> None:
        async with database.connect() as connection:
            await connection.execute(f"BEGIN; {recipe}")
            rows = await connection.fetch("SELECT to_jsonb(p) AS policy FROM registry.policy AS p ORDER BY effective_from")
            policies = [json.loads(row["policy"]) for row in rows]
            assert len(policies) > 1
            changed = {key for before, after in itertools.pairwise(policies) for key in before if before[key] != after[key]}
            named = {key for changes in re.findall(r"'(\{.*?\})'", recipe) for key in json.loads(changes)}
            assert changed - {"effective_from", "note", "recorded_at", "recorded_by"} == named

    for recipe in recipes:
        asyncio.run(run(recipe))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_between_documents_lead_somewhere(document: str) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", (ROOT / document).read_text()):
        path = (ROOT / document).parent / target if target else ROOT / document
        assert path.exists(), target
        if anchor:
            headings = [line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("#")]
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, f"{target}#{anchor}"


def test_the_code_map_names_no_file_that_is_not_there() -> None:
    for name in names((ROOT / "registryd/README.md").read_text().replace("\n", " ")):
        if re.fullmatch(r"[\w./-]+(/|\.py|\.sql|\.yaml)", name):
            packages = (ROOT, ROOT / "registryd", *(ROOT / "registryd").glob("*/"))
            assert any((place / name).exists() for place in packages), name


def test_every_document_is_one_step_from_the_root() -> None:
    front = (ROOT / "README.md").read_text()
    assert len(front.splitlines()) <= 120
    for document in DOCUMENTS[1:]:
        assert f"({document})" in front, document
