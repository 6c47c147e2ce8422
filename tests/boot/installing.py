"""Steps: install, install again, start, first messenger, a query; and at the end, uninstall."""

from __future__ import annotations

import json
import re
import shutil

from tests.boot.load import known
from tests.boot.machine import SECOND, Machine, wait_for
from tests.boot.trial import INSTANCES, NUMBERS, Trial

KEYS = ("journal-key", "secrets-key", "feed-key", "head-key")
SUMS = "cd /etc/registryd/credentials && sha256sum " + " ".join((*KEYS, "tls-key"))
LISTS = "cat /etc/postgresql/15/main/pg_hba.conf /etc/postgresql/15/main/pg_ident.conf /etc/registryd/registryd.toml | sha256sum"


def install(trial: Trial) -> str:
    shutil.copy(trial.packages["this"], trial.machine.root / "root/registryd.deb")
    told = "".join(trial.paste("Install", block) for block in range(3))
    modes = trial.machine.ask("cd /etc/registryd/credentials && stat -c '%a %U %n' *-key").splitlines()
    assert len(modes) == 5, modes
    assert all(mode.startswith("600 root ") for mode in modes), modes
    keys = trial.machine.ask("cat /etc/registryd/credentials/*-key").splitlines()
    assert not [key for key in keys if key in told], "the installation printed a key"
    version = trial.machine.ask("registryd --version")
    assert trial.machine.ask("man -w registryd registryd.toml registryd-messenger-add").count("\n") == 2
    return version.replace("registryd, ", "")


def install_twice(trial: Trial) -> str:
    before = trial.machine.ask(SUMS), trial.machine.ask(LISTS)
    for block in (2, 1, 0, 1, 2):
        trial.paste("Install", block)
    assert (trial.machine.ask(SUMS), trial.machine.ask(LISTS)) == before
    return "keys, pg_hba, pg_ident and registryd.toml as they were"


def start(trial: Trial) -> str:
    for _ in range(2):
        trial.paste("Install", 3)
    states = {instance: trial.is_active(instance) for instance in INSTANCES}
    assert all(states.values()), states
    told = trial.readiness("answer@1")
    assert told.endswith(" 503"), told
    assert "complete" in told, told
    return f"answer before the first snapshot: {told}"


def first_messenger(trial: Trial) -> str:
    rows = "".join(f"{number},individual,not_required,active,2020-01-01T00:00:00Z\n" for number in known(NUMBERS))
    (trial.machine.root / "root/contracts.csv").write_text(f"msisdn,holder,end_user,status,started_at\n{rows}")
    told = trial.paste("Install", 4)
    [trial.key] = re.findall(r"rk_[\w-]+", told)
    trial.secrets += [trial.key, *re.findall(r"whsec_[\w+/=-]+", told)]
    assert len(trial.secrets) >= 2, "the messenger's secret was not printed"
    trial.secrets += [trial.machine.ask(f"cat /etc/registryd/credentials/{key}") for key in KEYS]
    trial.machine.ask("registryd messenger set alpha --daily-quota 0")  # of a small registry it is small, and the load is not
    trial.all_ready()
    wait_for(lambda: '"present"' in trial.query(), "the key is in force")
    return f"{NUMBERS} contracts, every process ready"


def query(trial: Trial) -> str:
    answer = json.loads(trial.query())
    assert answer.get("present") is True, answer
    return trial.machine.ask(
        "curl -sv -o /dev/null --cacert /etc/registryd/credentials/tls-certificate https://localhost:8443/ 2>&1 | grep -o 'TLSv1.3 / .*'"
    )


def audit(trial: Trial) -> str:
    return trial.machine.ask("registryd audit verify > /dev/null && registryd audit head > /dev/null && echo root may")


