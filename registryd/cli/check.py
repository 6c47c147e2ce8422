"""`check`."""

from __future__ import annotations

import sys

import click
import orjson

from registryd.cli.running import Context, Exit, command, out, pass_context
from registryd.config import ConfigError
from registryd.delivery.egress import Egress
from registryd.domain.errors import Unavailable
from registryd.http import sockets, transport
from registryd.store import migrations
from registryd.store.failures import NOT_ALLOWED, explain


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
