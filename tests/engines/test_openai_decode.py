"""How much of a hostile answer is looked at: decoding shares the event loop with every other request."""

from __future__ import annotations

import pytest

from engines.openai import decode as openai_decode
from engines.openai.decode import decode

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
TOKEN = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
CAP, LOOKED_AT, READ, READS, LOOKED_AT_READS = 1 << 20, 1 << 14, 1 << 12, 2000, 200


@pytest.fixture
def decoded_bytes(monkeypatch):
    """With smaller limits: how long what the fast path gets is, of each decoding."""
    limits = {"MAX_RESPONSE_BYTES": CAP, "LOOKED_AT_BYTES": LOOKED_AT, "MAX_READ_BYTES": READ}
    for name, value in (limits | {"MAX_READS": READS, "LOOKED_AT_READS": LOOKED_AT_READS}).items():
        monkeypatch.setattr(openai_decode, name, value)
    sizes: list[int] = []

    def look(reads, _usage):
        sizes.append(sum(map(len, reads)))

    monkeypatch.setattr(openai_decode, "_decode_fast", look)
    return sizes


def test_of_an_answer_over_the_cap_the_beginning_is_decoded(decoded_bytes):
    reads = [HEAD, TOKEN, TOKEN, b'data: {"choices":[{"delta":{"content":"', *[b"x" * READ] * (CAP // READ)]
    found = decode(reads)
    assert 0 < decoded_bytes[0] <= LOOKED_AT
    assert found.tokens_per_chunk == [0, 1, 1] + [0] * (len(reads) - 3)


def test_of_an_answer_in_too_many_reads_the_beginning_is_decoded(decoded_bytes):
    found = decode([HEAD, TOKEN, *[b"\n"] * READS])
    assert decoded_bytes == [len(HEAD) + len(TOKEN) + LOOKED_AT_READS - 2]
    assert found.tokens_per_chunk == [0, 1] + [0] * READS


def test_an_answer_just_under_the_cap_is_decoded_whole(decoded_bytes):
    reads = [HEAD, *[b": ping\n\n" * (READ // 8)] * (CAP // READ - 1), TOKEN]
    assert decode(reads).tokens_per_chunk[-1] == 1
    assert decoded_bytes == [sum(map(len, reads))]


def test_a_long_line_without_an_end_is_not_searched_for_events(monkeypatch):
    class Unwanted:
        def findall(self, *_arguments):
            raise AssertionError("this search takes a second for 64 MB")

    monkeypatch.setattr(openai_decode, "_EVENT", Unwanted())
    found = decode([HEAD, TOKEN, b"data: {" + b"x" * 1000])
    assert found.tokens_per_chunk == [0, 1, 0]
    assert found.error_class == "truncated_stream"
