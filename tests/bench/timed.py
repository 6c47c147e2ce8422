"""A process of a role that times each callback of its event loop, and prints the longest ones when it ends.

    python -m tests.bench.timed ROLE REGISTRYD.TOML

It runs on asyncio's own loop, whose callbacks can be timed one by one; uvloop's cannot. A callback's time is the CPU time of the loop's
thread, so that a busy machine does not count, and the garbage collector does. SIGUSR1 forgets what was timed.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import defaultdict
from importlib import import_module
from pathlib import Path
from typing import Any

from registryd import config

_longest_s: defaultdict[str, float] = defaultdict(float)
"""By what was called."""


def _name(callback: Any) -> str:
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return str(getattr(owner.get_coro(), "__qualname__", owner.get_name()))
    return str(getattr(callback, "__qualname__", type(callback).__name__))


def time_callbacks() -> None:
    run = asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        callback = handle._callback  # type: ignore[attr-defined] # there is no public way to see a loop's callbacks
        started = time.thread_time()
        run(handle)
        spent = time.thread_time() - started
        if spent > 0.0005:
            name = _name(callback)
            _longest_s[name] = max(_longest_s[name], spent)

    setattr(asyncio.Handle, "_run", timed)  # noqa: B010 # mypy takes no other function in its place


def main(role: str, path: Path) -> None:
    signal.signal(signal.SIGUSR1, lambda *_: _longest_s.clear())
    time_callbacks()
    asyncio.run(getattr(import_module(f"registryd.roles.{role}"), role)(config.load(path), 1))
    sys.stdout.write(json.dumps({name: seconds * 1000 for name, seconds in _longest_s.items()}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
