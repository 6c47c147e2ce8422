"""Man pages: registryd(8) and one page for each command, made from the commands themselves; registryd.toml(5), made from that file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click

from registryd.cli import main

FOR_EVERYBODY = ("client", "conformance", "listen")
"""Commands that need no rights on the service; their pages are in section 1, all others in section 8."""
NOT_PACKAGED = ("demo",)


def escaped(text: str) -> str:
    """Text as roff takes it literally."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"(?m)^([.'])", r"\\&\1", text)


def paragraphs(text: str) -> Iterator[str]:
    """A command's help: click marks what must keep its line ends with a \\b line."""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        marked, keep, rest = paragraph.partition("\b\n")
        yield f".PP\n.nf\n{escaped(rest)}\n.fi" if keep and not marked else f".PP\n{escaped(' '.join(paragraph.split()))}"


def options(context: click.Context) -> Iterator[str]:
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record is not None:
            names, text = record
            yield f".TP\n\\fB{escaped(names)}\\fR\n{escaped(text)}"


def described(context: click.Context) -> Iterator[str]:
    """What a command does, and its options."""
    command = context.command
    words = " ".join(command.collect_usage_pieces(context))
    yield f".PP\n\\fB{escaped(context.command_path)}\\fR {escaped(words)}"
    yield from paragraphs(command.help or "")
    yield from options(context)


def below(context: click.Context) -> Iterator[click.Context]:
    """The commands of a group, those of its groups included."""
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            assert command is not None, name
            inner = click.Context(command, info_name=name, parent=context)
            yield inner
            yield from below(inner)


def section(name: str) -> int:
    return 1 if name in FOR_EVERYBODY else 8


def head(name: str, number: int, version: str, made: datetime, short: str) -> Iterator[str]:
    yield f'.TH "{escaped(name.upper())}" "{number}" "{made:%Y-%m-%d}" "registryd {version}" "Subscriber registry"'
    yield f".SH NAME\n{escaped(name)} \\- {escaped(short)}"


def first_sentence(text: str) -> str:
    return " ".join(text.split()).partition(". ")[0].rstrip(".")


def command_pages(version: str, made: datetime) -> Iterator[tuple[str, str]]:
    """File names and texts. A command of a group has a page that leads to its group's."""
    whole = click.Context(main, info_name="registryd")
    seen = []
    for name in (name for name in main.list_commands(whole) if name not in NOT_PACKAGED):
        command = main.get_command(whole, name)
        assert command is not None, name
        context = click.Context(command, info_name=name, parent=whole)
        page, number = f"registryd-{name}", section(name)
        seen.append(f"\\fB{escaped(page)}\\fR({number})")
        lines = [*head(page, number, version, made, first_sentence(command.help or "")), ".SH DESCRIPTION", *described(context)]
        for inner in below(context):
            lines += [f'.SH "{escaped(inner.command_path.upper())}"', *described(inner)]
            alias = inner.command_path.replace(" ", "-")
            yield f"man{number}/{alias}.{number}", f".so man{number}/{page}.{number}\n"
        lines.append(".SH SEE ALSO\n\\fBregistryd\\fR(8), \\fBregistryd.toml\\fR(5)")
        yield f"man{number}/{page}.{number}", "\n".join(lines) + "\n"
    lines = [*head("registryd", 8, version, made, "the operator-side subscriber registry daemon"), ".SH DESCRIPTION", *described(whole)]
    lines += [".SH FILES\n.TP\n/etc/registryd/registryd.toml\nthe configuration", ".TP\n/etc/registryd/credentials\nkeys and certificates"]
    lines.append(f".SH SEE ALSO\n{', '.join(seen)}, \\fBregistryd.toml\\fR(5); /usr/share/doc/registryd/README.md and RUNBOOK.md")
    yield "man8/registryd.8", "\n".join(lines) + "\n"


def configuration_page(manual: Path, version: str, made: datetime) -> tuple[str, str]:
    """registryd.toml explains every key in the comment above it."""
    lines = [*head("registryd.toml", 5, version, made, "the configuration of registryd"), ".SH DESCRIPTION"]
    comment: list[str] = []
    for line in manual.read_text().splitlines():
        text = escaped(" ".join(comment))
        if line.startswith("#"):
            comment.append(line.lstrip("# "))
        elif line.startswith("["):
            lines += [f'.SH "{escaped(line)}"', text] if text else [f'.SH "{escaped(line)}"']
            comment = []
        elif " = " in line:
            lines += [f".TP\n\\fB{escaped(line)}\\fR", text]
            comment = []
        elif comment:
            lines.append(f".PP\n{text}")
            comment = []
    lines.append(".SH SEE ALSO\n\\fBregistryd\\fR(8)")
    return "man5/registryd.toml.5", "\n".join(lines) + "\n"


def pages(manual: Path, version: str, epoch: int) -> dict[str, str]:
    """Every page: its path below /usr/share/man, and its text."""
    made = datetime.fromtimestamp(epoch, UTC)
    return dict([*command_pages(version, made), configuration_page(manual, version, made)])
