"""The database's errors as one line and an exit code."""

from __future__ import annotations

import click

from registryd.cli.running import Exit
from registryd.domain.errors import Unavailable
from registryd.store import failures
from registryd.store.migrations import SchemaMismatch


def explain(error: Exception) -> tuple[str, Exit]:
    """The message and the exit code. An error that is no failure of the database is raised again, so that a bug shows its traceback."""
    if failures.is_lost(error):
        lost, error = error, Unavailable()
        error.__cause__ = lost
    if isinstance(error, Unavailable):
        running = click.get_current_context(silent=True)
        is_persons = running is not None and running.params.get("dsn") is not None
        return failures.explain(error, "--dsn" if is_persons else "[database] dsn"), Exit.DATABASE_AWAY
    if isinstance(error, SchemaMismatch):
        return str(error), Exit.SCHEMA
    if isinstance(error, failures.NOT_ALLOWED):
        return f"{error.args[0]}: this role lacks a grant; connect as one that has it (see sql/README.md)", Exit.FAILED
    if isinstance(error, failures.NO_SCHEMA):
        mend = "the database has no registry schema, or another release's: run `registryd migrate`, or name another DSN"
        return mend, Exit.SCHEMA
    raise error
