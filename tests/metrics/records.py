"""Hand-made records for tests: times in milliseconds, everything stated."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from bytemlperf_llm.record.record import RequestRecord

MS = 1_000_000


def answered(index: int, planned_ms: float | None, sent_ms: float, stamps_ms: Sequence[float], **changes: Any) -> RequestRecord:
    """An ok record whose chunks carry one token each, unless `tokens_per_chunk` says otherwise."""
    tokens = changes.pop("tokens_per_chunk", [1] * len(stamps_ms))
    fields: dict[str, Any] = {
        "id": f"r{index}",
        "index": index,
        "planned_ns": None if planned_ms is None else round(planned_ms * MS),
        "sent_ns": round(sent_ms * MS),
        "first_byte_ns": round(stamps_ms[0] * MS) if stamps_ms else None,
        "chunk_ns": [round(stamp * MS) for stamp in stamps_ms],
        "tokens_per_chunk": tokens,
        "end_ns": round((stamps_ms[-1] if stamps_ms else sent_ms) * MS),
        "outcome": "ok",
        "prompt_tokens": 10,
        "output_tokens": sum(tokens),
        "max_tokens": sum(tokens),
        "token_source": "usage",
    }
    return RequestRecord(**{**fields, **changes})


def failed(index: int, planned_ms: float | None, end_ms: float, **changes: Any) -> RequestRecord:
    """A failed record without any chunk."""
    fields: dict[str, Any] = {
        "id": f"r{index}",
        "index": index,
        "planned_ns": None if planned_ms is None else round(planned_ms * MS),
        "sent_ns": None if planned_ms is None else round(planned_ms * MS),
        "end_ns": round(end_ms * MS),
        "outcome": "failed",
        "error_class": "http_5xx",
        "error_detail": "HTTP 500\nsecond line",
    }
    return RequestRecord(**{**fields, **changes})


def poisson_run(count: int, rate: float, seed: int = 1, tokens: int = 8, batch: int = 1) -> list[RequestRecord]:
    """An open-loop run on a server with room for all: random, but the same for a seed."""
    draw = random.Random(seed)
    records, now_ms = [], 0.0
    for index in range(count):
        now_ms += draw.expovariate(rate) * 1000
        first = now_ms + 50 + draw.expovariate(1 / 20)
        stamps = [first]
        for _ in range(tokens - 1):
            stamps.append(stamps[-1] + 5 + draw.expovariate(1 / 5))
        records.append(answered(index, now_ms, now_ms + 0.1, stamps, tokens_per_chunk=[batch] * tokens))
    return records
