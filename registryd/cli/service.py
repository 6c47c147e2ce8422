"""`demo`, `serve`, `migrate`, `check` and `report`."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import orjson
from rich.markup import escape
from rich.table import Table

from registryd import daemon, workers
from registryd.cli import plot
from registryd.cli.running import Context, Exit, command, err, fail, out, pass_context
from registryd.config import ConfigError
from registryd.delivery.egress import Egress
from registryd.domain.errors import Unavailable
from registryd.http import sockets, transport
from registryd.store import migrations, reports
from registryd.store.pool import NOT_ALLOWED, connect, explain


@click.command()
@click.option("--once", is_flag=True, help="End after the story; exit 1 if a step of it failed.")
@click.option(
    "--json", "as_json", is_flag=True, help="One line of JSON on stdout once it is ready, and no story; then serve until SIGTERM."
)
@click.option("--contracts", type=click.IntRange(100, 10_000_000), default=20_000, show_default=True, help="How many contracts to make up.")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Keep the database here; default: a temporary one.")
@click.option("--api-port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Messenger API; 0 takes a free one.")
@click.option("--operator-port", type=click.IntRange(0, 65535), default=8081, show_default=True, help="Operator API; 0 takes a free one.")
@click.option(
    "--receiver-port", type=click.IntRange(0, 65535), default=8082, show_default=True, help="The story's receiver; 0 takes a free one."
)
@command
def demo(*, once: bool, as_json: bool, contracts: int, data: Path | None, api_port: int, operator_port: int, receiver_port: int) -> None:
    """A private PostgreSQL, a registry of made-up contracts, the daemon, a receiver, and the whole story."""
    from registryd.demo.story import Options, run  # PostgreSQL's files are looked for only here

    if not run(Options(once, as_json, contracts, data, api_port, operator_port, receiver_port)):
        fail("a step of the story failed")


@click.command()
@click.option(
    "--instance",
    type=click.IntRange(1, 99),
    default=1,
    show_default=True,
    help="The N of registryd@N: adds N - 1 to the operator API's port.",
)
@click.option(
    "--workers",
    "count",
    type=click.IntRange(1, 99),
    help="Serve with N processes, instances 1 to N, on one listener, as registryd.socket does under systemd. For development.",
)
@pass_context
@command
async def serve(context: Context, *, instance: int, count: int | None) -> None:
    """Serve until SIGTERM, which drains; SIGHUP reloads keys, messengers, the TLS certificate and the log level."""
    if count is not None:
        sys.exit(await workers.supervise(context.settings, count))
    await daemon.serve(context.settings, instance)


@click.command()
@click.option("--print", "as_script", is_flag=True, help="Print what would be done as a psql script, and do nothing.")
@click.option("--dsn", help="Connect as a role that may SET ROLE registryd_owner; default [database] owner_dsn, then dsn.")
@pass_context
@command
async def migrate(context: Context, *, as_script: bool, dsn: str | None) -> None:
    """Bring the schema to this release: migrations in order, each in a transaction, then the reports."""
    if dsn is None:
        connection = await connect(context.owner_dsn, password=context.password)
    else:
        connection = await connect(dsn)
    try:
        if as_script:
            click.echo(await migrations.script(connection), nl=False)
            return
        done = await migrations.migrate(connection)
    finally:
        await connection.close()
    for migration in done:
        out.print(f"applied {migration.path.name}")
    out.print("the schema is at " + migrations.migrations()[-1].path.name + "; the reports are made anew")


@click.command()
@click.option("--json", "as_json", is_flag=True)
@pass_context
@command
async def check(context: Context, *, as_json: bool) -> None:
    """Look at everything `serve` needs: configuration, credentials, TLS, database, schema, permissions. Changes nothing."""
    findings: list[tuple[str, str, str]] = []
    settings = context.settings
    findings.append(("configuration", "ok", str(settings.path)))
    code = Exit.DONE
    try:
        for name in ("journal-key", "secrets-key", "feed-key", "head-key"):
            settings.credentials.key(name)
        settings.credentials.required("operator-token")
        context_tls = sockets.Tls(settings.credentials).context()
        exposed = settings.credentials.exposed()
        if exposed:
            raise ConfigError(f"{exposed[0]}: other users of this machine can read it; chmod 0600")
        findings.append(("credentials", "ok", f"{settings.credentials.directory}; TLS {'on' if context_tls else 'off (loopback)'}"))
        Egress.of(settings.file.delivery)
        transport.assert_c_parser()
    except ConfigError as error:
        findings.append(("credentials", "failed", str(error)))
        code = Exit.CONFIG
    try:
        async with context.database() as db, db.connection() as connection:
            findings.append(("database", "ok", await migrations.describe(connection)))
            await migrations.check(connection)
            findings.append(("schema", "ok", migrations.migrations()[-1].path.name))
            lacking = await migrations.lacking_privileges(connection)
            if lacking:
                findings.append(("permissions", "failed", f"the role lacks {', '.join(lacking)}: connect as registryd_app"))
                code = code or Exit.FAILED
            else:
                findings.append(("permissions", "ok", "what the daemon needs"))
    except Unavailable as error:
        findings.append(("database", "failed", explain(error)))
        code = code or Exit.DATABASE_AWAY
    except NOT_ALLOWED as error:
        findings.append(("permissions", "failed", error.args[0]))
        code = code or Exit.FAILED
    except migrations.SchemaMismatch as error:
        findings.append(("schema", "failed", str(error)))
        code = code or Exit.SCHEMA
    if as_json:
        click.echo(orjson.dumps([{"check": name, "state": state, "detail": detail} for name, state, detail in findings]))
    else:
        for name, state, detail in findings:
            out.print(f"{'[green]ok    [/]' if state == 'ok' else '[red]failed[/]'}  {name:<14} ", end="")
            out.print(detail, markup=False, soft_wrap=True)
    sys.exit(code)


@click.command()
@click.argument("name", required=False)
@click.option("--csv", "as_csv", is_flag=True, help="CSV with a header.")
@click.option("--json", "as_json", is_flag=True, help="A JSON array of objects.")
@click.option("--plot", "as_plot", is_flag=True, help="Draw its counts and worst times by day, summed over messengers.")
@pass_context
@command
async def report(context: Context, *, name: str | None, as_csv: bool, as_json: bool, as_plot: bool) -> None:
    """Show a view of schema report as a table; without NAME, list them."""
    async with context.database() as db, db.connection() as connection:
        views = {view.name: view for view in await reports.list_views(connection)}
        if not views:
            raise migrations.SchemaMismatch("the database has no schema report: run `registryd migrate` (as the owner; see sql/README.md)")
        if name is None:
            for view in views.values():
                out.print(f"[bold]{view.name:<24}[/] {view.comment}")
            return
        if name not in views:
            fail(f"there is no report {name!r}; there are {', '.join(views)}", Exit.USAGE)
        view = views[name]
        if as_json:
            click.echo(await reports.read_json(connection, view))
        elif as_csv:
            click.echo(await reports.read_csv(connection, view), nl=False)
        elif as_plot:
            _plot(await reports.read(connection, view), name)
        else:
            header, *rows = csv.reader(io.StringIO(await reports.read_csv(connection, view), newline=""))
            table = Table(*header, title=name, caption=view.comment)
            for row in rows:
                table.add_row(*map(escape, row))
            out.print(table)
            _tell_nothing(rows)


def _plot(table: reports.Table, name: str) -> None:
    if "day" not in table.columns:
        fail(f"{name} has no days to draw", Exit.USAGE)
    for line in plot.draw(table, out.width) if table.rows else ():
        out.print(line)
    _tell_nothing(table.rows)


def _tell_nothing(rows: Sequence[object]) -> None:
    if not rows:
        err.print("nothing to report yet")
