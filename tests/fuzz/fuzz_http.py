"""Fuzz what turns raw reads into an answer: `python -m tests.fuzz.fuzz_http --count 1000000 --seed 1`.

The invariant. For any bytes S, cut into reads in any way:
    the watcher and the parser raise nothing but HttpParseError, and agree on where a response ends
    (bytes behind an end that came in the same read are a server's that no client can serve);
    decode(reads) raises nothing, counts one number a read, and finds an error class of the contract;
    usage moves neither the first nor the last token (where no text is empty: there usage tells what a token is);
    what the fast path of decode accepts, the slow path says too, token by token, when the framing is
    right (the fast path does not check chunk sizes: with every event whole, they change nothing).

Inputs are mutations of the files in corpus/http, and answers put together at random. An input that
breaks the invariant is printed, written beside the corpus and ends the run with status 1.
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import get_args
from unittest import mock

from engines.contract import Decoded, ErrorClass
from engines.http.http1 import Framing, HttpParseError, ResponseWatcher, parse_response
from engines.openai import alike as openai_alike
from engines.openai import decode as openai_decode
from engines.openai.decode import DONE_EVENT
from tests.fuzz.command import main
from tests.fuzz.mutation import cut, damage

CORPUS = Path(__file__).parent / "corpus" / "http"
ERROR_CLASSES = {None, *get_args(ErrorClass)}
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENTS = (
    b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n',
    b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n',
    b'data: {"choices":[{"delta":{"content":" data: {}"}}]}\n\n',
    b'data: {"choices":[{"delta":{"content":"","reasoning_content":"hm"},"finish_reason":null}]}\n\n',
    b'data: {"choices":[{"text":"b","finish_reason":"length"}]}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n',
    b'data: {"error":{"message":"oops"}}\n\n',
    b'data: {"choices":[{"delta":{"content":""},"finish_reason":null}]}\n\n',
    b'data: {"choices":[{"delta":{"content":""},"finish_reason":"length"}]}\n\n',
    b'data: {"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"{"}}]}}]}\n\n',
    b'data: {"choices":[{"delta":{"content":[{"type":"text","text":"c"}]}}]}\n\n',
    b'data: {"choices":[],"usage":{"completion_tokens":1000000000,"completion_tokens_details":{"reasoning_tokens":2}}}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":-3,"completion_tokens":7.0}}\n\n',
    b'data: {"code":5,"message":"oops"}\n\n',
    b'error: {"message":"oops"}\n\n',
    b"event: error\ndata: oops\n\n",
    b": ping\n\n",
    b"event: x\ndata: {}\n\n",
    b'data: {"choices":\ndata: []}\n\n',
    b"data: [DONE]\n\n",
)
PIECES = (
    b"\r\n",
    b"\n\n",
    b"0\r\n\r\n",
    b"}\n\n",
    b"data: ",
    b"[DONE]",
    b"5\r\n",
    b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"\xff",
    b"\xe2\x80\xa8",
    b"{",
    b'"',
)


def framed(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


def answer(rng: random.Random) -> bytes:
    """An answer as servers give it, framing cut between or within events."""
    events = [rng.choice(EVENTS) for _ in range(rng.randrange(8))]
    if rng.random() < 0.7:
        events.append(DONE_EVENT)
    if rng.random() < 0.7:
        chunks = [framed(event) for event in events]
    else:
        body = b"".join(events)
        chunks = [framed(piece) for piece in cut(body, rng) if piece]
    return HEAD + b"".join(chunks) + (b"0\r\n\r\n" if rng.random() < 0.9 else b"")


TEXTS = (
    *(b"a", b" the", b"", b"\xc3\xa9", b'\\"', b"\\\\", b"\\n", b"\\u00e9", b"\\ud83d\\ude00"),  # as servers have them
    *(b"\\ud83d", b"\xc3", b'"', b'","', b"\\", b"x" * 40, b"data: {}"),  # as they should not be
)
MOULDS = (
    b'data: {"choices":[{"delta":{"content":"%b"},"finish_reason":null}]}\n\n',
    b'data: {"choices":[{"delta":{"role":"assistant","content":"%b"}}]}\n\n',
    b'data: {"choices":[{"text":"%b","finish_reason":null}],"usage":null}\n\n',
    b'data: {"choices":[{"delta":{"content":"%b"}}],"system_fingerprint":"' + b"f" * 184 + b'"}\n\n',
)


def alike_answer(rng: random.Random) -> bytes:
    """A token stream as it is: events that differ in their text, now and then one that is odd."""
    mould = rng.choice(MOULDS)
    usual = rng.choice((TEXTS[:2], TEXTS[:9], TEXTS))
    events = [mould % rng.choice(usual) for _ in range(rng.randrange(8, 24))]
    for _ in range(rng.randrange(3)):
        events.insert(rng.randrange(len(events)), rng.choice(EVENTS))
    return HEAD + b"".join(framed(event) for event in [*events, *EVENTS[4:6], DONE_EVENT]) + b"0\r\n\r\n"


def natural_reads(stream: bytes, rng: random.Random) -> list[bytes]:
    """Reads as a socket gives them: mostly whole chunks."""
    if rng.random() < 0.5:
        return [piece for piece in cut(stream, rng) if piece]
    return [part for part in re.split(rb"(?<=\n\n\r\n)", stream) if part]


def broken_rule(stream: bytes, reads: list[bytes]) -> str | None:
    """Which part of the invariant the input breaks, None when it holds."""
    if broken := _framing_rule(stream, reads):
        return broken
    fasts = _fast_by_each(reads)
    whole = openai_decode.decode(reads)
    if len(whole.tokens_per_chunk) != len(reads):
        return "decode does not count one number a read"
    if whole.error_class not in ERROR_CLASSES:
        return f"decode names an unknown class {whole.error_class}"
    if b'""' not in re.sub(rb"\r\n[0-9a-f]*\r\n", b"", stream) and _ends(whole) != _ends(openai_decode.decode(reads, usage=False)):
        return "usage moves the first or the last token"
    slow = _slow(stream, reads)
    for fast in fasts:
        if fast is not None and slow is not None and not _same(fast, slow):
            return f"the fast path and the slow path differ: {fast} {slow}"
    return None


def _ends(decoded: Decoded) -> list[int]:
    """The first and the last read that carries a token."""
    carriers = [place for place, count in enumerate(decoded.tokens_per_chunk) if count]
    return [*carriers[:1], *carriers[-1:]]


def _fast_by_each(reads: list[bytes]) -> list[Decoded | None]:
    """What the fast path says, with the alike events taken out first (where that is compiled) and without."""
    found = []
    for compiled in {openai_alike.COMPILED, False}:
        with mock.patch.object(openai_alike, "COMPILED", compiled):
            found.append(openai_decode._decode_fast(reads))
    return found


def _framing_rule(stream: bytes, reads: list[bytes]) -> str | None:
    watcher, ended = ResponseWatcher(), None
    try:
        for place, read in enumerate(reads):
            if watcher.feed(read):
                ended = place
                break
        parsed = parse_response(stream)
    except HttpParseError:
        return None
    if ended is not None and (parsed is None or not parsed.complete):
        return "the watcher saw an end that the parser does not see"
    behind = not stream.endswith(b"\r\n\r\n") and parsed is not None and parsed.head.framing is Framing.CHUNKED
    if ended is None and parsed is not None and parsed.complete and not watcher.finished_by_close() and not behind:
        return "the parser saw an end that the watcher missed"
    return None


def _slow(stream: bytes, reads: list[bytes]) -> Decoded | None:
    """What the slow path says; None where the framing is broken."""
    try:
        response = parse_response(stream)
    except HttpParseError:
        return None
    if response is None or not response.complete:
        return None
    return openai_decode._decode_body(response.head, openai_decode._body_of_reads(response, stream, reads))


def _same(fast: Decoded, slow: Decoded) -> bool:
    seen = [(each.tokens_per_chunk, each.text, each.reason, each.usage, each.error_class) for each in (fast, slow)]
    return seen[0] == seen[1]


def run(count: int, seed: int) -> str | None:
    """The first broken rule, None when all inputs hold."""
    rng = random.Random(seed)
    corpus = [path.read_bytes() for path in sorted(CORPUS.glob("*.bin"))]
    for _ in range(count):
        stream = rng.choice(corpus) if rng.random() < 0.3 else rng.choice((answer, alike_answer))(rng)
        if rng.random() < 0.6:
            stream = damage(stream, rng, PIECES)
        reads = natural_reads(stream, rng)
        try:
            broken = broken_rule(stream, reads)
        except Exception as error:
            broken = f"{type(error).__name__}: {error}"
        if broken is not None:
            (CORPUS / "found.bin").write_bytes(stream)
            return f"{broken}\n{reads!r}"
    return None


if __name__ == "__main__":
    main(run, 100_000, __doc__)
