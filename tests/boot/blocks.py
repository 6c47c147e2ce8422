"""The blocks of systemd/README.md, as an operator copies them."""

from __future__ import annotations

from collections.abc import Iterator

from registryd import resources

HEADINGS = ("Install", "A second machine", "Upgrade", "Uninstall")
"""The sections whose blocks the campaign pastes, each of them."""


def shell_blocks() -> Iterator[tuple[str, str]]:
    """Every block of shell commands, with the heading that it stands under."""
    heading, block, inside = "", list[str](), False
    for line in resources.path("systemd/README.md").read_text().splitlines(keepends=True):
        if line.startswith("```"):
            if block:
                yield heading, "".join(block)
            inside, block = line == "```sh\n", []
        elif inside:
            block.append(line)
        elif line.startswith("#"):
            heading = line.strip("# \n")


def under(heading: str) -> list[str]:
    return [block for found, block in shell_blocks() if found == heading]


def apt_lines() -> list[str]:
    """What the documents install from Debian, and our package, on a machine that has neither."""
    blocks = (*under("Install"), *under("A second machine"))
    return [line for block in blocks for line in block.splitlines() if line.startswith("apt-get install ")]


class Blocks:
    """Hands the blocks out, and remembers which were asked for."""

    def __init__(self) -> None:
        self._all = {(heading, n): text for heading in HEADINGS for n, text in enumerate(under(heading))}
        self._asked: set[tuple[str, int]] = set()

    def get(self, heading: str, number: int) -> str:
        self._asked.add((heading, number))
        return self._all[heading, number]

    @property
    def never_asked(self) -> list[str]:
        return [f"{heading} {number}" for heading, number in self._all if (heading, number) not in self._asked]
