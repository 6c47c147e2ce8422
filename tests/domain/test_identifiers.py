"""Numbers, codes and ids: parsed exactly, told without an echo, digested under a key, ordered by time."""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import blake2b
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from registryd.domain.identifiers import (
    Msisdn,
    msisdn_digest,
    parse_code,
    parse_msisdn,
    parse_msisdns,
    phone_number,
    query_id,
)
from tests.conftest import time_ordered_id

KEY = bytes(range(32))
numbers = st.integers(10**4, 10**15 - 1).map(Msisdn)


@given(numbers)
def test_every_number_survives_the_wire(msisdn: Msisdn) -> None:
    assert parse_msisdn(phone_number(msisdn)) == msisdn


@pytest.mark.parametrize(
    "text",
    [
        "",
        "+",
        "79161234567",
        "+7916123456a",
        "+0916123456",
        "+1234",
        "+1234567890123456",
        "+79161234567890123456",
        " +79161234567",
        "+79161234567 ",
        "+79161234567\n",
        "+7 916 123-45-67",
        "++79161234567",
        "+７９１６１２３４５６７",
        "+٧٩١٦١٢٣٤٥٦٧",
        "+7916123456²",
        "+79161234567\x00",
        "+7_916_123_45",
        "+0x1234567",
        "tel:+79161234567",
    ],
)
def test_what_is_not_an_e164_number_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(ValueError, match=r"E\.164") as refused:
        parse_msisdn(text)
    assert not re.search(r"[0-9]{6}", str(refused.value))


@given(st.text() | st.from_regex(r"\+?\d{0,20}"))
@example("+79161234567")
def test_a_text_is_a_number_only_as_we_would_write_it(text: str) -> None:
    try:
        msisdn = parse_msisdn(text)
    except ValueError:
        assert re.fullmatch(r"\+[1-9][0-9]{4,14}", text, re.ASCII) is None
    else:
        assert phone_number(msisdn) == text


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=128))
def test_printable_ascii_is_a_code(text: str) -> None:
    assert parse_code(text) == text


@pytest.mark.parametrize("text", ["", "a" * 129, "ü", "a\n", "\ta", "a\x7f", "a\x00", "кодъ", "a\u200b", "１"])
def test_other_texts_are_no_codes_and_are_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII") as refused:
        parse_code(text)
    assert not text or text not in str(refused.value)


@given(numbers, st.binary(min_size=32, max_size=32))
def test_digest_of_a_number_is_keyed(msisdn: Msisdn, key: bytes) -> None:
    digest = msisdn_digest(key, msisdn)
    assert len(digest) == 16
    assert digest == msisdn_digest(key, msisdn)
    assert digest != msisdn_digest(bytes(b ^ 1 for b in key), msisdn)
    assert digest != blake2b(msisdn.to_bytes(8, "big"), digest_size=16).digest()


def test_digest_stays_what_it_was() -> None:
    """The journal is searched by it years later."""
    assert msisdn_digest(KEY, Msisdn(79161234567)).hex() == blake2b((79161234567).to_bytes(8, "big"), digest_size=16, key=KEY).hexdigest()
    assert msisdn_digest(KEY, Msisdn(79161234567)).hex() == "41fa96ee351fda85e89b88d2962f9bc5"


milliseconds = st.integers(0, 2**48 - 1)
randoms = st.binary(min_size=10, max_size=10)


@given(milliseconds, randoms, st.integers(0, 65_535))
def test_query_id_leads_back_to_its_page_and_place(at: int, random: bytes, index: int) -> None:
    page = time_ordered_id(at, random)
    query = UUID(query_id(str(page), index))
    assert query.int & 0xFFFF == index
    assert query.int & ~0xFFFF == page.int
    assert query.version == 7


@given(st.lists(st.one_of(numbers.map(phone_number), st.text("+0123456789,\n٣", max_size=40)), min_size=1, max_size=8))
@example(["+79161234567,+79161234568"])
@example(["+79161234567", ""])
def test_many_numbers_are_parsed_as_each_of_them(texts: list[str]) -> None:
    def outcome(parse: Callable[[], list[Msisdn]]) -> list[Msisdn] | None:
        try:
            return parse()
        except ValueError:
            return None

    assert outcome(lambda: parse_msisdns(texts)) == outcome(lambda: [parse_msisdn(text) for text in texts])
