"""Numbers, codes and ids. They are parsed once, at the edge: behind it, an `Msisdn` or an `IdentificationCode` is valid by its type."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import NewType

import orjson

Msisdn = NewType("Msisdn", int)
"""E.164 digits without the plus, 5 to 15 of them (ITU-T E.164)."""

IdentificationCode = NewType("IdentificationCode", str)
"""1 to 128 printable ASCII characters, assigned by a messenger to its user; opaque to the operator."""

MessengerId = NewType("MessengerId", int)

MSISDN = re.compile("[1-9][0-9]{4,14}+", re.ASCII)
MSISDN_WANTED = "5 to 15 digits without the plus, the first not 0"
PHONE_NUMBER = re.compile(rf"\+{MSISDN.pattern}", re.ASCII)
_MAYBE_NUMBER = re.compile(
    r"(?<![0-9])[0-9]{10,15}(?![0-9])|((?<=\+)[0-9]|(?<![0-9A-Za-z])[78])([ ()-]{0,3}[0-9]){9,14}(?![0-9])", re.ASCII
)
"""10 to 15 digits, also as people write them: +7 921 123-45-67, 8 (921) 123-45-67. A date and a time are none."""
_PHONE_NUMBERS = re.compile(rf"(?:\+{MSISDN.pattern},)++", re.ASCII)
IDENTIFICATION_CODE = re.compile(r"[ -~]{1,128}", re.ASCII)

DIGEST_BYTES = 16


def parse_msisdn(phone_number: str) -> Msisdn:
    """`+79161234567` → `79161234567`.

    Raises: ValueError, whose message says what is wanted and repeats nothing of what was given.
    """
    if PHONE_NUMBER.fullmatch(phone_number) is None:
        raise ValueError("must be an E.164 number: a plus, then 5 to 15 ASCII digits, the first not 0")
    return Msisdn(int(phone_number[1:]))


def begins_with_trunk_8(msisdn: Msisdn) -> bool:
    """Whether it is a Russian mobile number as dialled inside Russia: 8 9xx … for +7 9xx …. No country code begins with 89."""
    return 89_000_000_000 <= msisdn <= 89_999_999_999


def parse_msisdns(phone_numbers: Sequence[str]) -> list[Msisdn]:
    """Parses many numbers several times as fast as `parse_msisdn` one by one. Raises: ValueError, where any of them is no number."""
    joined = ",".join(phone_numbers) + ","
    # The pattern alone would take an item that holds a comma for two numbers, so the commas are counted too.
    if _PHONE_NUMBERS.fullmatch(joined) is None or joined.count(",") != len(phone_numbers):
        raise ValueError("must all be E.164 numbers")
    numbers: list[Msisdn] = orjson.loads(f"[{joined[:-1].replace('+', '')}]")  # it reads integers five times as fast as int()
    return numbers


def parse_code(code: str) -> IdentificationCode:
    """Raises: ValueError, whose message says what is wanted, as that of `parse_msisdn` does."""
    if IDENTIFICATION_CODE.fullmatch(code) is None:
        raise ValueError("must be 1 to 128 printable ASCII characters")
    return IdentificationCode(code)


def phone_number(msisdn: int) -> str:
    """`79161234567` → `+79161234567`, as the wire has it."""
    return f"+{msisdn}"


def msisdn_digest(key: bytes, msisdn: Msisdn) -> bytes:
    """Keyed BLAKE2b-128 (RFC 7693) of a number: an unkeyed hash of a phone number is reversed in seconds."""
    return msisdn_digests(key, (msisdn,))


def msisdn_digests(key: bytes, msisdns: Iterable[Msisdn]) -> bytes:
    """The digests of numbers, one after another."""
    keyed = _keyed(key).copy
    digests = []
    for msisdn in msisdns:
        state = keyed()
        state.update(msisdn.to_bytes(8, "big"))
        digests.append(state.digest())
    return b"".join(digests)


@lru_cache(maxsize=4)
def _keyed(key: bytes) -> blake2b:
    """The hash's state after the key. Taking in the key is half the cost of a short digest, so the state is kept and copied."""
    return blake2b(digest_size=DIGEST_BYTES, key=key)


def query_id(page_id: str, index: int) -> str:
    """A query's id: its page's id with the query's index, 0 to 65,535, as the last four hexadecimal digits."""
    return f"{page_id[:-4]}{index:04x}"


def masked_number(msisdn: int) -> str:
    """`79161234567` → `+7916*****67`, for people who may recognise a number but not learn it."""
    digits = str(msisdn)
    kept = 4 if len(digits) > 8 else 1
    return f"+{digits[:kept]}{'*' * (len(digits) - kept - 2)}{digits[-2:]}"


def without_numbers(text: str) -> str:
    """What a person wrote, with a star for each thing that may be a number: a reason may name one."""
    return _MAYBE_NUMBER.sub("*", text)


def masked_code(code: str) -> str:
    """`user-81f3` → `us*******`. It shows at most a quarter of the code, and at most 8 characters."""
    kept = min(len(code) // 4, 8)
    return code[:kept] + "*" * min(len(code) - kept, 8)
