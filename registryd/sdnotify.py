"""systemd's side of the process: the notify socket, the watchdog and the listeners it hands over (sd_notify(3), sd_listen_fds(3)).

Owns: what $NOTIFY_SOCKET, $WATCHDOG_* and $LISTEN_* mean. Never does: a failure of its own; a manager that is away or absent makes
`notify` answer False and nothing else, so the daemon runs the same from a shell. Invariant: $LISTEN_* is gone after the first
`listen_sockets`, because a child would take the descriptors for its own.
"""

from __future__ import annotations

import os
import socket
import time

FIRST_FD = 3
# The manager reads at once; one that does not must not hold the event loop, nor the watchdog, for longer.
SEND_TIMEOUT_S = 1.0


def notify(message: str, timeout_s: float = SEND_TIMEOUT_S) -> bool:
    """Sends `NAME=value` lines to the service manager; True when it has them, False where there is none or it cannot take them."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):  # An abstract name: systemd writes its leading NUL as @.
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(timeout_s)
            sock.sendto(message.encode(), address)
    except OSError:
        return False
    return True


def ready(status: str) -> bool:
    """Start-up or a reload is over; `status` is what `systemctl status` shows, one line."""
    return notify(f"READY=1\nSTATUS={' '.join(status.split())}")


def stopping() -> bool:
    """Shutting down has begun."""
    return notify("STOPPING=1")


def reloading() -> bool:
    """A reload has begun; `ready` ends it. The time, in µs, lets systemd 253 and later tell this reload from an earlier one."""
    return notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_interval_s() -> float | None:
    """How often to send `WATCHDOG=1`, in seconds: half of what the manager allows (sd_watchdog_enabled(3)); None where it does not ask."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    allowed_us = _number("WATCHDOG_USEC")
    return allowed_us / 2_000_000 if allowed_us else None


def listen_sockets() -> list[socket.socket]:
    """The listeners systemd handed to this process, non-blocking and close-on-exec; none where it was started otherwise or asked before.

    Raises: OSError where a descriptor handed over is no socket.
    """
    handed_over = _number("LISTEN_FDS") if _number("LISTEN_PID") == os.getpid() else 0
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    sockets = []
    for fd in range(FIRST_FD, FIRST_FD + handed_over):
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        sockets.append(sock)
    return sockets


def hand_over(listener: socket.socket) -> None:
    """Does what systemd does before exec, in the process that is about to: whom it becomes finds `listener` by `listen_sockets`."""
    os.dup2(listener.fileno(), FIRST_FD)
    os.set_inheritable(FIRST_FD, True)  # dup2 leaves a descriptor alone that is there already
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="api")


def _number(name: str) -> int:
    """A decimal environment variable; 0 where it is missing or is none."""
    text = os.environ.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() else 0
