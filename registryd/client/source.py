"""The file of numbers and codes that a messenger wants to identify."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from registryd.domain.errors import Refusal
from registryd.domain.identifiers import parse_code, parse_msisdn


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
    with source.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file)
        try:
            for fields in reader:
                if not any(fields) or (reader.line_num == 1 and not any(character.isdigit() for character in fields[0])):
                    continue
                yield _line(reader.line_num, fields)
        except csv.Error as error:
            raise ClientRefused(f"{source} line {reader.line_num}: {error}") from None


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
        query["identificationCode"] = fields[1]
        try:
            parse_code(fields[1])
        except ValueError:
            return SourceLine(number, {}, "not_a_code")
    return SourceLine(number, query)
