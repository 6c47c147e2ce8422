"""Steps: what goes wrong on one machine, under load where it matters."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator

from tests.boot.machine import wait_for
from tests.boot.trial import INSTANCES, KEPT, Seen, Trial

CONFIGURATION = "/etc/registryd/registryd.toml"
SERVED = "openssl s_client -connect localhost:8443 < /dev/null 2> /dev/null | openssl x509 -noout -fingerprint -sha256"


def restart_one(trial: Trial) -> str:
    with trial.load() as seen:
        for instance in ("answer@1", "answer@2") * 3:
            trial.machine.ask(f"systemctl restart registryd-{instance}")
            trial.all_ready()
    return seen.lost_none()


def typo(trial: Trial) -> str:
    """A mistake in the file and the restart of one: its sibling goes on."""
    sibling = trial.show("answer@2", "NRestarts"), trial.show("answer@2", "MainPID")
    with trial.load() as seen:
        with edited(trial, 's/^level = .*/level = "infoo"/'):
            assert trial.machine.run("systemctl restart registryd-answer@1").returncode != 0
            status = trial.show("answer@1", "StatusText")
            assert "log.level" in status, status
        trial.machine.ask("systemctl restart registryd-answer@1")
        trial.all_ready()
    assert (trial.show("answer@2", "NRestarts"), trial.show("answer@2", "MainPID")) == sibling
    return f"{seen.lost_none()}; STATUS {status!r}"


@contextlib.contextmanager
def edited(trial: Trial, edit: str) -> Iterator[None]:
    """registryd.toml as `sed` edits it, while the block runs."""
    trial.machine.ask(f"cp -p {CONFIGURATION} /run/kept && sed -i '{edit}' {CONFIGURATION}")
    try:
        yield
    finally:
        trial.machine.ask(f"cp -p /run/kept {CONFIGURATION}")


def typo_that_stays(trial: Trial) -> str:
    """Nobody mends it for a while, and messengers connect all along: the broken process is not tried again for each of them."""
    with trial.load() as seen:
        since = trial.machine.ask("date +%s")
        with edited(trial, 's/^level = .*/level = "infoo"/'):
            trial.machine.run("systemctl restart registryd-answer@1")
            wait_for(lambda: int(trial.machine.ask("date +%s")) > int(since) + 25, "25 seconds are over")
            tries = trial.machine.ask(f"journalctl --no-pager --since @{since} -u registryd-answer@1 | grep -c 'Main process exited'")
        wait_for(lambda: trial.show("answer@1", "ActiveState") in ("failed", "inactive", "active"), "its pause is over")
        trial.machine.ask("systemctl restart registryd-answer@1")
        trial.all_ready()
    assert int(tries) <= 4, tries
    return f"{tries} tries in 25 s; {seen.lost_none()}"


def reload(trial: Trial) -> str:
    """It fails with the message where the file cannot be read, serves a renewed certificate, and says which keys need a restart."""
    before = trial.main_pid("answer@1")
    with edited(trial, 's/^level = .*/level = "infoo"/'):
        assert trial.machine.run("systemctl reload registryd-answer@1").returncode != 0
        assert "log.level" in trial.machine.ask("journalctl --no-pager -u registryd-answer@1 -n 20")
        assert trial.is_ready("answer@1")
    former = trial.machine.ask(SERVED)
    trial.machine.ask("cd /etc/registryd/credentials && rm tls-key")
    trial.paste("Install", 2)
    trial.machine.ask("systemctl reload registryd-answer@1 registryd-answer@2 registryd-operate@1")
    wait_for(lambda: all(trial.machine.ask(SERVED) != former for _ in range(8)), "both serve the renewed certificate")
    assert json.loads(trial.query())["present"] is True
    with edited(trial, "s/^pool_size = .*/pool_size = 7/"):
        trial.machine.ask("systemctl reload registryd-answer@1")
        wait_for(lambda: "database.pool_size" in trial.show("answer@1", "StatusText"), "the status names the key")
        status = trial.show("answer@1", "StatusText")
        assert "needs_restart" in trial.machine.ask("journalctl --no-pager -p warning -u registryd-answer@1 -n 20")
    trial.machine.ask("systemctl reload registryd-answer@1")
    wait_for(lambda: trial.show("answer@1", "StatusText") == "serving", "the status is as before")
    assert trial.main_pid("answer@1") == before
    return f"a typo is refused, a renewed certificate served; STATUS {status!r}"


def only_its_own_connections(seen: Seen) -> str:
    """A process that dies takes its connections with it: at most one request of each was under way."""
    assert len(seen.lost) <= KEPT + 2, seen.lost[:5]
    assert not [line for line in seen.lost if "present" in line], seen.lost
    return seen.told()


def _signal(trial: Trial, unit: str, signal: str) -> str:
    """Sends it to the unit's process, and waits until another is ready in its place."""
    with trial.load() as seen:
        before = trial.main_pid(unit)
        began = time.monotonic()
        trial.machine.ask(f"kill -{signal} {before}")
        wait_for(lambda: trial.show(unit, "MainPID") not in (before, "0") and trial.is_ready(unit), "it is back")
        took = time.monotonic() - began
    return f"back after {took:.1f} s; {only_its_own_connections(seen)}"


def kill(trial: Trial) -> str:
    return _signal(trial, "answer@2", "KILL")


def hang(trial: Trial) -> str:
    """SIGSTOP: the watchdog ends it, and its sibling goes on."""
    told = _signal(trial, "answer@1", "STOP")
    assert "Watchdog timeout" in trial.machine.ask("journalctl --no-pager -u registryd-answer@1 -n 200")
    return told


def database_away(trial: Trial) -> str:
    """PostgreSQL is away when a process starts: it answers 503 and says what it waits for."""
    trial.machine.ask("systemctl stop postgresql")
    trial.machine.ask("systemctl restart registryd-answer@1 registryd-answer@2")
    told = trial.machine.paste(trial.blocks.get("Install", 5).replace("curl -s ", "curl -s -i -m 10 "), KEY=trial.key)
    assert " 503" in told.splitlines()[0], told
    assert "retry-after:" in told.lower(), told
    readiness, status = trial.readiness("answer@1"), trial.show("answer@1", "StatusText")
    assert readiness.endswith(" 503"), readiness
    assert "database" in status, status
    trial.machine.ask("systemctl start postgresql")
    began = time.monotonic()
    trial.all_ready()
    return f"503, STATUS {status!r}; ready {time.monotonic() - began:.1f} s after PostgreSQL's start"


def reboot(trial: Trial) -> str:
    trial.machine.shut_down()
    began = time.monotonic()
    trial.machine.boot()
    trial.all_ready()
    assert json.loads(trial.query())["present"] is True
    restarts = {trial.show(instance, "NRestarts") for instance in INSTANCES}
    assert restarts == {"0"}, restarts
    return f"every process ready {time.monotonic() - began:.1f} s after the boot began"
