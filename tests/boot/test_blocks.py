"""The blocks that `make boot` pastes, as far as they can be judged without a machine to paste them on."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from registryd import resources
from tests.boot.blocks import HEADINGS, apt_lines, shell_blocks, under

BLOCKS = [block for _, block in shell_blocks()]


@pytest.mark.parametrize("heading", HEADINGS)
def test_each_section_that_the_campaign_pastes_has_blocks(heading: str) -> None:
    assert under(heading)


@pytest.mark.parametrize("block", BLOCKS)
def test_each_block_is_a_shell_s(block: str) -> None:
    done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("block", BLOCKS)
def test_no_block_needs_what_a_minimal_debian_lacks(block: str) -> None:
    assert not re.search(r"\bsudo\b|/etc/sysusers\.d|/etc/tmpfiles\.d", block)


def test_no_other_document_needs_it_either() -> None:
    texts = [path.read_text() for path in (resources.path("sql/README.md"), resources.path("systemd/RUNBOOK.md"))]
    assert not [line for text in texts for line in text.splitlines() if re.search(r"\bsudo\b", line)]


@pytest.mark.parametrize("block", BLOCKS)
def test_no_block_overwrites_a_key_that_is_there(block: str) -> None:
    for line in block.splitlines():
        if "openssl" in line and (">" in line or "-keyout" in line):
            assert "[ -s " in line or "mv " in line, line


def test_rotating_secrets_key_twice_keeps_the_key_that_what_is_stored_was_sealed_under(tmp_path: Path) -> None:
    [line] = [line for block in BLOCKS for line in block.splitlines() if "openssl" in line and "secrets-key-previous" in line]
    (tmp_path / "secrets-key").write_text("the first")
    for _ in range(2):
        subprocess.run(["sh", "-c", line], cwd=tmp_path, check=True)
    assert (tmp_path / "secrets-key-previous").read_text() == "the first"
    assert len((tmp_path / "secrets-key").read_text().strip()) == 64


def test_the_packages_that_the_documents_install_are_known_to_the_campaign() -> None:
    assert all("./registryd" in line for line in apt_lines())
    assert len(apt_lines()) == 2
