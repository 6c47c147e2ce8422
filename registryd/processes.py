"""Child processes that must not outlive us."""

from __future__ import annotations

import ctypes
import os
import signal

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """For `preexec_fn`, from the main thread: the child gets SIGINT when `parent` dies, however it dies (Linux)."""
    # Runs in the child after the change of user, which would have cleared the wish. SIGINT is PostgreSQL's fast shutdown.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
