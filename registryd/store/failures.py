"""Failures of the database by what they mean to us, and their explanation for the person who runs a command."""

from __future__ import annotations

import asyncpg
from asyncpg.exceptions import TargetServerAttributeNotMatched

from registryd.domain.errors import Unavailable
from registryd.store.primary import PrimaryStuck
from registryd.store.session import TransactionPooling

TRANSIENT = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.QueryCanceledError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ProgramLimitExceededError,
    asyncpg.PostgresSystemError,
    asyncpg.DataCorruptedError,
    asyncpg.IndexCorruptedError,
    asyncpg.LockNotAvailableError,
    TargetServerAttributeNotMatched,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidAuthorizationSpecificationError,
    OSError,
    TimeoutError,
)
"""The database is away, starting, stopping, demoted, too slow, closed to us or broken: its disk is full or fails, it has no transaction ids
left, its data is damaged. Nothing is known then, so nothing is answered.
"""

BROKEN = (asyncpg.DiskFullError, asyncpg.PostgresSystemError)
"""Failures of writing that reads do not meet: the disk is full, or fails."""

WAITED = (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError, TimeoutError)
"""The statement waited too long, mostly for a lock that another transaction holds."""

MISTAKES = (asyncpg.StatementTooComplexError, asyncpg.TooManyColumnsError, asyncpg.TooManyArgumentsError)
"""Limits that only a statement of ours can meet, though they are of a kind with those that a server meets."""

CLIENT_ERRORS = (asyncpg.InterfaceError, asyncpg.InternalClientError)
"""asyncpg raises these for a lost connection and for a wrong call of ours alike. The state of the connection tells which."""

NOT_ALLOWED = asyncpg.InsufficientPrivilegeError
"""The role lacks a grant."""

NO_SCHEMA = (asyncpg.InvalidSchemaNameError, asyncpg.UndefinedTableError, asyncpg.UndefinedFunctionError, asyncpg.UndefinedColumnError)
"""An object that the program needs is not there: the schema is of another release."""

CONFLICTS = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.UniqueViolationError, asyncpg.RestrictViolationError)
"""Two transactions collided. Ours was rolled back whole, so the same statement may be tried again at once."""

ODD_ROWS = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.RaiseError,
    ArithmeticError,
    AssertionError,
    TypeError,
    ValueError,
)
"""One row, of the database or of the caller, is not as our program thinks that rows can be: a fault of ours. CONFLICTS are among the first
two, so catch them before.
"""


def is_lost(error: Exception) -> bool:
    """Whether a connection of a command's own met what a pool turns into Unavailable. Other errors of the system may be a file's."""
    if isinstance(error, CLIENT_ERRORS) and isinstance(error.__context__, Exception):  # such as of ROLLBACK, on what was lost before
        return is_lost(error.__context__)
    return isinstance(error, asyncpg.PostgresError | ConnectionError) and isinstance(error, TRANSIENT) and not isinstance(error, MISTAKES)


class TakesNoWrites(Unavailable):
    """The database takes no writes: it is a standby, or default_transaction_read_only is on."""


def kind(error: BaseException) -> str:
    """What a transient failure is in one of observe.DATABASE_ERRORS: a label must not take as many values as there are exceptions."""
    match error:
        case asyncpg.QueryCanceledError() | asyncpg.LockNotAvailableError() | TimeoutError():
            return "timeout"
        case asyncpg.ReadOnlySQLTransactionError() | TargetServerAttributeNotMatched():
            return "read_only"
        case asyncpg.InvalidAuthorizationSpecificationError() | asyncpg.InvalidCatalogNameError():
            return "login"
        case asyncpg.PostgresConnectionError() | asyncpg.CannotConnectNowError() | asyncpg.OperatorInterventionError() | OSError():
            return "away"
        case _:
            return "broken"


def brief(error: Unavailable) -> str:
    """Why the process cannot do its work, in a few words, for /readyz and `systemctl status`."""
    if isinstance(error, TransactionPooling):
        return str(error)
    match error.__cause__:
        case PrimaryStuck() as cause:
            return str(cause)
        case asyncpg.DiskFullError():
            return "the database's disk is full"
        case asyncpg.InsufficientResourcesError() as cause:
            return f"the database lacks resources ({type(cause).__name__})"
        case asyncpg.PostgresSystemError():
            return "the database's disk fails"
        case asyncpg.ProgramLimitExceededError():
            return "the database has no transaction ids left, or has met another limit of its own"
        case asyncpg.InvalidAuthorizationSpecificationError():
            return "the database refuses the login"
        case asyncpg.InsufficientPrivilegeError() as cause:
            return f"the role lacks a grant ({cause.args[0]})"
        case asyncpg.ProtocolViolationError() as cause:
            return f"the pooler refuses ({cause.args[0]})"
        case TargetServerAttributeNotMatched() | asyncpg.ReadOnlySQLTransactionError():
            return "the database takes no writes"
        case asyncpg.QueryCanceledError() | asyncpg.LockNotAvailableError() | TimeoutError():
            return "the database does not answer in time"
    return "the database takes no writes" if isinstance(error, TakesNoWrites) else "the database is away"


def explain(error: Unavailable, named_by: str = "[database] dsn") -> str:
    """Why the database is away and what to do about it. `named_by`: what said where it is."""
    if isinstance(error, TransactionPooling | TakesNoWrites):
        return str(error)
    match error.__cause__:
        case PrimaryStuck() as cause:
            return str(cause)
        case asyncpg.DiskFullError():
            return "the database's disk is full: make room; work goes on by itself then"
        case asyncpg.InvalidPasswordError() as cause:
            return (
                f"the database refused the login ({cause.args[0]}): the credential database-password holds the password, of --dsn ~/.pgpass"
            )
        case asyncpg.InvalidAuthorizationSpecificationError() as cause:
            return (
                f"the database refused the login ({cause.args[0]}): with peer authentication, map this system user to the role in "
                "pg_ident.conf and name the map in pg_hba.conf (systemd/README.md, Install); else name another role in the DSN"
            )
        case asyncpg.InsufficientPrivilegeError() as cause:
            return f"the role lacks a grant ({cause.args[0]}): connect as registryd_app, or let `registryd migrate` give its grants again"
        case asyncpg.ProtocolViolationError() as cause:
            return f"what lies before the database, such as PgBouncer, refuses ({cause.args[0]}): look at its configuration and its log"
        case asyncpg.InvalidCatalogNameError() as cause:
            return f"{cause.args[0]}: create it (systemd/README.md, Install), or name another in the DSN"
        case TargetServerAttributeNotMatched() | asyncpg.ReadOnlySQLTransactionError():
            return "no host of the DSN takes writes: each is a standby, or the role may only read; connect as registryd_app"
        case asyncpg.QueryCanceledError() | asyncpg.LockNotAvailableError() as cause:
            return (
                f"the database stopped the work ({cause.args[0]}), and nothing of it is done: somebody cancelled it, or a limit "
                "did that the role, the database or a pooler sets: look at statement_timeout, transaction_timeout and lock_timeout"
            )
        case None:
            return f"the database is away: is it running, and is {named_by} right?"
        case cause:
            return f"the database is away ({type(cause).__name__}): is it running, and is {named_by} right?"
