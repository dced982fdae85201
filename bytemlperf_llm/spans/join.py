"""A server's spans joined to the requests of a run by trace id, and set on its time axis.

Both clocks tell the time of day, and the server's may be off. A span lies within its request: so the server's clock is ahead by at most
what the earliest span begins after its request was sent, and at least by what the latest one ends after the response did. Bounds are those
that 99 % of the requests keep, so that one lying span decides nothing. 0 is taken where it lies between them, as on one machine; else
their middle. A request whose spans still lie outside it has durations alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from math import ceil
from typing import NamedTuple

from bytemlperf_llm.metrics.definitions import last_ns
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.record.spans import MAX_JOINED, JoinedSpans
from bytemlperf_llm.spans.facts import SpanFacts
from bytemlperf_llm.spans.otlp import Span, spans_in
from bytemlperf_llm.spans.receiver import Message
from engines.contract import Stages
from engines.trace_context import trace_ids

MAX_SPANS_OF_A_TRACE = 64
MAX_NAMES = 16
KEPT_SHARE = 0.99
SLACK_NS = 1_000_000
"""A server ends its span when it has written the response, which may be there by then."""
TORN = "no OTLP message"
MANY = "spans of more traces than are kept"


class Sent(NamedTuple):
    """A request with spans, ns of the run's axis: when it was sent, had its last token (or whole response), and ended."""

    id: str
    sent_ns: int
    last_ns: int
    end_ns: int
    spans: list[Span]


class Joined(NamedTuple):
    """A line for each request, and what run.json says of all."""

    lines: list[JoinedSpans]
    facts: SpanFacts


def join(
    messages: Iterable[Message],
    records: Iterable[RequestRecord],
    trace_key: str,
    zero_unix_ns: int,
    clean: Callable[[str], str] = str,
    refused: Counter[str] | None = None,
) -> Joined:
    """`zero_unix_ns` is the time of day of the run's zero; `clean` makes a stranger's word fit for a record."""
    refused = Counter() if refused is None else refused
    traces, received = _traces(messages, zero_unix_ns, refused)
    sent, answered = [], 0
    for record in records:
        answered += record.outcome == "ok"
        spans = traces.pop(trace_ids(trace_key, record.id)[0], None)
        if spans is not None and record.sent_ns is not None:
            last = last_ns(record)
            sent.append(Sent(record.id, record.sent_ns, record.end_ns if last is None else last, record.end_ns, spans))
    offset_ns = _offset(sent)
    applied_ns = (
        None if offset_ns is None or offset_ns[0] > offset_ns[1] else 0 if offset_ns[0] <= 0 <= offset_ns[1] else sum(offset_ns) // 2
    )
    lines = [_line(request, applied_ns, clean) for request in sent]
    facts = SpanFacts(
        received=received,
        unmatched=sum(map(len, traces.values())),
        requests=len(sent),
        answered=answered,
        outside=sum(_has_stages(request) and line.stages is None for request, line in zip(sent, lines, strict=True)),
        refused=dict(refused),
        offset_ns=offset_ns,
        applied_ns=applied_ns,
    )
    return Joined(lines, facts)


def _traces(messages: Iterable[Message], zero_unix_ns: int, refused: Counter[str]) -> tuple[dict[int, list[Span]], int]:
    """Spans by trace, on the run's axis but for the clocks' offset; and how many there were."""
    traces: dict[int, list[Span]] = {}
    received = 0
    for body, is_json in messages:
        try:
            spans = spans_in(body, is_json=is_json)
        except ValueError:
            refused[TORN] += 1
            continue
        received += len(spans)
        for span in spans:
            if span.trace_id not in traces and len(traces) >= MAX_JOINED:
                refused[MANY] += 1
                continue
            kept = traces.setdefault(span.trace_id, [])
            if len(kept) < MAX_SPANS_OF_A_TRACE:
                start_ns, end_ns = span.start_ns - zero_unix_ns, span.end_ns - zero_unix_ns
                kept.append(Span(span.trace_id, span.name, start_ns, end_ns, span.latencies_ns))
    return traces, received


def _offset(sent: list[Sent]) -> tuple[int, int] | None:
    """What the server's clock is ahead: at least, and at most."""
    if not sent:
        return None
    least, most = [], []
    for request in sent:
        stages = _stages(request, 0)
        end_ns = max(span.end_ns for span in request.spans) - SLACK_NS
        least.append(end_ns - request.end_ns if stages is None or stages.last_token_ns is None else stages.last_token_ns - request.last_ns)
        most.append(min(span.start_ns for span in request.spans) - request.sent_ns)
    kept = ceil(KEPT_SHARE * len(sent))
    return sorted(least)[kept - 1], sorted(most)[len(sent) - kept]


def _has_stages(request: Sent) -> bool:
    return any("prefill" in span.latencies_ns for span in request.spans)


def _stages(request: Sent, offset_ns: int) -> Stages | None:
    """Of the span that tells of its queue and its prefill. What its time to the first token has besides them was before the queue: reading
    the request, and tokenizing."""
    span = next((span for span in request.spans if "prefill" in span.latencies_ns), None)
    if span is None:
        return None
    told, start_ns = span.latencies_ns, span.start_ns - offset_ns
    queue_ns, prefill_ns = told.get("queue", 0), told["prefill"]
    first_ns = start_ns + told.get("ttft", queue_ns + prefill_ns)
    last = first_ns + told["decode"] if "decode" in told else None
    if last is not None and "e2e" in told:
        last = max(first_ns, min(last, start_ns + told["e2e"]))
    scheduled_ns = max(start_ns, first_ns - prefill_ns)
    queued_ns = max(start_ns, scheduled_ns - queue_ns)
    return Stages(queued_ns=queued_ns, scheduled_ns=scheduled_ns, first_token_ns=first_ns, last_token_ns=last)


def _line(request: Sent, applied_ns: int | None, clean: Callable[[str], str]) -> JoinedSpans:
    durations: Counter[str] = Counter()
    for span in request.spans:
        if span.latencies_ns:
            durations |= Counter(span.latencies_ns)
        elif span.name in durations or len(durations) < MAX_NAMES:
            durations[span.name] += span.end_ns - span.start_ns
    stages = None if applied_ns is None else _stages(request, applied_ns)
    if stages is not None and not _lies_within(stages, request):
        stages = None
    return JoinedSpans(id=request.id, durations_ns={clean(name): value for name, value in durations.items()}, stages=stages)


def _lies_within(stages: Stages, request: Sent) -> bool:
    stamps = (request.sent_ns, stages.queued_ns, stages.scheduled_ns, stages.first_token_ns, stages.last_token_ns, request.last_ns)
    known = [stamp for stamp in stamps if stamp is not None]
    return known == sorted(known)
