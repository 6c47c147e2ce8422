"""Listening sockets: whose a path is, and which addresses need TLS."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from registryd.config import ConfigError
from registryd.http import sockets

BIND = """
import sys
from registryd.http import sockets
listener = sockets.bind(sys.argv[1])
print("listens", flush=True)
sys.stdin.read()
"""


def test_a_second_process_leaves_the_unix_socket_of_the_first_alone(tmp_path: Path) -> None:
    listen = f"unix:{tmp_path / 'socket'}"
    with subprocess.Popen([sys.executable, "-c", BIND, listen], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"listens\n"
        before = (tmp_path / "socket").stat().st_ino
        with pytest.raises(ConfigError, match="another process"):
            sockets.bind(listen)
        assert (tmp_path / "socket").stat().st_ino == before
        first.communicate()
    with sockets.bind(listen) as successor:
        assert sockets.address(successor) == listen
