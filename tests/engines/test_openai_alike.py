"""Events that differ in their text alone are told from others, and say what a parser says."""

from __future__ import annotations

import pytest

from engines.openai import alike as openai_alike
from engines.openai.alike import MIN_EVENTS, take_alike
from engines.openai.decode import decode

if not openai_alike.COMPILED:
    pytest.skip("engines/http/_stream.c was not compiled here", allow_module_level=True)

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PLAIN = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}\n\n'
ROLE = b'data: {"id":"x","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
LAST = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"."},"finish_reason":"length"}]}\n\n'
TAIL = (b"data: [DONE]\n\n",)
WORDS = [b" w%d" % place for place in range(40)]


def framed(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)


def stream(texts, *, mould=PLAIN, first=(ROLE,), last=(LAST,)) -> list[bytes]:
    """One read an event, as a server under little load gives them."""
    events = [*first, *(mould % text for text in texts), *last]
    return [HEAD, *map(framed, events), b"".join(map(framed, TAIL)) + b"0\r\n\r\n"]


def test_texts_and_counts():
    reads = stream(WORDS)
    alike = take_alike(reads)
    assert alike is not None
    assert (alike.reads_before, len(alike.texts), len(alike.rest)) == (2, 40, 4)
    decoded = decode(reads)
    assert decoded.text == b"".join(WORDS).decode() + "."
    assert decoded.tokens_per_chunk == [0, 0, *[1] * 41, 0]
    assert (decoded.reason, decoded.error_class) == ("length", None)


@pytest.mark.parametrize(
    "text",
    [b'say \\"no\\"', b"a\\\\b", b"\\u00e9\\n", b"\xc3\xa9\xe2\x80\xa8", b"\\ud83d\\ude00", b"", b"x" * 300, b"data: {}\\n\\n"],
    ids=repr,
)
def test_any_json_string_is_a_text(text):
    texts = [*WORDS[:9], text, *WORDS[9:]]
    reads = stream(texts)
    assert take_alike(reads) is not None
    assert decode(reads).text == json_text(b"".join(texts)) + "."


def test_sizes_of_two_and_of_three_digits_in_one_stream():
    filler = b'data: {"choices":[{"delta":{"content":"%b"}}],"fill":"' + b"f" * 190 + b'"}\n\n'
    texts = [b"t" * (place % 30) for place in range(60)]
    texts[0] = texts[30] = b"t"
    assert len({len(b"%x" % len(filler % text)) for text in texts}) == 2
    reads = stream(texts, mould=filler)
    assert take_alike(reads) is not None
    assert decode(reads).tokens_per_chunk == [0, 0, *[1] * 61, 0]


@pytest.mark.parametrize(
    "odd",
    [
        b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"a","content":"b"},"finish_reason":null}]}\n\n',
        b'data: {"id":"y","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n',
        b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"a\\"},"finish_reason":null}]}\n\n',
        b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"a","b"},"finish_reason":null}]}\n\n',
        b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"\xc3"},"finish_reason":null}]}\n\n',
        b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"\\ud800"},"finish_reason":null}]}\n\n',
    ],
    ids=["text twice", "another id", "open string", "two strings", "half a character", "half a surrogate pair"],
)
def test_an_odd_event_leaves_all_to_the_parser(odd):
    texts = [framed(PLAIN % word) for word in WORDS]
    reads = [HEAD, framed(ROLE), *texts[:10], framed(odd), *texts[10:], framed(LAST), framed(TAIL[0]) + b"0\r\n\r\n"]
    assert take_alike(reads) is None


def test_a_wrong_chunk_size_leaves_all_to_the_parser():
    reads = stream(WORDS)
    reads[12] = b"ff" + reads[12][2:]
    assert take_alike(reads) is None


def test_empty_texts_beside_a_role_are_no_tokens():
    mould = b'data: {"choices":[{"delta":{"role":"assistant","content":"%b"}}]}\n\n'
    assert take_alike(stream([*WORDS, b"", *WORDS], mould=mould)) is None
    assert decode(stream([*WORDS, b"", *WORDS], mould=mould)).tokens_per_chunk.count(1) == 81


def test_few_events_are_not_worth_it():
    assert take_alike(stream(WORDS[: MIN_EVENTS - 4], first=())) is None


def test_events_in_one_read_are_counted_in_it():
    reads = stream(WORDS)
    reads[5:9] = [b"".join(reads[5:9])]
    assert decode(reads).tokens_per_chunk == [0, 0, 1, 1, 1, 4, *[1] * 34, 0]
    assert decode([b"".join(reads)]).tokens_per_chunk == [41]


def json_text(raw: bytes) -> str:
    import json

    return json.loads(b'"' + raw + b'"')


def test_tokens_behind_the_end_are_left_to_the_parser():
    reads = [HEAD, framed(TAIL[0]), *(framed(PLAIN % word) for word in WORDS), b"0\r\n\r\n"]
    assert take_alike(reads) is None
    assert sum(decode(reads).tokens_per_chunk) == 0


def test_without_a_compiler_the_next_path_gives_the_same(monkeypatch):
    streams = [stream(WORDS), stream(WORDS, last=()), [b"".join(stream([*WORDS, b"data: {}\\n\\n"]))], [b"".join(stream(WORDS * 4))]]
    compiled = [decode(reads) for reads in streams]
    monkeypatch.setattr(openai_alike, "COMPILED", False)
    assert take_alike(streams[0]) is None
    assert [decode(reads) for reads in streams] == compiled
