"""A closed loop of streams on an engine that batches continuously, step by step: what waiting for each other's prefill costs.

A step takes in all requests that have arrived and gives every stream its next token, the new ones after their whole prompt. A request whose
predecessor ended in the step before waits for the step that has begun meanwhile, and so streams drift apart: one begins a step ahead of the
others, and its decode waits for their prefill. (Yu et al., Orca, OSDI 2022, iteration-level scheduling.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple


class Served(NamedTuple):
    """Means over the requests, in milliseconds, and the rate. TPOT is None where one token was asked for."""

    ttft_ms: float
    tpot_ms: float | None
    e2e_ms: float
    output_tokens_per_s: float


@dataclass
class _Stream:
    """`sent_ms` by the client, `reached_ms` the engine."""

    sent_ms: float
    reached_ms: float
    first_ms: float = 0.0
    last_ms: float = 0.0
    tokens: int = 0


def closed_loop(batch: int, requests: int, output_len: int, step_ms: Callable[[int, int], float], request_ms: float) -> Served:
    """`requests` in all, `batch` at a time. `step_ms(prompts, streams)` is a step that prefills the one and decodes the others;
    `request_ms` is what a request takes to reach the engine, one after the other."""
    coming = [_Stream(0.0, request_ms * (place + 1)) for place in range(min(batch, requests))]
    running, done, now_ms, sent = list[_Stream](), list[_Stream](), 0.0, len(coming)
    while coming or running:
        if not running:
            now_ms = max(now_ms, coming[0].reached_ms)
        joined = [stream for stream in coming if stream.reached_ms <= now_ms]
        coming = coming[len(joined) :]
        now_ms += step_ms(len(joined), len(running))
        for stream in joined:
            stream.first_ms = now_ms
        for stream in (both := [*running, *joined]):
            stream.tokens, stream.last_ms = stream.tokens + 1, now_ms
        ended = [stream for stream in both if stream.tokens == output_len]
        running, done = [stream for stream in both if stream.tokens < output_len], done + ended
        more = min(len(ended), requests - sent)
        coming += [_Stream(now_ms, now_ms + request_ms * (place + 1)) for place in range(more)]
        sent += more
    gaps = output_len - 1
    return Served(
        fmean(stream.first_ms - stream.sent_ms for stream in done),
        fmean((stream.last_ms - stream.first_ms) / gaps for stream in done) if gaps else None,
        fmean(stream.last_ms - stream.sent_ms for stream in done),
        len(done) * output_len / now_ms * 1e3,
    )
