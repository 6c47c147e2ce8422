"""systemd's side of the process: the notify socket, the watchdog and the listeners it hands over (sd_notify(3), sd_listen_fds(3)).

Where no manager listens, `notify` returns False and nothing else happens, so that a process runs the same from a shell. The first
`listen_sockets` removes $LISTEN_* from the environment, because a child would take the descriptors for its own.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Mapping

FIRST_FD = 3
# A manager that does not read must not hold the event loop, and with it the watchdog, for longer.
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


def status(status: str) -> bool:
    """What `systemctl status` shows, also after the end of the process."""
    return notify(f"STATUS={' '.join(status.split())}")


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


def listen_sockets() -> dict[str, list[socket.socket]]:
    """The listeners that were handed to this process, by `FileDescriptorName=`; non-blocking and close-on-exec.

    None where it was started otherwise or has asked before. Raises: OSError where a descriptor is no socket.
    """
    handed_over = _number("LISTEN_FDS") if _number("LISTEN_PID") == os.getpid() else 0
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    sockets: dict[str, list[socket.socket]] = {}
    for index in range(handed_over):
        os.set_inheritable(FIRST_FD + index, False)
        sock = socket.socket(fileno=FIRST_FD + index)
        sock.setblocking(False)
        sockets.setdefault(names[index] if index < len(names) else "unknown", []).append(sock)
    return sockets


def hand_over(listeners: Mapping[str, socket.socket]) -> None:
    """Call in the forked child just before exec: passes `listeners` on as systemd does, from descriptor 3 on, with $LISTEN_* set."""
    # First to high numbers: the ones from 3 on may be those of listeners that are still to be passed on.
    high = [fcntl.fcntl(listener.fileno(), fcntl.F_DUPFD, 100) for listener in listeners.values()]
    for index, fd in enumerate(high):
        os.dup2(fd, FIRST_FD + index, inheritable=True)
        os.close(fd)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(high)), LISTEN_FDNAMES=":".join(listeners))


def _number(name: str) -> int:
    """A decimal environment variable; 0 where it is missing or is none."""
    text = os.environ.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() else 0
