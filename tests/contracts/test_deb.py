"""The Debian package: everything in its place, every command with a man page, and nothing that the builder's shell could spoil."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from registryd import resources
from registryd.cli import main
from systemd.debian import manual
from tests.contracts.test_docs import commands

ROOT = Path(__file__).resolve().parents[2]
UMASK = 0o027


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: what it says of the Debian package cannot be asked here")
    return found


def output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built under the umask of a hardened machine: once, for all workers of pytest-xdist."""
    tool("dpkg-deb")
    base = tmp_path_factory.getbasetemp()
    out = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "debian-package"
    out.mkdir(exist_ok=True)
    with (out / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not list(out.glob("*.deb")):
            command = [sys.executable, "-m", "systemd.debian.build", "--out", str(out)]
            done = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, check=False, preexec_fn=lambda: os.umask(UMASK) and None
            )
            assert done.returncode == 0, done.stderr
    [found] = out.glob("*.deb")
    return found


@pytest.fixture(scope="module")
def extracted(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("deb") / "root"
    output("dpkg-deb", "--raw-extract", package, root)
    return root


def contents(package: Path) -> dict[str, tuple[str, str]]:
    """Path, and then mode and owner, as `tar` shows them."""
    rows = (line.split(maxsplit=5) for line in output("dpkg-deb", "--contents", package).splitlines())
    return {row[5].removeprefix(".").partition(" -> ")[0]: (row[0], row[1]) for row in rows}


def pages() -> dict[str, str]:
    return manual.pages(resources.path("systemd/registryd.toml"), "1.2.3", 0)


def plain(page: str) -> str:
    """A page's words without roff's escapes."""
    return re.sub(r"\\f[BR]|\\&", "", page.replace("\\-", "-").replace("\\e", "\\"))


def test_every_command_has_a_man_page_with_all_its_options() -> None:
    found = pages()
    for path, command in commands(main):
        if path != "registryd demo":
            [page] = [text for name, text in found.items() if re.fullmatch(rf"man\d/{path.replace(' ', '-')}\.\d", name)]
            text = plain(page)
            if page.startswith(".so "):  # it leads to its group's page, where it has a section
                _, heading, below = plain(found[page.split()[1]]).partition(f'.SH "{path.upper()}"\n')
                text = heading + below.partition("\n.SH ")[0]
            assert path.upper() in text or path.upper().replace(" ", "-") in text, path
            for option in (parameter for parameter in command.params if isinstance(parameter, click.Option)):
                assert ", ".join(option.opts) in text, f"{path} {option.opts}"


def test_the_configuration_s_man_page_names_every_key() -> None:
    page = plain(pages()["man5/registryd.toml.5"])
    keys = re.findall(r"(?m)^\w+ = .*$", resources.path("systemd/registryd.toml").read_text())
    assert keys
    assert [key for key in keys if f".TP\n{key}\n" not in page] == []


def test_man_finds_no_fault_in_the_pages(tmp_path: Path) -> None:
    man = tool("man")
    for name, text in pages().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    environment = os.environ | {"MAN_KEEP_STDERR": "1"}
    for path in tmp_path.glob("man*/*"):
        if not path.read_text().startswith(".so "):
            done = subprocess.run([man, "--warnings", "-l", path], capture_output=True, text=True, check=False, env=environment)
            assert (done.returncode, done.stderr) == (0, ""), path


def test_the_package_holds_each_file_where_debian_looks_for_it(package: Path) -> None:
    there = contents(package)
    for unit in (path.name for path in (ROOT / "systemd").iterdir() if path.suffix in (".service", ".socket", ".target")):
        assert f"/usr/lib/systemd/system/{unit}" in there
    assert there["/etc/registryd/registryd.toml"][0] == "-rw-r-----"
    for path in (
        "/usr/bin/registryd",
        "/usr/lib/sysusers.d/registryd.conf",
        "/usr/lib/tmpfiles.d/registryd.conf",
        "/usr/share/bash-completion/completions/registryd",
        "/usr/share/doc/registryd/README.md",
        "/usr/share/doc/registryd/RUNBOOK.md",
        "/usr/share/registryd/roles.sql",
        "/usr/share/registryd/prometheus/registryd.rules.yml",
        "/usr/share/registryd/prometheus/scrape.example.yml",
        "/usr/share/registryd/grafana/registryd.json",
    ):
        assert path in there
    assert not [path for path in there if path.endswith(".pyc") or "/demo/" in path]


def test_everybody_may_read_the_program_whatever_the_builder_s_umask(package: Path) -> None:
    there = contents(package)
    assert {owner for _, owner in there.values()} == {"root/root"}
    modes = {mode for path, (mode, _) in there.items() if path.startswith(("/usr/", "/etc/registryd/")) and not path.endswith(".toml")}
    assert modes == {"drwxr-xr-x", "-rw-r--r--", "-rwxr-xr-x", "lrwxrwxrwx"}


def test_the_configuration_is_a_conffile_and_the_credentials_are_not_in_the_package(package: Path, extracted: Path) -> None:
    assert (extracted / "DEBIAN/conffiles").read_text() == "/etc/registryd/registryd.toml\n"
    assert not [path for path in contents(package) if "credentials/" in path]


def test_nothing_in_the_package_tells_where_it_was_built(package: Path, extracted: Path) -> None:
    built = str(package.parent).encode()
    assert not [path for path in extracted.rglob("*") if path.is_file() and built in path.read_bytes()]
    assert "direct_url.json" not in {path.name for path in extracted.rglob("*/registryd-*/*")}


def test_the_packaged_documents_lead_to_one_another(extracted: Path) -> None:
    documents = extracted / "usr/share/doc/registryd"
    links = [link for path in documents.glob("*.md") for link in re.findall(r"\]\(([^)#]+)", path.read_text())]
    assert "database.md" in links
    assert [link for link in links if "://" not in link and not (documents / link).exists()] == []


def test_the_packaged_program_runs_on_the_packaged_libraries(extracted: Path) -> None:
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the package's libraries are made for Debian 12's Python 3.11, and this is another")
    [home] = (extracted / "usr/lib/registryd").iterdir()
    [site] = home.glob("lib/*/site-packages")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(site)}
    command = [sys.executable, "-S", str(extracted / "usr/bin/registryd"), "serve", "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    everything = (
        "import aiohttp, asyncpg, backports.zstd, cryptography.x509, msgspec, orjson, prometheus_client, structlog, tenacity, uvloop"
    )
    checked = subprocess.run([sys.executable, "-S", "-c", everything], env=environment, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("script", ["postinst", "prerm", "postrm"])
def test_a_maintainer_script_restarts_and_migrates_nothing(script: str) -> None:
    text = (ROOT / "systemd/debian" / script).read_text()
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)
    code = [line for line in text.splitlines() if not line.lstrip().startswith(("#", "echo"))]
    assert not [line for line in code if re.search(r"restart|systemctl.* start|enable |registryd migrate", line)]


def test_the_completion_is_a_script_that_bash_reads(extracted: Path) -> None:
    completion = (extracted / "usr/share/bash-completion/completions/registryd").read_text()
    subprocess.run([tool("bash"), "-n"], input=completion, text=True, check=True)
    assert "complete -o nosort -F _registryd_completion registryd" in completion


def test_lintian_has_no_complaint(package: Path) -> None:
    done = subprocess.run([tool("lintian"), "--fail-on", "error,warning", package], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
