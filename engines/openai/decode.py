"""What the reads of one OpenAI-style streaming answer mean. No I/O, no clock.

Two paths with one result. The fast path takes out the events that differ in their text alone
(`alike`), cuts the rest with one regular expression and decodes them in one call; it is taken
only when counting proves that it saw every event whole. Everything else goes through the HTTP and SSE
parsers piece by piece.

A chunk is not a token: events are counted per read, and where the server's `usage` tells of more, they are spread over the
events (`openai_tokens`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate, islice, repeat, takewhile
from typing import Any

import msgspec

from engines.contract import Decoded, ErrorClass
from engines.http import sse
from engines.http.http1 import Head, HttpParseError, Response, parse_head, parse_response
from engines.http.pool import MAX_READS, MAX_RESPONSE_BYTES
from engines.http.sse import SseParser
from engines.openai.alike import Alike, take_alike
from engines.openai.events import EMPTY, MAX_WORDS_CHARS, SAYS, Event, decode_events, foreign_words, read_event
from engines.openai.head_facts import HeadFacts, head_facts
from engines.openai.meaning import Meaning, assemble, meaning_of
from engines.untrusted import UntrustedJson, decode_json, whole_text

MAX_DETAIL_CHARS = 4000  # whoever knows the secrets takes them out before it is cut to what is shown
MAX_SHOWN_BYTES = 100  # of an event that isn't JSON
MAX_READ_BYTES = 1 << 18  # of any event loop's, and the reading thread's
LOOKED_AT_BYTES, LOOKED_AT_READS = 1 << 20, 1 << 14  # of an answer that was given up as too large
CLASSIFIED_BYTES = 1 << 16
LAST_READS = 8
Meant = Callable[[sse.Event], Event | None]
"""What an event of the stream says; None for nothing."""
_DONE = b"[DONE]"
DONE_EVENT = b"data: [DONE]\n\n"
_DONE_LINE = b"\n" + DONE_EVENT
_FRAMED_EVENT = re.compile(rb"[1-9a-f][0-9a-f]*\r\ndata: (\{[^\n]*\})\n\n\r\n")
_FRAMING_BYTES = len(b"\r\ndata: \n\n\r\n")  # around each event, besides the digits of its size
_DONE_CHUNK = b"e\r\n" + DONE_EVENT + b"\r\n0\r\n\r\n"
_HEX_DIGITS = tuple(len(f"{length + len(b'data: ') + 2:x}") for length in range(4096))
_EVENT = re.compile(rb"\ndata: (\{[^\n]*\})(?=\n\n)")  # begins with a literal, which is searched for much faster than a lookbehind
_NAMED = re.compile(rb"[\r\n](?:event|error)")
_FAILURE = re.compile(r"(?:^|[._-])(?:error|fail|failed|failure|exception|abort|aborted)$", re.I)  # names of events
_CONTEXT_WORDS = re.compile(r"maximum context length|context_length_exceeded|max_model_len|longer than the maximum model length", re.I)


def decode(payloads: Sequence[Any], *, usage: bool = True, meant: Meant | None = None) -> Decoded:
    """Reads of the lean transport (head included), or a `Head` followed by body reads. Without `usage`, what the server
    reports of tokens is left aside. `meant` tells what an event of another API says; then there is no fast path."""
    if len(payloads) * MAX_READ_BYTES > MAX_RESPONSE_BYTES and (first := _beginning(payloads)) < len(payloads):
        decoded = decode(payloads[:first], usage=usage, meant=meant)
        decoded.tokens_per_chunk += repeat(0, len(payloads) - first)
        return decoded
    if payloads and isinstance(payloads[0], Head):
        return _decode_body(payloads[0], [b"", *payloads[1:]], usage, meant)
    reads: Sequence[bytes] = payloads
    fast = _decode_fast(reads, usage) if meant is None else None
    if fast is not None:
        return fast
    joined = b"".join(reads)
    try:
        response = parse_response(joined)
    except HttpParseError as error:
        return _failed(len(reads), "malformed_stream", str(error))
    if response is None:
        return _failed(len(reads), "empty_response", "no response head")
    return _decode_body(response.head, _body_of_reads(response, joined, reads), usage, meant)


def _beginning(payloads: Sequence[Any]) -> int:
    """How many reads are looked at: all, but for an answer that the transport gave up since it is too large. Decoding that
    whole would hold up every other request for a second."""
    sizes = [0 if isinstance(read, Head) else len(read) for read in payloads]
    if sum(sizes) <= MAX_RESPONSE_BYTES and len(sizes) <= MAX_READS:
        return len(sizes)
    return sum(1 for _ in takewhile(LOOKED_AT_BYTES.__ge__, accumulate(islice(sizes, LOOKED_AT_READS))))


# -- fast path -------------------------------------------------------------------


def _decode_fast(reads: Sequence[bytes], usage: bool = True) -> Decoded | None:
    """None unless it is certain that every event was seen whole and nothing is odd."""
    if not reads:
        return None
    alike = take_alike(reads)
    rest = reads if alike is None else alike.rest
    joined = b"".join(rest)
    body = joined.find(b"\r\n\r\n") + 4
    cut = _cut_one_a_chunk(joined, body)
    if cut is None:
        cut = _cut_counted(joined, body)
    if cut is None:
        return None
    events_per_read = _events_per_read(rest, len(cut))
    if events_per_read is None:
        return None
    try:
        events = decode_events(b"\n".join(cut))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    head = _stream_head(joined[:body])
    if len(events) != len(cut) or head is None:  # two values on one line; no stream
        return None
    meaning = meaning_of(events, usage=usage)
    if meaning.foreign:
        return None
    if alike is not None:
        _put_back(alike, meaning, events_per_read)
    if not meaning.said:
        return None
    decoded = assemble(meaning, events_per_read, done=True)
    decoded.server, decoded.server_id = head
    return decoded


def _put_back(alike: Alike, meaning: Meaning, events_per_read: list[int]) -> None:
    """The alike events in their place among the rest."""
    place = sum(events_per_read[: alike.reads_before])
    texts = alike.texts
    meaning.texts[place:place] = texts
    if alike.all_say:
        meaning.marks[place:place] = repeat(SAYS, len(texts))
        meaning.said += len(texts)
    else:
        meaning.marks[place:place] = [SAYS if text else EMPTY for text in texts]
        meaning.said += len(texts) - texts.count("")
        meaning.doubtful = True
    if meaning.finished is not None and meaning.finished >= place:
        meaning.finished += len(texts)
    if meaning.thoughts:
        meaning.thoughts = [thought + len(texts) * (thought >= place) for thought in meaning.thoughts]
    events_per_read[alike.reads_before : alike.reads_before] = alike.counts
    if alike.parted is not None:
        parts = slice(alike.parted, alike.parted + 3)
        events_per_read[parts] = [sum(events_per_read[parts])]


def _cut_one_a_chunk(joined: bytes, body: int) -> list[bytes] | None:
    """The events of a body of one event a chunk, `[DONE]` in the last; None when it is anything else. Costs half of counting.

    Lengths prove it: the events, their framing, the head and the end make up every byte there is.
    """
    if not joined.endswith(_DONE_CHUNK):
        return None
    cut = _FRAMED_EVENT.findall(joined, body)
    lengths = [len(event) for event in cut]
    if not lengths or max(lengths) >= len(_HEX_DIGITS):
        return None
    framing = _FRAMING_BYTES * len(cut) + sum([_HEX_DIGITS[length] for length in lengths])
    return cut if body + sum(lengths) + framing + len(_DONE_CHUNK) == len(joined) else None


def _cut_counted(joined: bytes, body: int) -> list[bytes] | None:
    """The events of a body whose chunks hold any number of whole events; None when that is not certain.

    - Every `data:` belongs to an event that was cut out, or to the `[DONE]` that comes last.
    - Every chunk of the framing ends where an event ends. CRLF stands in such a body only in the
      framing (JSON has none): two a chunk and two at the end, so counting tells.
    - No chunk but the last has a size that begins with 0, which would end the body.
    - Nothing but the end of an event looks like one.
    - No line names an event or an error.
    """
    if joined.rfind(_DONE_LINE) + 1 != joined.rfind(b"data:"):
        return None  # before the search: it takes long where a long line has no end
    if (joined.find(b"error", body) >= 0 or joined.find(b"event", body) >= 0) and _NAMED.search(joined, body):
        return None
    cut = _EVENT.findall(joined)
    if joined.count(b"data:") != len(cut) + 1:
        return None
    line_ends = joined.count(b"\r\n", body)
    if line_ends and (line_ends != 2 * joined.count(b"\n\n\r\n", body) + 2 or not joined.endswith(b"\n\n\r\n0\r\n\r\n")):
        return None
    if line_ends and joined.count(b"\r\n0", body - 2) != 1:
        return None
    return cut if joined.count(b"}\n\n") == len(cut) else None


def _events_per_read(reads: Sequence[bytes], event_count: int) -> list[int] | None:
    """How many events ended in each read; None when one ended across two."""
    if len(reads) == 1:
        return [event_count]
    counts = [read.count(b"}\n\n") for read in reads]
    return counts if sum(counts) == event_count else None


@lru_cache(maxsize=256)
def _stream_head(head: bytes) -> HeadFacts | None:
    """What the head of a token stream says of its request; None where it is no such stream's; cached, since a server's heads repeat."""
    try:
        parsed = parse_head(head)
    except HttpParseError:
        return None
    return None if parsed is None or classify(parsed[0], b"data") is not None else head_facts(parsed[0].headers)


# -- slow path -------------------------------------------------------------------


def _body_of_reads(response: Response, joined: bytes, reads: Sequence[bytes]) -> list[bytes]:
    """The body bytes that each read brought, framing taken off."""
    bodies: list[bytes] = []
    spans = iter(response.spans)
    span = next(spans, None)
    read_start = 0
    for read in reads:
        read_end = read_start + len(read)
        pieces: list[bytes] = []
        while span is not None and span[0] < read_end:
            pieces.append(joined[max(span[0], read_start) : min(span[1], read_end)])
            if span[1] > read_end:
                break
            span = next(spans, None)
        bodies.append(b"".join(pieces))
        read_start = read_end
    return bodies


def _decode_body(head: Head, bodies: Sequence[bytes], usage: bool = True, meant: Meant | None = None) -> Decoded:
    read = meant or _meant
    refused = classify(head, b"".join(_up_to(bodies, CLASSIFIED_BYTES))[:CLASSIFIED_BYTES])
    if refused is not None:
        decoded = _failed(len(bodies), *refused)
        decoded.server, decoded.server_id = head_facts(head.headers)
        return decoded
    parser = SseParser()
    events: list[Event] = []
    events_per_read: list[int] = []
    done = False
    problem: tuple[ErrorClass, str] | None = None
    for body in bodies:
        before = len(events)
        for sse_event in parser.feed(body):
            if sse_event.data.strip() == _DONE:
                done = True
                continue
            try:
                event = read(sse_event)
            except UntrustedJson as error:
                if done:
                    continue
                problem = "malformed_stream", f"{error}: {sse_event.data[:MAX_SHOWN_BYTES].decode('utf-8', 'replace')}"
                break
            if event is not None:
                events.append(Event(choices=[], usage=event.usage) if done else event)
        if parser.fault is not None:
            problem = "too_large", parser.fault
        events_per_read.append(len(events) - before)
        if problem is not None:
            break
    events_per_read += [0] * (len(bodies) - len(events_per_read))
    decoded = assemble(meaning_of(events, usage=usage), events_per_read, done=done)
    decoded.text = whole_text(decoded.text)
    decoded.server, decoded.server_id = head_facts(head.headers)
    if problem is not None and decoded.error_class != "error_in_stream":
        decoded.error_class, decoded.error_detail = problem
    elif decoded.error_class in ("truncated_stream", "malformed_stream"):
        _add_last_words(decoded, bodies)
    return decoded


def _add_last_words(decoded: Decoded, bodies: Sequence[bytes]) -> None:
    """A server or proxy that fails may end a stream with words that are no event, or half of one."""
    last = b"".join(bodies[-LAST_READS:])[-CLASSIFIED_BYTES:].rstrip().rpartition(b"\n\n")[2].removeprefix(b"data:").strip()
    words = words_of(last)
    if words:
        decoded.error_class, decoded.error_detail = "error_in_stream", words
    elif last and not last.startswith(b"{"):
        decoded.error_detail += f": {excerpt(last)}"


def _meant(sse_event: sse.Event) -> Event | None:
    """What an event of the stream says; None for nothing. One that the server gave a name of its own needn't be JSON. Raises
    UntrustedJson."""
    failed = _FAILURE.search(sse_event.event) is not None
    if not sse_event.data.strip():
        return Event(error=True) if failed else None
    try:
        event = read_event(sse_event.data)
    except UntrustedJson:
        if sse_event.event == "message":
            raise
        event = Event(choices=[])
    if failed:
        event.error = event.error or " ".join(sse_event.data.decode("utf-8", "replace").split())[:MAX_WORDS_CHARS]
    elif sse_event.event != "message" and event.choices is None:
        return None
    return event


def _up_to(bodies: Sequence[bytes], most_bytes: int) -> Sequence[bytes]:
    """The first ones that have so many bytes together."""
    before = accumulate(map(len, bodies), initial=0)
    return bodies[: sum(1 for _ in takewhile(most_bytes.__gt__, islice(before, len(bodies))))]


def classify(head: Head, body: bytes, *, stream: bool = True) -> tuple[ErrorClass, str] | None:
    """Why this response can't be a token stream (or else: one JSON value); None when it may be one."""
    status = head.status
    if status not in (200, 201):  # NestJS gives 201 to whatever answers a POST
        return _status_error(head, body)
    if head.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        return "content_encoding", f"compressed answer ({head.headers['content-encoding']}) though identity was asked for"
    content_type = head.headers.get("content-type", "").lower()
    if not body:
        return "empty_response", "a response without a body"
    if content_type.startswith("text/html") or body.lstrip()[:1] == b"<":
        return "not_a_stream", f"HTML instead of {'a token stream' if stream else 'JSON'}"
    if stream and body.lstrip()[:1] == b"{" and not content_type.startswith("text/event-stream"):
        return "not_a_stream", f"JSON instead of a token stream: {excerpt(body)}"
    return None


def _status_error(head: Head, body: bytes) -> tuple[ErrorClass, str]:
    status, detail = head.status, f"HTTP {head.status}: {excerpt(body)}"
    if 300 <= status < 400:
        return "redirect", f"HTTP {status} to {head.headers.get('location', 'nowhere')}"
    if status == 429:
        return "http_429", f"{detail} (Retry-After: {head.headers.get('retry-after', 'not given')})"
    if status == 400 and _CONTEXT_WORDS.search(detail):
        return "context_length", detail
    if 400 <= status < 500:
        return "http_4xx", detail
    return "http_5xx" if status >= 500 else "not_a_stream", detail


def excerpt(body: bytes) -> str:
    """The message of an OpenAI-style error body, or its first characters, on one line."""
    return " ".join((words_of(body) or body.decode("utf-8", "replace")).split())[:MAX_DETAIL_CHARS]


def words_of(body: bytes) -> str:
    """What an error of a server's own form says; empty for what is none."""
    try:
        return foreign_words(decode_json(body, lenient=True))
    except UntrustedJson:
        return ""


def _failed(read_count: int, error_class: ErrorClass, detail: str) -> Decoded:
    return Decoded(tokens_per_chunk=[0] * read_count, text="", error_class=error_class, error_detail=detail)
