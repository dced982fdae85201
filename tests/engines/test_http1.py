"""HTTP/1.1 responses without I/O: the watcher agrees with the parser however the bytes are cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.http import http1
from engines.http.http1 import ChunkScanner, Framing, HttpParseError, HttpTooLarge, ResponseWatcher, parse_head, parse_response

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n"
RESPONSES = {
    "chunked": CHUNKED + b"5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\n\r\n",
    "chunked with a chunk that looks like an end": CHUNKED + b"9\r\n0\r\n\r\nabcd\r\n0\r\n\r\n",
    "chunked with CRLF events": CHUNKED + b"b\r\ndata: x\r\n\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
    "chunked with trailers": CHUNKED + b"3\r\nabc\r\n0\r\nX-A: 1\r\nX-B: 2\r\n\r\n",
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "empty length": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "interim first": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + CHUNKED + b"2\r\nhi\r\n0\r\n\r\n",
}
BODIES = {
    "chunked": b"hello world",
    "chunked with a chunk that looks like an end": b"0\r\n\r\nabcd",
    "chunked with CRLF events": b"data: x\r\n\r\nabcd",
    "chunked with trailers": b"abc",
    "length": b"hello",
    "empty length": b"",
    "no content": b"",
    "interim first": b"hi",
}


def body_of(data: bytes) -> bytes:
    response = parse_response(data)
    assert response is not None
    assert response.complete
    return b"".join(data[start:end] for start, end in response.spans)


def complete_at(reads: list[bytes]) -> int | None:
    watcher = ResponseWatcher()
    for place, read in enumerate(reads):
        if watcher.feed(read):
            return place
    return None


@pytest.mark.parametrize("name", RESPONSES)
def test_whole_response(name):
    assert body_of(RESPONSES[name]) == BODIES[name]
    assert complete_at([RESPONSES[name]]) == 0


@pytest.mark.parametrize("name", RESPONSES)
def test_byte_by_byte_completes_at_the_last_byte(name):
    data = RESPONSES[name]
    assert complete_at([data[i : i + 1] for i in range(len(data))]) == len(data) - 1


@pytest.mark.parametrize("name", RESPONSES)
def test_every_cut_in_two_completes_with_the_second(name):
    data = RESPONSES[name]
    for cut in range(1, len(data)):
        assert complete_at([data[:cut], data[cut:]]) == 1, cut


@given(st.sampled_from(sorted(RESPONSES)), st.lists(st.integers(1, 200), max_size=8))
def test_any_cut_completes_with_the_last_read(name, cuts):
    data = RESPONSES[name]
    places = sorted({cut for cut in cuts if cut < len(data)})
    reads = [data[begin:end] for begin, end in zip([0, *places], [*places, len(data)], strict=True)]
    assert complete_at(reads) == len(reads) - 1


@pytest.mark.parametrize("name", RESPONSES)
def test_a_response_cut_short_is_incomplete(name):
    data = RESPONSES[name]
    for cut in range(len(data)):
        response = parse_response(data[:cut])
        assert response is None or not response.complete, cut


def test_close_delimited_bodies_end_with_the_connection():
    data = b"HTTP/1.0 200 OK\r\n\r\nhello"
    watcher = ResponseWatcher()
    assert not watcher.feed(data)
    assert watcher.finished_by_close()
    assert body_of(data) == b"hello"
    assert watcher.head is not None
    assert watcher.head.framing is Framing.UNTIL_CLOSE
    assert not watcher.head.keep_alive


def test_empty_lines_after_the_end_are_nothing_and_anything_else_is_a_fault():
    whole = CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"
    assert ResponseWatcher().feed(whole + b"\r\n\r\n")
    with pytest.raises(HttpParseError, match="after the end"):
        ResponseWatcher().feed(whole + b"\r\nmore")


@pytest.mark.parametrize(
    ("head", "keep_alive"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Close\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", True),
    ],
)
def test_keep_alive(head, keep_alive):
    parsed = parse_head(head)
    assert parsed is not None
    assert parsed[0].keep_alive is keep_alive


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded: header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"3\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"-1\r\n\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"a" * 70_000 + b"\r\n\r\n",
    ],
)
def test_what_is_no_response_is_one_error(data):
    with pytest.raises(HttpParseError):
        parse_response(data)


def test_bytes_after_the_end_are_an_error():
    with pytest.raises(HttpParseError):
        ResponseWatcher().feed(RESPONSES["chunked"] + b"HTTP/1.1 200 OK\r\n\r\n")
    with pytest.raises(HttpParseError):
        ResponseWatcher().feed(RESPONSES["length"] + b"x")


@settings(max_examples=500)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_give_a_response_or_one_error(data, with_head):
    whole = CHUNKED + data if with_head else data
    reads = [whole[start : start + 7] for start in range(0, len(whole), 7)]
    try:
        response, ended = parse_response(whole), complete_at(reads)
    except HttpParseError:
        return
    assert response is None or all(start <= end <= len(whole) for start, end in response.spans)
    assert ended is None or (response is not None and response.complete)


def test_interim_heads_are_read_once_and_have_an_end(monkeypatch):
    """However many there are and however they come: the work grows with the bytes, and so much is the bound."""
    parsed = []
    whole = http1._head
    monkeypatch.setattr(http1, "_head", lambda block: parsed.append(block) or whole(block))
    watcher, interim = ResponseWatcher(), b"HTTP/1.1 100 Continue\r\n\r\n"
    fits = http1.MAX_HEAD_BYTES // len(interim)
    for _ in range(fits):
        assert not watcher.feed(interim)
    assert len(parsed) == fits
    with pytest.raises(HttpTooLarge):
        watcher.feed(interim * 2)
    with pytest.raises(HttpTooLarge):
        parse_head(interim * (http1.MAX_HEAD_BYTES // len(interim) + 1) + b"HTTP/1.1 200 OK\r\n\r\n")


@pytest.mark.parametrize("piece", [b"a", b"a\r\n\r\n"])
def test_a_chunk_is_walked_over_once_however_it_comes(piece, monkeypatch):
    """Reads of a byte, and reads that look like the last one, of one large chunk."""
    walked = []
    scan = ChunkScanner.scan
    monkeypatch.setattr(ChunkScanner, "scan", lambda self, data: walked.append(len(data)) or scan(self, data))
    watcher, count = ResponseWatcher(), 20_000
    watcher.feed(CHUNKED + b"%x\r\n" % (count * len(piece)))
    for _ in range(count):
        assert not watcher.feed(piece)
    assert watcher.feed(b"\r\n0\r\n\r\n")
    assert sum(walked) < 3 * count * len(piece)


def test_identity_is_no_coding():
    response = parse_response(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nbody")
    assert response.head.framing is Framing.UNTIL_CLOSE
