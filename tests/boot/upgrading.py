"""Steps: to the next release and back, under load."""

from __future__ import annotations

import shutil

from tests.boot.packages import NEXT_VERSION
from tests.boot.trial import INSTANCES, Trial


def releases(trial: Trial) -> dict[str, str]:
    """Which release each process runs, and its PID."""
    found = {}
    for instance in INSTANCES:
        pid = trial.show(instance, "MainPID")
        command = trial.machine.ask(f"tr '\\0' ' ' < /proc/{pid}/cmdline")
        found[instance] = f"{command.split('/usr/lib/registryd/')[1].split('/')[0]} {pid}"
    return found


def upgrade(trial: Trial) -> str:
    before = releases(trial)
    configuration = trial.machine.ask("cat /etc/registryd/registryd.toml")
    shutil.copy(trial.packages["next"], trial.machine.root / "root/registryd.deb")
    with trial.load() as seen:
        trial.paste("Upgrade", 0)
        trial.paste("Upgrade", 1)
        assert releases(trial) == before, "installing and migrating restarted something"
        trial.paste("Upgrade", 2)
        trial.all_ready()
    after = releases(trial)
    assert all(release.startswith(NEXT_VERSION) for release in after.values()), after
    assert trial.machine.ask("cat /etc/registryd/registryd.toml") == configuration
    return seen.lost_none()


def downgrade(trial: Trial) -> str:
    shutil.copy(trial.packages["this"], trial.machine.root / "root/registryd-former.deb")
    with trial.load() as seen:
        trial.paste("Upgrade", 3)
        trial.paste("Upgrade", 2)
        trial.all_ready()
    after = releases(trial)
    assert not [release for release in after.values() if release.startswith(NEXT_VERSION)], after
    assert "nothing to do" in trial.machine.ask("registryd migrate")
    return seen.lost_none()
