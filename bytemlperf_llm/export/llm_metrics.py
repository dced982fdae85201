"""What the LLM suite exports live, and how a record feeds it. Names: docs/metrics.md."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

from bytemlperf_llm.export.prometheus import Exporter, Family
from bytemlperf_llm.runs.record import RequestRecord
from engines.contract import ErrorClass

NS_PER_S = 1e9
FLUSH_TOKEN_GAPS = 4096  # token gaps wait so long for company before they are put into buckets

_FIRST_TOKEN_S = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
    160.0,
)
_PER_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0)
_WHOLE_S = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.3,
    0.5,
    0.8,
    1.0,
    1.5,
    2.0,
    2.5,
    5.0,
    10.0,
    15.0,
    20.0,
    30.0,
    40.0,
    50.0,
    60.0,
    120.0,
    240.0,
    480.0,
)
_LATENESS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0)

FAMILIES = (
    Family(
        "bmp_time_to_first_token_seconds", "histogram", "TTFT from the planned time (open loop) or from sending.", buckets=_FIRST_TOKEN_S
    ),
    Family(
        "bmp_time_per_output_token_seconds", "histogram", "TPOT: (last - first token) / (tokens - 1) of a request.", buckets=_PER_TOKEN_S
    ),
    Family("bmp_inter_token_latency_seconds", "histogram", "ITL: gaps between the tokens of a request.", buckets=_PER_TOKEN_S),
    Family(
        "bmp_e2e_request_latency_seconds", "histogram", "From the planned time (open loop) or sending to the last token.", buckets=_WHOLE_S
    ),
    Family("bmp_schedule_lateness_seconds", "histogram", "How long after its planned time a request was sent.", buckets=_LATENESS_S),
    Family("bmp_request_success_total", "counter", "Requests answered in full."),
    Family("bmp_request_failure_total", "counter", "Requests failed, by class.", "error_class", get_args(ErrorClass)),
    Family("bmp_requests_in_flight", "gauge", "Requests sent and not ended."),
    Family("bmp_generation_tokens_total", "counter", "Output tokens received."),
    Family("bmp_prompt_tokens_total", "counter", "Prompt tokens sent, as the engine reports them."),
)


class LlmMetrics:
    """A sink that feeds an exporter from started and ended requests."""

    def __init__(self) -> None:
        self.exporter = Exporter(FAMILIES)
        self.in_flight = 0
        self._gaps_s: list[float] = []

    def started(self) -> None:
        """A request is on its way."""
        self.in_flight += 1
        self.exporter.set("bmp_requests_in_flight", self.in_flight)

    def ended(self, record: RequestRecord) -> None:
        """A request has ended; failures are counted, successes observed."""
        export = self.exporter
        self.in_flight -= 1
        export.set("bmp_requests_in_flight", self.in_flight)
        if record.planned_ns is not None and record.sent_ns is not None:
            export.observe("bmp_schedule_lateness_seconds", ((record.sent_ns - record.planned_ns) / NS_PER_S,))
        if record.output_tokens:
            export.count("bmp_generation_tokens_total", record.output_tokens)
        if record.prompt_tokens:
            export.count("bmp_prompt_tokens_total", record.prompt_tokens)
        if record.outcome == "failed":
            export.count("bmp_request_failure_total", label=record.error_class or "")
        elif record.outcome == "ok":
            export.count("bmp_request_success_total")
            self._observe(record)

    def _observe(self, record: RequestRecord) -> None:
        token_ns = token_stamps(record)
        start_ns = record.planned_ns if record.planned_ns is not None else record.sent_ns
        if not token_ns or start_ns is None:
            return
        first_ns, last_ns = token_ns[0], token_ns[-1]
        self.exporter.observe("bmp_time_to_first_token_seconds", ((first_ns - start_ns) / NS_PER_S,))
        self.exporter.observe("bmp_e2e_request_latency_seconds", ((last_ns - start_ns) / NS_PER_S,))
        if record.output_tokens > 1:
            tpot_s = (last_ns - first_ns) / (record.output_tokens - 1) / NS_PER_S
            self.exporter.observe("bmp_time_per_output_token_seconds", (tpot_s,))
        self._gaps_s += [(after - before) / NS_PER_S for before, after in pairwise(token_ns)]
        if len(self._gaps_s) >= FLUSH_TOKEN_GAPS:
            self.flush()

    def flush(self) -> None:
        """Put the waiting token gaps into their buckets; before every scrape that must be exact."""
        self.exporter.observe("bmp_inter_token_latency_seconds", self._gaps_s)
        self._gaps_s.clear()


def token_stamps(record: RequestRecord) -> list[int]:
    """A stamp for every token: a chunk's own for each of its tokens (batched tokens arrive together)."""
    counts = record.tokens_per_chunk
    if counts and max(counts) == 1 and min(counts) == 1:
        return record.chunk_ns
    return [stamp for stamp, tokens in zip(record.chunk_ns, counts, strict=False) for _ in range(tokens)]
