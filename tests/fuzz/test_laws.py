"""The laws for any bytes, tried with random bodies and requests; `make fuzz` tries them with bytes that a fuzzer finds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import LONG
from tests.fuzz import framing, laws

EXAMPLES = 5_000 if LONG else 300
NAMES = st.sampled_from(laws.FIELDS.split("|")) | st.text(max_size=5)
WORDS = st.sampled_from(["+79161357924", "+7", "", "u-1", "terminated", "2026-01-02T03:04:05Z", "00000000-0000-0000-0000-000000000000"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
)


def broken(whole: bytes, cut: tuple[int, int, bytes]) -> bytes:
    """`whole` with some of its bytes left out and others put there."""
    start, length, put = cut
    start %= len(whole) + 1
    return whole[:start] + put + whole[start + length :]


CUTS = st.tuples(
    st.integers(0, 2_000), st.integers(0, 5), st.binary(max_size=5) | st.sampled_from([b"\r\n", b"0\r\n\r\n", b'"', b"\\u0000"])
)


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(value=VALUES, is_broken=st.booleans(), cut=CUTS)
def test_a_body_is_read_or_refused_in_words_of_ours(value: Any, is_broken: bool, cut: tuple[int, int, bytes]) -> None:
    raw = json.dumps(value).encode()
    laws.bodies(broken(raw, cut) if is_broken else raw)


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(whole=st.sampled_from(framing.requests()), cut=CUTS, pieces=st.integers(0, 255))
def test_a_connection_answers_in_whole_answers_and_ends_with_its_client(whole: bytes, cut: tuple[int, int, bytes], pieces: int) -> None:
    laws.connection(bytes([pieces]) + broken(whole, cut))


@pytest.mark.parametrize("piece", [0, 3, 255], ids=["byte by byte", "ten bytes at once", "at once"])
@pytest.mark.parametrize("whole", framing.requests())
def test_so_does_it_however_the_request_is_cut_on_its_way(whole: bytes, piece: int) -> None:
    """What comes later than the headers and is broken is refused at once: nobody waits for the rest of it."""
    laws.connection(bytes([piece]) + whole)


def test_who_was_woken_at_a_chunk_s_end_learns_that_the_next_one_is_broken() -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    for size in range(1, 256):
        laws.connection(bytes([size]) + head + b"2f\r\n" + b" " * 47 + b"TT")
    laws.connection(
        b"\x03PRI /1.1\r\nHosion: Bearer\r\n" + head[29:] + b'2f\r\n{"phon /1eNumber": "+79161357924"}\r\n0\r\n\r\nGET /\n\r\nGErTT'
    )
