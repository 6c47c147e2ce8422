"""Child processes that must not outlive us."""

from __future__ import annotations

import ctypes
import os
import signal

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """A `preexec_fn` for children of the main thread: the child gets SIGINT when `parent` dies, however it dies (Linux)."""
    # It runs after the change of user, which would clear the setting. SIGINT is PostgreSQL's fast shutdown.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
