"""The requests with another one hidden in them are cut where they say, so that the hidden one is whole."""

from __future__ import annotations

from tests.fuzz import framing, pairs

ALL = [
    (case.sent, pairs.filled(case, path=b"/v1/presence", key="rk_0123456789_" + "k" * 43, body=b'{"phoneNumber":"+79161234567"}'))
    for case in pairs.pairs()
]


def test_a_length_of_the_whole_body_is_that_of_what_is_sent() -> None:
    lone = [
        sent
        for template, sent in ALL
        if b"\r\nContent-Length: @ALL\r\n" in template and template.partition(b"\r\n\r\n")[0].count(b"ontent-Length:") == 1
    ]
    assert len(lone) > 50
    for sent in lone:
        head, _, body = sent.partition(b"\r\n\r\n")
        assert int(head.partition(b"\r\nContent-Length: ")[2].partition(b"\r\n")[0]) == len(body)


def test_behind_a_short_length_the_hidden_request_begins_and_the_chunk_ends_with_it() -> None:
    short = [sent for template, sent in ALL if b"@SIZE" in template]
    assert len(short) > 50
    for sent in short:
        head, _, body = sent.partition(b"\r\n\r\n")
        hidden = body[int(head.rpartition(b"\r\nContent-Length: ")[2]) :]
        assert hidden.startswith(b"POST /v1/presence HTTP/1.1\r\n")
        assert hidden[int(body.partition(b"\r\n")[0], 16) :] == b"\r\n" + framing.END


def test_no_word_is_left_to_fill_in() -> None:
    for _, sent in ALL:
        assert not any(
            word in sent for word in (b"@ALL", b"@SIZE", b"@CHUNK", b"@LINE", b"@PATH", b"@AUTH", b"@JSON", b"@BODY", b"@LEN", b"@HEX")
        )
