"""`audit verify | head`: is the evidence still as it was written?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import click
from rich.text import Text

from registryd.cli.kinds import Day
from registryd.cli.printing import Shown, interval, words
from registryd.cli.progress import progress
from registryd.cli.running import Context, Exit, command, err, fail, json_option, pass_context, present
from registryd.config import Credentials
from registryd.domain import heads
from registryd.store import audit as evidence
from registryd.store.audit import Verdict

SHOWN_MAX = 50
_dsn = click.option(
    "--dsn",
    help="Connect as a role that may SET ROLE registryd_owner; no configuration is read then. Default [database] owner_dsn, then dsn.",
)


@click.group()
def audit() -> None:
    """Evidence: the journal and the break-glass log are sealed, so that a later change shows."""


@audit.command()
@click.option(
    "--head",
    "head",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A head that was kept elsewhere: nothing before it may be missing or changed.",
)
@click.option(
    "--since",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The same, and only what was written since that head is looked at.",
)
@click.option("--public-key", help="Whose head it is: the publicKey that `audit head` prints, as you noted it; --head and --since need it.")
@click.option("--from", "from_day", type=Day(), help="Compare no pages of earlier days: to go on after an interruption.")
@_dsn
@json_option
@pass_context
@command
async def verify(
    context: Context,
    *,
    head: Path | None,
    since: Path | None,
    public_key: str | None,
    from_day: date | None,
    dsn: str | None,
    as_json: bool,
) -> None:
    """Look for anything that was changed, removed, inserted, moved or cut off; exit 1 if there is. It needs no secret of the service.

    After the verdict it names each policy that let evidence go. No seal covers the policy, so check that you know each of them.
    """
    if head is not None and since is not None:
        fail("--head or --since: one of the two", Exit.USAGE)
    kept = _opened(head or since, public_key)
    way = _way(context, dsn)
    with _progress() as tell:
        verdict = await evidence.verify(*way, kept, since=since is not None, from_day=from_day, progress=tell)
    present(as_json, _facts(verdict), *_shown(verdict))
    await evidence.record(*way, verdict)
    sys.exit(Exit.FAILED if verdict.findings else Exit.DONE)


def _opened(file: Path | None, public_key: str | None) -> dict[str, heads.Link]:
    """The chains' ends of a head that was kept; none where none is named."""
    if (file is None) != (public_key is None):
        fail("--head or --since, and --public-key, go together", Exit.USAGE)
    if file is None or public_key is None:
        return {}
    try:
        return heads.opened(file.read_text("utf-8"), public_key)
    except (heads.BadHead, UnicodeDecodeError) as error:
        fail(f"{file}: {error}")


@contextmanager
def _progress() -> Iterator[Callable[[date, int, int], None]]:
    """What moves the bar. An interruption says from which day to go on."""
    reached: date | None = None
    with progress("comparing", "pages") as work:

        def tell(day: date, pages: int, total: int) -> None:
            nonlocal reached
            reached = day
            work.move(pages, total)

        try:
            yield tell
        except BaseException:
            if reached:
                err.print(f"the pages of every day before {reached} were compared: go on with --from {reached}")
            raise


def _facts(verdict: Verdict) -> dict[str, object]:
    return {
        "seals": verdict.seals,
        "pages": verdict.pages,
        "sealedUntil": verdict.sealed_until,
        "logEntries": verdict.log_entries,
        "pagesDroppedBefore": verdict.dropped_before,
        "letGo": verdict.let_go,
        "findings": verdict.findings,
    }


def _shown(verdict: Verdict) -> Iterator[Shown]:
    for finding in verdict.findings[:SHOWN_MAX]:
        page = f", page {finding.page_id}" if finding.page_id else ""
        entry = f" {finding.entry}" if finding.entry else ""
        yield Text(f"{finding.fault}, {finding.chain}{entry}{page}: {finding.explanation}", "red")
    if len(verdict.findings) > SHOWN_MAX:
        yield f"and {len(verdict.findings) - SHOWN_MAX:,} more: --json tells all"
    dropped = f", since {verdict.dropped_before}, before which the policy let them go" if verdict.dropped_before else ""
    state = f"{len(verdict.findings):,} findings" if verdict.findings else "as it was written"
    yield f"{verdict.seals:,} seals over {verdict.pages:,} pages{dropped}, {verdict.log_entries:,} break-glass entries: {state}"
    if verdict.sealed_until:
        yield f"sealed until {words(verdict.sealed_until)}; later pages wait for their seals"
    for gone in verdict.let_go:
        seals = f"seal {gone.first_seal}" if gone.first_seal == gone.last_seal else f"seals {gone.first_seal} to {gone.last_seal}"
        policy = f"from {words(gone.effective_from)}, recorded {words(gone.recorded_at)}, journal_kept {interval(gone.journal_kept)}"
        yield f"pages before {gone.pages_before} went ({seals}) by the policy {policy}"


def _way(context: Context, dsn: str | None) -> tuple[str, str | None]:
    """The DSN and its password. With --dsn the password is the person's own."""
    return (dsn, None) if dsn is not None else (context.owner_dsn, context.password)


@audit.command("head")
@click.option(
    "--key",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Sign with your own key: a file of 64 hexadecimal digits (openssl rand -hex 32). Default: the credential head-key.",
)
@_dsn
@pass_context
@command
async def print_head(context: Context, *, file: Path | None, dsn: str | None) -> None:
    """Print the chains' ends, signed.

    Keep it where the database's owner cannot reach it, and give it to `verify --head` or `--since`. Note its publicKey once: `verify`
    asks for it.
    """
    key = Credentials(file.parent).key(file.name) if file is not None else context.settings.credentials.key("head-key")
    async with evidence.reading(*_way(context, dsn)) as connection:
        click.echo(heads.signed(await evidence.read_heads(connection), key))
