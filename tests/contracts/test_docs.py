"""What is not documented does not exist: keys, metrics, commands and reports stand in their documents, and the documents' SQL runs."""

from __future__ import annotations

import ast
import asyncio
import re
from pathlib import Path

import click
import msgspec

from registryd import config, observe, resources
from registryd.cli import main
from tests.conftest import TestDatabase

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
SQL_README = resources.path("sql/README.md").read_text()


def test_readme_names_every_configuration_key() -> None:
    for section in msgspec.structs.fields(config.File):
        assert f"`[{section.name}]`" in README
        for key in msgspec.structs.fields(section.type):
            assert f"`{key.name}`" in README, f"[{section.name}] {key.name}"


def test_readme_names_every_metric_and_no_other() -> None:
    metrics = {family.name for family in observe.METRICS.collect() if family.name.startswith("registryd_")}
    assert metrics == set(re.findall(r"registryd_[a-z_]+", README)) - {"registryd_owner", "registryd_app"}


def test_readme_says_what_every_event_of_level_warning_and_error_asks_for() -> None:
    raised: set[str] = set()
    for path in (ROOT / "registryd").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "observe.event" and len(call.args) == 2:
                name, level = call.args
                assert isinstance(name, ast.Constant), path
                raised |= {str(name.value)} if re.search("warning|error", ast.unparse(level)) else set()
    rows = re.search(r"\| Event \| asks for \|\n\|---\|---\|\n((?:\|.*\n)+)", README)
    assert rows is not None
    assert set(re.findall(r"`(\w+)`", " ".join(row.split("|")[1] for row in rows[1].splitlines()))) == raised


def test_readme_names_every_command() -> None:
    for name, command in main.commands.items():
        if isinstance(command, click.Group):
            for sub in command.commands:
                assert f"registryd {name} {sub}" in README or f"`{sub}" in README, f"{name} {sub}"
        assert f"`registryd {name}" in README, name


def test_every_option_explains_itself() -> None:
    def walk(command: click.Command, path: str) -> None:
        assert command.help, path
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.opts not in (["--json"], ["--host"], ["--port"]):
                assert parameter.help, f"{path} {parameter.opts}"
        for name, sub in getattr(command, "commands", {}).items():
            walk(sub, f"{path} {name}")

    walk(main, "registryd")


def test_sql_readme_names_every_report(database: TestDatabase) -> None:
    views = database.psql(
        "-Atc", "SELECT relname FROM pg_class WHERE relnamespace = 'report'::regnamespace AND relkind = 'v'"
    ).stdout.split()
    assert len(views) >= 12
    assert set(re.findall(r"`report\.(\w+)`", SQL_README)) == set(views)


def test_every_recipe_of_sql_readme_runs(database: TestDatabase) -> None:
    recipes = re.findall(r"```sql\n(.*?)```", SQL_README, re.DOTALL)
    assert len(recipes) >= 7

    async def run() -> None:
        for recipe in recipes:
            user = "postgres" if re.search("registry\\.|breakglass|ROLE", recipe) else "registryd_report"
            async with database.connect(user) as connection:
                await connection.execute(recipe)

    asyncio.run(run())


def test_documents_name_no_file_that_is_not_there() -> None:
    for text in (README, SQL_README):
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (ROOT / target).exists(), target
    for line in (ROOT / "registryd" / "__init__.py").read_text().splitlines():
        for name in re.findall(r"\b((?:sql|domain|store|http|presence|delivery|feed|cli|demo)/[\w./]*)", line):
            assert (ROOT / name).exists() or (ROOT / "registryd" / name).exists(), name
