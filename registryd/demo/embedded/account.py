"""The system user that the private PostgreSQL runs as. PostgreSQL refuses root, so under root it is `postgres`, else `nobody`."""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from registryd.children import die_with
from registryd.demo.embedded.binaries import EmbeddedError


@dataclass(frozen=True)
class Account:
    """Whom the server runs as; None stands for "as we are"."""

    name: str
    uid: int | None = None
    gid: int | None = None

    @classmethod
    def choose(cls) -> Account:
        if os.geteuid() != 0:
            return cls("this user")
        for name in ("postgres", "nobody"):
            with contextlib.suppress(KeyError):
                entry = pwd.getpwnam(name)
                return cls(f"the user {name}", entry.pw_uid, entry.pw_gid)
        raise EmbeddedError("PostgreSQL refuses to run as root, and there is no user postgres or nobody: add one, or be another user")

    def make_directory(self, path: Path) -> None:
        path.mkdir(mode=0o700)
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def spawn(self, command: Sequence[str | Path], environment: Mapping[str, str], output: int | IO[bytes]) -> subprocess.Popen[bytes]:
        """Run as this account, deaf to the terminal's ^C, to be shut down should we die."""
        # The kernel sends the death signal when the *thread* that forked ends, so only the main thread may ask for it.
        bound = sys.platform == "linux" and threading.current_thread() is threading.main_thread()
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",  # our own may be closed to the account
            env=dict(environment),
            user=self.uid,
            group=self.gid,
            extra_groups=None if self.uid is None else [],
            start_new_session=True,
            preexec_fn=functools.partial(die_with, os.getpid()) if bound else None,
        )

    def reaches(self, path: Path) -> bool:
        return self.uid is None or self.spawn(["/usr/bin/env", "test", "-x", path], os.environ, subprocess.DEVNULL).wait() == 0
