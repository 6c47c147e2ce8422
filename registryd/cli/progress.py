"""How far long work is, told on stderr: a bar on a terminal, a line every ten seconds anywhere else. Nothing of it reaches stdout."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import click
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from registryd.cli.printing import duration
from registryd.cli.running import err

EVERY_S = 10.0


class Progress:
    """What the work is at. The work moves it; who shows it asks what to tell."""

    def __init__(self, what: str, unit: str, total: float | None, before: float) -> None:
        self.what, self.unit, self.total = what, unit, total
        self.done = self._before = before
        self.count: int | None = None
        self.note = ""
        self._began = time.monotonic()

    def move(self, done: float, total: float | None = None, count: int | None = None) -> None:
        """`count`: what is told of where `done` and `total` measure something else, such as the bytes of a file of lines."""
        self.done, self.count = done, count
        self.total = total if total is not None else self.total

    def advance(self, more: float) -> None:
        self.done, self.note = self.done + more, ""

    def step(self, what: str) -> None:
        """The work goes on with a step that nobody knows the length of."""
        self.what, self.total, self.count = what, None, None
        self.done = self._before = 0
        self._began = time.monotonic()

    def told(self) -> str:
        return tell(self.done, self.total, self._before, self.count, self.unit, time.monotonic() - self._began) + (
            self.note and f"; {self.note}"
        )


def tell(done: float, total: float | None, before: float, count: int | None, unit: str, seconds: float) -> str:
    """How much is done, how fast that goes and how long the rest takes; where nothing is counted, how long it has taken so far."""
    since = done - before
    if not since:
        return f"{duration(timedelta(seconds=int(seconds)))} so far"
    counted = since if count is None else count
    of = f" of {total:,.0f}" if total is not None and count is None else ""
    parts = [f"{done if count is None else count:,.0f}{of} {unit}", f"{counted / max(seconds, 1e-3):,.0f} a second"]
    if total is not None and count is not None:
        parts.insert(0, f"{done / max(total, 1):.0%}")
    if total is not None and total > done:
        parts.append(f"{duration(timedelta(seconds=max(round((total - done) * seconds / since), 1)))} left")
    return ", ".join(parts)


class _Told(ProgressColumn):
    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def render(self, task: Task) -> Text:
        return Text(self._progress.told())


@contextmanager
def progress(what: str, unit: str = "", total: float | None = None, before: float = 0, every_s: float = EVERY_S) -> Iterator[Progress]:
    """Shows how far the work inside is. `total`: of `unit`, where it is known; `before`: what an earlier run has done of it."""
    work = Progress(what, unit, total, before)
    if err.file.isatty():
        with Bar(TextColumn("{task.description}"), BarColumn(), _Told(work), console=err, transient=True) as bar:
            task = bar.add_task(what, total=total, completed=int(before))
            with _every(0.1, lambda: bar.update(task, description=work.what, completed=work.done, total=work.total)):
                yield work
        return
    with _every(every_s, lambda: click.echo(f"{work.what}: {work.told()}", err=True)):
        yield work


@contextmanager
def _every(seconds: float, show: Callable[[], None]) -> Iterator[None]:
    """Calls `show` so often in a thread of its own, because the work may keep this one."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(seconds):
            show()

    thread = threading.Thread(target=run, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
