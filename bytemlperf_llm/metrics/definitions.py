"""Per-request metrics: what each name means, as one formula, in integer nanoseconds.

t0 is when the request was due: `planned` in open loop, `sent` in closed loop (whose records have
no planned time). tf and tl are the stamps of the first and the last chunk that carries a token,
n the output tokens. The text of each formula is in `FORMULAS`, and reports print it: two tools
must never be compared by a metric's name alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from operator import sub
from typing import NamedTuple

import msgspec

from bytemlperf_llm.record.record import RequestRecord

FORMULAS: dict[str, str] = {
    "ttft": "first token − planned (closed loop: − sent)",
    "service_ttft": "first token − sent",
    "time_to_first_reasoning_token": "first token of reasoning − planned (closed loop: − sent), of streams that tell it apart",
    "time_to_first_answer_token": "first token of the answer after the reasoning − planned (closed loop: − sent), of the same streams",
    "reasoning_tokens": "reasoning tokens of a response by usage, else of its stream; responses without any left out",
    "answer_tokens": "tokens of a response that aren't reasoning; responses without reasoning left out",
    "tpot": "(last token − first token) / (output tokens − 1), per request; absent under 2 tokens",
    "itl": "gap between consecutive tokens; tokens at most 0.2 ms apart are a burst, whose k tokens share the time since the burst before",
    "handoff": "second token − first token, behind servers that have roles: where decoding begins elsewhere, the hand-off is in it",
    "inter_chunk_latency": "gap between consecutive bursts of tokens (at most 0.2 ms apart), as they arrived",
    "e2e": "last token (of vectors and scores: the whole response) − planned (closed loop: − sent)",
    "service_e2e": "last token (of vectors and scores: the whole response) − sent",
    "ntpot": "e2e / output tokens",
    "max_stall": "largest gap between consecutive token-carrying chunks of a request",
    "schedule_lateness": "sent − planned, waiting for a free slot included",
    "client_lateness": "sent − the later of planned and the moment a slot was free: the client's own delay",
    "stage_send": "engine queued − sent",
    "stage_queue": "engine scheduled − engine queued",
    "stage_prefill": "engine first token − engine scheduled",
    "stage_decode": "engine last token − engine first token",
    "stage_deliver": "last token received − engine last token",
}
"""Metric name to formula; every metric is in nanoseconds, but for those of tokens."""

BURST_NS = 200_000
"""Tokens at most so far apart are one burst. What a server wrote at once arrives in one read or in several, some 10 to 100 µs
apart, as the kernel and the reader happen to meet; no figure may hang on that. A stream whose tokens are really that
close (5,000 a second) keeps its pace: a burst shares its own length too."""

STAGES = ("stage_send", "stage_queue", "stage_prefill", "stage_decode", "stage_deliver")


class TokenTimes(msgspec.Struct, frozen=True, kw_only=True):
    """The token-carrying chunks of one request: stamps in ns and tokens of each (all ≥ 1)."""

    stamps_ns: Sequence[int]
    tokens: Sequence[int]


def token_times(record: RequestRecord) -> TokenTimes:
    """Of its chunks that carry a token."""
    return kept_times(record.chunk_ns, record.tokens_per_chunk)


def kept_times(stamps: Sequence[int], tokens: Sequence[int]) -> TokenTimes:
    """Leave out chunks that carry no token (role announcements, comments, usage)."""
    if len(stamps) == len(tokens) and (not tokens or min(tokens) > 0):
        return TokenTimes(stamps_ns=stamps, tokens=tokens)
    kept = [(stamp, count) for stamp, count in zip(stamps, tokens, strict=False) if count > 0]
    return TokenTimes(stamps_ns=[stamp for stamp, _ in kept], tokens=[count for _, count in kept])


def last_ns(record: RequestRecord) -> int | None:
    """When the last token came; of vectors and scores, the end of the response. None where neither did."""
    if record.inputs:
        return record.chunk_ns[-1] if record.chunk_ns else None
    stamps = token_times(record).stamps_ns
    return stamps[-1] if stamps else None


def due_ns(record: RequestRecord) -> int | None:
    """t0: planned where there is a plan, else sent; None for one that was neither."""
    return record.planned_ns if record.planned_ns is not None else record.sent_ns


def divide_ns(total_ns: int, parts: int) -> int:
    """total / parts to the nearest ns, halves up; parts > 0."""
    return (2 * total_ns + parts) // (2 * parts)


def tpot_ns(first_ns: int, last_ns: int, output_tokens: int) -> int | None:
    """Time per output token after the first; None under two tokens."""
    return divide_ns(last_ns - first_ns, output_tokens - 1) if output_tokens > 1 else None


def ntpot_ns(e2e_ns: int, output_tokens: int) -> int | None:
    """End-to-end time over all output tokens; None without tokens."""
    return divide_ns(e2e_ns, output_tokens) if output_tokens > 0 else None


def chunk_gaps_ns(times: TokenTimes) -> list[int]:
    """Raw gaps between consecutive token-carrying chunks."""
    return list(map(sub, times.stamps_ns[1:], times.stamps_ns))


class Bursts(NamedTuple):
    """The bursts of one request, in order. `shared_ns` is what a burst's `intervals` share: the time from the last
    token of the burst before to its own last (of the first burst: from its first token, which has no interval)."""

    shared_ns: list[int]
    intervals: list[int]


def bursts_of(times: TokenTimes, gaps_ns: Sequence[int]) -> Bursts:
    """Chunks at most `BURST_NS` after the one before belong to its burst; needs a chunk."""
    shared, intervals = [0], [times.tokens[0] - 1]
    for gap, count in zip(gaps_ns, times.tokens[1:], strict=True):
        if gap > BURST_NS:
            shared.append(gap)
            intervals.append(count)
        else:
            shared[-1] += gap
            intervals[-1] += count
    return Bursts(shared, intervals)


def token_runs_ns(bursts: Bursts) -> tuple[list[int], list[int]]:
    """ITL: n − 1 intervals for the n tokens of the stream, whose sum is tl − tf exactly, as values and how often each
    comes in a row.

    A burst of k tokens shares its time evenly among them, the remainder of the division going one ns
    each to the first. A burst is two runs at most, however many tokens it has.
    """
    values: list[int] = []
    counts: list[int] = []
    for shared, intervals in zip(*bursts, strict=True):
        if intervals == 0:
            continue
        share, rest = divmod(shared, intervals)
        if rest:
            values.append(share + 1)
            counts.append(rest)
        values.append(share)
        counts.append(intervals - rest)
    return values, counts


def stage_times_ns(record: RequestRecord, last_ns: int) -> tuple[int | None, ...]:
    """The request's stages in the order of `STAGES`, None where a stamp is missing."""
    stages = record.stages
    if stages is None:
        return (None,) * len(STAGES)
    stamps = (record.sent_ns, stages.queued_ns, stages.scheduled_ns, stages.first_token_ns, stages.last_token_ns, last_ns)
    return tuple(None if a is None or b is None else b - a for a, b in pairwise(stamps))
