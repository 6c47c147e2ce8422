"""The file of numbers and codes that a messenger wants to identify."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from registryd.domain.errors import Refusal
from registryd.domain.identifiers import parse_code, parse_msisdn

BEGINNING_BYTES = 64 * 1024
LOOKED_AT_LINES = 3


class ClientRefused(Refusal):
    """The work cannot go on. Results so far are kept."""


class SourceLine(NamedTuple):
    """One line of the file: the query it asks for, or what is wrong with it."""

    number: int
    query: dict[str, str]
    error: str = ""


def count_lines(source: Path) -> int:
    with source.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


def read_lines(source: Path) -> Iterator[SourceLine]:
    """Every line except a header and empty lines. Raises: ClientRefused."""
    _refuse_another_dress(source)
    with source.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file, skipinitialspace=True)
        try:
            for fields in reader:
                if not any(fields) or (reader.line_num == 1 and not any(character.isdigit() for character in fields[0])):
                    continue
                yield _line(reader.line_num, fields)
        except csv.Error as error:
            raise ClientRefused(f"{source} line {reader.line_num}: {error}") from None


def _refuse_another_dress(source: Path) -> None:
    """Refuses a whole file of another kind by one sentence, where each line would be refused by itself. Raises: ClientRefused."""
    with source.open("rb") as file:
        beginning = file.read(BEGINNING_BYTES)
    if beginning.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ClientRefused(f"{source} is UTF-16, as Excel's Unicode text is: save it as CSV in UTF-8")
    lines = [line for line in beginning.decode("utf-8-sig", "replace").splitlines()[:LOOKED_AT_LINES] if line.strip()]
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        if lines and all(re.match(rf"[^,]*?{separator}", line) for line in lines):
            raise ClientRefused(f"{source} has {name} between its fields: save it as CSV with commas")


def _line(number: int, fields: list[str]) -> SourceLine:
    phone_number = fields[0].strip()
    if phone_number[:1] != "+":
        phone_number = f"+{phone_number}"
        if re.fullmatch(r"\+8[0-9]{10}", phone_number):
            return SourceLine(number, {}, "ambiguous_number")  # 8 916 …, as Russians dial it, or a country of +8…
    query = {"phoneNumber": phone_number}
    try:
        parse_msisdn(phone_number)
    except ValueError:
        return SourceLine(number, {}, "not_a_number")
    if len(fields) > 1 and fields[1]:
        code = query["identificationCode"] = fields[1].strip(" \t")  # blanks around it are the file's
        try:
            parse_code(code)
        except ValueError:
            return SourceLine(number, {}, "not_a_code")
    return SourceLine(number, query)
