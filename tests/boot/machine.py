"""A Debian 12 of the campaign's own, made by debootstrap.

systemd-nspawn boots it with systemd as PID 1 and a network of loopback alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from registryd.children import die_with

NEEDED = {"debootstrap": "debootstrap", "systemd-nspawn": "systemd-container", "dpkg-deb": "dpkg", "ip": "iproute2"}
"""Programs, and Debian's packages of them."""
INCLUDED = "systemd,systemd-sysv,dbus,iproute2,procps,man-db"
PATIENCE_S = 90.0
FIRST, SECOND = "10.77.0.1", "10.77.0.2"
"""The addresses of the two machines."""
IN_A_MOUNT_NAMESPACE = ("unshare", "--mount", "--propagation", "private", "sh", "-c")
# systemd in the machine wants the unified hierarchy. Where the host has the former one, a mount of its own, without controllers, stands in.
GROUP = """
[ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ] || { umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup; }
group="/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/registryd-$(basename "$0")"
"""
BOOT = f"""{GROUP}
mkdir -p "$group" && echo $$ > "$group/cgroup.procs"
exec systemd-nspawn --quiet --directory="$0" --boot --register=no --keep-unit --private-network --settings=no --link-journal=no \
    --console=read-only --machine="registryd-$(basename "$0")"
"""
SWEEP = f"""{GROUP}
find "$group" -depth -type d -exec rmdir {{}} + 2> /dev/null
"""
"""Removes the control groups that a machine leaves behind."""


def why_not() -> str:
    """Why no machine can be booted here; empty where it can."""
    if os.geteuid() != 0:
        return "it needs root: it makes a root directory and boots it"
    missing = [package for program, package in NEEDED.items() if shutil.which(program) is None]
    return f"it needs the packages {', '.join(missing)}: apt-get install --no-install-recommends {' '.join(missing)}" if missing else ""


def wait_for(look: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    end = time.monotonic() + patience_s
    while not look():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {patience_s:g} s")
        time.sleep(0.1)


def call(*command: str | Path) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}:\n{done.stdout[-2000:]}")


def base(directory: Path, package: Path, wanted: list[str]) -> Path:
    """The machine before anything is installed, with the packages at hand that the documents ask for. Made once for a directory."""
    made = directory / "base"
    if not made.exists():
        half = directory / "base.new"
        shutil.rmtree(half, ignore_errors=True)
        call("debootstrap", "--variant=minbase", f"--include={INCLUDED}", "bookworm", half)
        shutil.copy("/etc/resolv.conf", half / "etc/resolv.conf")
        shutil.copy(package, half / "root/registryd.deb")
        call("chroot", half, "apt-get", "update")
        for line in wanted:
            call("chroot", half, "sh", "-c", f"cd /root && {line.replace('--yes', '--yes --download-only')}")
        (half / "root/registryd.deb").unlink()
        half.rename(made)
    return made


class Machine:
    """The machine: its files, and while it runs its processes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._nspawn: subprocess.Popen[bytes] | None = None
        self.leader = 0

    @classmethod
    def fresh(cls, name: str, base: Path) -> Machine:
        """A copy of the machine before anything was installed; `name` is its host's."""
        root = base.parent / name
        shutil.rmtree(root, ignore_errors=True)
        call("cp", "-a", "--reflink=auto", base, root)
        (root / "etc/hostname").write_text(f"{name}\n")
        (root / "etc/hosts").write_text(f"127.0.0.1 localhost\n{FIRST} first\n{SECOND} second\n")
        return cls(root)

    def boot(self) -> None:
        command = [*IN_A_MOUNT_NAMESPACE, BOOT, str(self.root)]
        with (self.root.parent / "console.log").open("ab") as console:
            self._nspawn = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, preexec_fn=partial(die_with, os.getpid())
            )
        wait_for(lambda: self.find_leader() > 0, "systemd-nspawn starts PID 1")
        wait_for(lambda: self.run("systemctl is-system-running").stdout.strip() in ("running", "degraded"), "the machine boots")

    def find_leader(self) -> int:
        """The machine's PID 1, as the host numbers it; 0 while there is none."""
        assert self._nspawn is not None
        assert self._nspawn.poll() is None, (self.root.parent / "console.log").read_text(errors="replace")[-300:]
        for pid in Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if re.search(r"(?m)^NSpid:.*\t1$", Path(f"/proc/{pid}/status").read_text()):
                    self.leader = int(pid)
        return self.leader

    def shut_down(self) -> None:
        """Raises: TimeoutExpired, where it does not end by itself. It has ended then, too."""
        if self._nspawn is not None:
            try:
                self.run("systemctl poweroff")
                self._nspawn.wait(PATIENCE_S)
            finally:
                self._nspawn.kill()
                self._nspawn.wait()
                self._nspawn, self.leader = None, 0
                subprocess.run([*IN_A_MOUNT_NAMESPACE, SWEEP, str(self.root)], check=False)

    def join(self, other: Machine) -> None:
        """A wire between two machines."""
        call("ip", "link", "add", "wire", "netns", str(self.leader), "type", "veth", "peer", "name", "wire", "netns", str(other.leader))
        for machine, address in ((self, FIRST), (other, SECOND)):
            machine.ask(f"ip address add {address}/24 dev wire && ip link set wire up")

    def entering(self, *namespaces: str) -> list[str]:
        return ["nsenter", "--target", str(self.leader), *(f"--{name}" for name in namespaces), "--"]

    def run(self, script: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Runs a script as root, as in a shell that has just logged in; stdout and stderr come together."""
        inside = self.entering("mount", "uts", "ipc", "net", "pid")
        environment = ["env", "-i", "HOME=/root", "LANG=C.UTF-8", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        command = [*inside, *environment, "bash", "-c", f"cd /root; {script}"]
        return subprocess.run(command, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=300)

    def paste(self, block: str, **variables: str) -> str:
        """Pastes a block into a shell of a hardened machine. Raises: AssertionError, where any of its commands fails."""
        given = "".join(f"{name}='{value}'\n" for name, value in variables.items())
        trap = 'trap \'printf "FAILED with %s: %s\\n" $? "$BASH_COMMAND" >> /run/failed\' ERR\n'
        done = self.run("umask 027; rm -f /run/failed; bash", stdin=f"{trap}{given}{block}")
        failed = self.root_text("/run/failed")
        assert not failed, f"{failed}{done.stdout[-1500:]}"
        return done.stdout

    def root_text(self, path: str) -> str:
        """A file of the running machine, /run included; empty where there is none."""
        return self.run(f"cat {path} 2> /dev/null").stdout

    def ask(self, script: str) -> str:
        """A script's output. Raises: AssertionError, where it fails."""
        done = self.run(script)
        assert done.returncode == 0, f"{script}: {done.stdout[-1500:]}"
        return done.stdout.strip()
