"""`client identify`: a messenger asks about the users that it has already."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from registryd.cli.kinds import Whole
from registryd.cli.progress import progress
from registryd.cli.running import Exit, command, err, fail, json_option, present
from registryd.cli.tls import context, tls_options
from registryd.client.identify import BATCH_MAX, Identification
from registryd.client.results import Results
from registryd.client.source import count_lines

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def client() -> None:
    """Tools for a messenger's engineers."""


@client.command()
@click.argument("file", type=_FILE)
@click.option("--url", required=True, help="Where the registry is: https://operator.example; http is taken for this machine alone.")
@click.option("--results", type=click.Path(dir_okay=False, path_type=Path), help="The file of results; default: FILE.results.csv.")
@click.option("--batch", type=Whole(1, BATCH_MAX), default=1000, show_default=True, help="How many numbers a request asks.")
@click.option("--concurrency", type=Whole(1, 64), default=4, show_default=True, help="How many requests at once.")
@tls_options("the operator")
@json_option
@command
async def identify(
    *,
    file: Path,
    url: str,
    results: Path | None,
    batch: int,
    concurrency: int,
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
    as_json: bool,
) -> None:
    """Identify the users in FILE: CSV with a number and, if there is one, its code. A header is skipped.

    Results are CSV too: line (of FILE), present, binding, generation, error. Run the same command again to go on after an interruption.
    The API key is read from $REGISTRYD_API_KEY, because a process list would show an option. Exit code 1 where lines remain, or could not
    be asked.
    """
    api_key = os.environ.get("REGISTRYD_API_KEY", "")
    if not re.fullmatch(r"rk_[a-z2-7]{8,32}_[A-Za-z0-9_-]{20,128}", api_key, re.ASCII):
        fail("put your API key, rk_<keyId>_<secret>, into the environment as REGISTRYD_API_KEY", Exit.USAGE)
    tls = context(url, "--url", "the key would else be read by whoever listens", ca, certificate, key)
    with (
        Results(results or file.with_name(file.name + ".results.csv"), file) as kept,
        _progress(file, kept) as (on_progress, on_wait),
    ):
        there = kept.done
        work = Identification(
            *(file, kept, url, api_key), batch=batch, concurrency=concurrency, tls=tls, on_progress=on_progress, on_wait=on_wait
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, work.stop.set)
        await work.run()
    told = ", ".join(f"{count:,} {what}" for what, count in sorted(kept.counts.items())) or "nothing"
    present(
        as_json,
        {"before": there, "stopped": work.stop.is_set(), "results": str(kept.path), "unasked": kept.unasked, **kept.counts},
        f"{told}; {there:,} there before; results in {kept.path}",
    )
    if work.stop.is_set():
        fail("interrupted: run it again to go on")
    if kept.unasked:
        fail(f"{kept.unasked:,} lines could not be asked: see the column error of the results")


@contextmanager
def _progress(file: Path, kept: Results) -> Iterator[tuple[Callable[[int], None], Callable[[str, float], None]]]:
    """What moves the bar: for answered lines, and for waits, which are told at once where there is no bar."""
    with progress("asking", "numbers", count_lines(file), kept.done) as work:

        def on_wait(why: str, seconds: float) -> None:
            work.note = f"{why}: waiting {seconds:,.0f} s"
            if not err.file.isatty():
                click.echo(work.note, err=True)

        yield work.advance, on_wait