def persons(trial: Trial) -> str:
    """Two persons look at a number and an auditor verifies: with the roles that sql/README.md gives them, and nothing of the service."""
    roles = "CREATE ROLE anna LOGIN; GRANT registryd_breakglass TO anna; ALTER ROLE anna SET log_min_messages = 'panic'; "
    roles += "CREATE ROLE boris LOGIN; GRANT registryd_approver TO boris"
    trial.machine.ask(f'useradd anna && useradd boris && cd / && runuser -u postgres -- psql -q -d registryd -c "{roles}"')

    def does(person: str, *words: str, stdin: str = "/dev/null") -> str:
        return f"cd / && runuser -u {person} -- registryd {' '.join(words)} --dsn postgresql:///registryd < {stdin}"

    trial.machine.ask(f"echo +{known(1)[0]} > /run/number")
    asked = trial.machine.ask(does("anna", "breakglass", "request", "--reason", "the-subscriber-complains", "--json", stdin="/run/number"))
    number = str(json.loads(asked.partition("number: ")[2])["request"])
    wait_for(lambda: trial.machine.run(does("boris", "breakglass", "approve", number)).returncode == 0, "it is prepared and approved")
    seen = json.loads(trial.machine.ask(does("anna", "breakglass", "look", number, "--json")))
    assert "contract" in {row["kind"] for row in seen}, seen
    assert trial.machine.run("cd / && runuser -u anna -- cat /etc/registryd/registryd.toml").returncode != 0
    trial.machine.ask("umask 077 && openssl rand -hex 32 > /var/lib/postgresql/audit.key && chown postgres /var/lib/postgresql/audit.key")
    trial.machine.ask(does("postgres", "audit", "verify"))
    head = json.loads(trial.machine.ask(does("postgres", "audit", "head", "--key", "/var/lib/postgresql/audit.key")))
    assert head["signature"]
    return f"{len(seen)} rows seen, the evidence verified, a head signed"


def second_machine(trial: Trial) -> str:
    """Another machine on the same database: it has the keys of the first, and answers the same messenger."""
    machine = Machine.fresh("second", trial.machine.root.parent / "base")
    machine.boot()
    try:
        trial.machine.join(machine)
        return _on_both(trial, trial.on(machine))
    finally:
        machine.shut_down()


def _on_both(first: Trial, second: Trial) -> str:
    first.blocks.get("A second machine", 0)
    for _ in range(2):
        first.paste("A second machine", 1, SECOND=SECOND)
    first.machine.ask("systemctl restart postgresql")
    for name in ("keys.tar", "database-ca.pem"):
        shutil.copy(first.machine.root / "root" / name, second.machine.root / "root" / name)
    shutil.copy(first.packages["this"], second.machine.root / "root/registryd.deb")
    first.blocks.get("A second machine", 2)
    for _ in range(2):
        second.paste("A second machine", 3, DATABASE="first")
    second.paste("Install", 2)
    second.paste("Install", 3)
    second.all_ready()
    first.all_ready()
    assert first.machine.ask(SUMS).splitlines()[:4] == second.machine.ask(SUMS).splitlines()[:4]
    for machine in (second, first):
        assert json.loads(machine.query())["present"] is True
    first.secrets.append(first.machine.ask("cat /etc/registryd/credentials/database-password"))
    return "the keys came over, and both answer"


def journal(trial: Trial) -> str:
    """No number, code, key or secret in the journal or in PostgreSQL's log."""
    text = trial.machine.ask("journalctl --no-pager -o export --all; cat /var/log/postgresql/*")
    assert "started" in text
    found = [secret[:6] for secret in trial.secrets if secret in text]
    numbers = re.findall(r"7901\d{7}|code-of-|user-1", text)
    assert not found, found
    assert not numbers, numbers[:3]
    return f"{len(text.splitlines())} lines, none with a number, a code or a secret"


def uninstall(trial: Trial) -> str:
    keys = trial.machine.ask("cd /etc/registryd/credentials && sha256sum *")
    for _ in range(2):
        trial.paste("Uninstall", 0)
    assert trial.machine.ask("cd /etc/registryd/credentials && sha256sum *") == keys
    left = trial.machine.run("systemctl list-units --all --no-legend 'registryd*'; pgrep -u registryd; ls /usr/lib/registryd").stdout
    assert left.splitlines() == ["ls: cannot access '/usr/lib/registryd': No such file or directory"], left
    return "the keys and the database are there"


def uninstall_for_good(trial: Trial) -> str:
    for _ in range(2):
        trial.paste("Uninstall", 1)
    left = trial.machine.run(
        "getent passwd registryd; find / -xdev -name '*registryd*' -not -path '/root/*' -not -path '/var/*' -not -path '/proc/*'"
        " -not -path '/usr/share/mime*'; grep -rl --exclude='*-' registryd /etc; runuser -u postgres -- psql -lqt | grep registryd"
    ).stdout.replace('could not change directory to "/root": Permission denied\n', "")
    assert left == "", left
    return "nothing is left but what apt and the journal remember"
