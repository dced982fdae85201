"""What the LLM suite exports live, and how a record feeds it. Names: docs/metrics.md."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import get_args

import msgspec

from bytemlperf.export.prometheus import ExportDelta, Exporter, Family, Histogram, HistogramDelta, decades
from bytemlperf.units import NS_PER_S
from bytemlperf_llm.metrics.definitions import BURST_NS, bursts_of, chunk_gaps_ns, kept_times, last_ns, token_runs_ns, tpot_ns
from bytemlperf_llm.metrics.facts import SloMs
from bytemlperf_llm.record.record import RequestRecord
from engines.contract import ErrorClass

try:
    from bytemlperf_llm._stamps import bin_intervals
except ImportError:  # no compiler where this was installed
    bin_intervals = None  # type: ignore[assignment]

FLUSH_REQUESTS = 256
Listener = Callable[[list[float], list[float]], None]
"""Gets fresh TTFTs and TPOTs in seconds."""

_FIRST_TOKEN_S = (*decades(-3, 1), 20.0, 40.0, 80.0, 160.0)
_PER_TOKEN_S = (0.0001, 0.0002, 0.0005, *decades(-3, 0), 2.5, 5.0, 10.0, 20.0, 40.0, 80.0)
_WHOLE_S = (0.001, 0.005, *decades(-2, 2), 120.0, 240.0, 480.0)
_LATENESS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0)
_TOKENS = tuple(float(4**power) for power in range(14))
"""Bounds of token counts: those of gen_ai.client.token.usage in OpenTelemetry's conventions, 1 to 4^13."""

FAMILIES = (
    Family(
        "bmp_time_to_first_token_seconds", "histogram", "TTFT from the planned time (open loop) or from sending.", buckets=_FIRST_TOKEN_S
    ),
    Family(
        "bmp_time_per_output_token_seconds", "histogram", "TPOT: (last - first token) / (tokens - 1) of a request.", buckets=_PER_TOKEN_S
    ),
    Family(
        "bmp_inter_token_latency_seconds",
        "histogram",
        "ITL: gaps between the tokens of a request; a burst shares its time.",
        buckets=_PER_TOKEN_S,
    ),
    Family(
        "bmp_e2e_request_latency_seconds",
        "histogram",
        "From the planned time (open loop) or sending to the last token, or response.",
        buckets=_WHOLE_S,
    ),
    Family("bmp_schedule_lateness_seconds", "histogram", "Send delay: from a request's planned time to sending.", buckets=_LATENESS_S),
    Family("bmp_request_success_total", "counter", "Requests completed."),
    Family("bmp_request_goodput_total", "counter", "Requests that met all of their service levels (SLO)."),
    Family("bmp_requests_planned", "gauge", "Requests of the schedule; 0 where their number is not known before the end."),
    Family("bmp_request_failure_total", "counter", "Requests failed, by class.", "error_class", get_args(ErrorClass)),
    Family("bmp_requests_in_flight", "gauge", "Requests in flight."),
    Family("bmp_generation_tokens_total", "counter", "Output tokens received."),
    Family("bmp_request_prompt_tokens", "histogram", "Prompt tokens of a completed request, as the engine reports them.", buckets=_TOKENS),
    Family("bmp_request_generation_tokens", "histogram", "Output tokens of a completed request.", buckets=_TOKENS),
    Family("bmp_prompt_tokens_total", "counter", "Prompt tokens sent, as the engine reports them."),
)

_ITL = "bmp_inter_token_latency_seconds"
_HISTOGRAMS = tuple(family.name for family in FAMILIES if family.buckets and family.name != _ITL)


class MetricsDelta(msgspec.Struct, kw_only=True):
    """What one worker saw since its last report. `in_flight` is its level now; the rest adds up.
    `ttft_s` and `tpot_s` are single values, for a live view; empty where nobody listens."""

    in_flight: int = 0
    ended_requests: int = 0
    failed_requests: int = 0
    output_tokens: int = 0
    failures: dict[str, int] = {}
    exported: ExportDelta = msgspec.field(default_factory=ExportDelta)
    ttft_s: list[float] = []
    tpot_s: list[float] = []


def add_intervals(histogram: Histogram, stamps: Sequence[int], tokens: Sequence[int]) -> tuple[int, int] | None:
    """Add an answer's intervals between tokens (`definitions.token_runs_ns`) to a histogram in ns; the first and the last token's
    stamps, None without tokens. Request by request: sorting the intervals of many at once would hold the event loop up."""
    times = kept_times(stamps, tokens)
    if not times.stamps_ns:
        return None
    gaps = chunk_gaps_ns(times)
    if all(gap > BURST_NS for gap in gaps) and max(times.tokens) == 1:
        histogram.add(gaps)
    else:
        for value, count in zip(*token_runs_ns(bursts_of(times, gaps)), strict=True):
            histogram.add_equal(value, count)
    return times.stamps_ns[0], times.stamps_ns[-1]


class Intervals:
    """The histogram of intervals between tokens, in ns; by the compiled loop where there is one."""

    def __init__(self, bounds_s: Sequence[float], *, compiled: bool = bin_intervals is not None) -> None:
        self._bounds = array("q", (round(bound * NS_PER_S) for bound in bounds_s))
        self._counts, self._total_ns = array("q", bytes(8 * (len(bounds_s) + 1))), 0
        self._histogram = None if compiled else Histogram(self._bounds)

    def add(self, stamps: list[int], tokens: list[int]) -> tuple[int, int] | None:
        """The first and the last token's stamps, None without tokens."""
        if self._histogram is not None:
            return add_intervals(self._histogram, stamps, tokens)
        ends_ns = bin_intervals(stamps, tokens, self._bounds, self._counts, BURST_NS)
        if ends_ns is not None:
            self._total_ns += ends_ns[1] - ends_ns[0]
        return ends_ns

    def drain(self) -> HistogramDelta:
        """What was added since the last drain, in seconds."""
        if self._histogram is None:
            drained = HistogramDelta(self._counts.tolist(), self._total_ns)
            self._counts, self._total_ns = array("q", bytes(8 * len(self._counts))), 0
        else:
            drained = self._histogram.drain()
        return HistogramDelta(drained.counts, drained.total / NS_PER_S)


class LlmMetrics:
    """A sink that feeds an exporter from started and ended requests.

    Values of a request wait in plain lists and go to the exporter together, once a second (`flush`)
    or when `FLUSH_REQUESTS` have gathered: sorting some hundreds at once costs a fraction of as many
    single observations. `listener` gets the same TTFTs and TPOTs, for a live view; `unsettled` says how many that count as in flight
    have ended and only have no record yet; `targets` are the service levels by class, the empty mapping where none are set.
    """

    def __init__(self, listener: Listener | None = None) -> None:
        self.exporter = Exporter(FAMILIES)
        self.listener = listener
        self.unsettled: Callable[[], int] = int
        self.in_flight = self.ended_requests = self.failed_requests = self.output_tokens = 0
        self.failures: dict[str, int] = {}
        self._waiting: dict[str, list[float]] = {name: [] for name in _HISTOGRAMS}
        self._ttft, self._tpot, self._e2e, self._late, self._prompt, self._output = (self._waiting[name] for name in _HISTOGRAMS)
        self._itl = Intervals(_PER_TOKEN_S)
        self.targets: Mapping[str | None, SloMs] = {}
        self._ok = self._good = self._prompt_tokens = self._flushed_tokens = 0
        self._fresh_failures: dict[str, int] = {}
        self._levels: dict[int, int] = {}

    def started(self) -> None:
        self.in_flight += 1

    @property
    def level(self) -> int:
        return max(0, self.in_flight - self.unsettled())

    def ended(self, record: RequestRecord) -> None:
        """A request has ended; failures are counted, successes observed."""
        self.in_flight -= 1
        self.ended_requests += 1
        self.output_tokens += record.output_tokens
        self._prompt_tokens += record.prompt_tokens or 0
        planned_ns, sent_ns = record.planned_ns, record.sent_ns
        if planned_ns is not None and sent_ns is not None:
            self._late.append((sent_ns - planned_ns) / NS_PER_S)
        if record.outcome == "ok":
            self._ok += 1
            if record.prompt_tokens is not None:
                self._prompt.append(record.prompt_tokens)
            start_ns = sent_ns if planned_ns is None else planned_ns
            if record.inputs:
                if (end_ns := last_ns(record)) is not None and start_ns is not None:
                    self._e2e.append((end_ns - start_ns) / NS_PER_S)
            else:
                self._output.append(record.output_tokens)
                ends = self._itl.add(record.chunk_ns, record.tokens_per_chunk)
                if ends is not None and start_ns is not None:
                    self._observe(start_ns, *ends, record.output_tokens)
                    self._judge(record, start_ns, *ends)
        else:
            self._failed(record)
        if len(self._e2e) >= FLUSH_REQUESTS:
            self.flush()

    def _observe(self, start_ns: int, first_ns: int, last_ns: int, output_tokens: int) -> None:
        self._ttft.append((first_ns - start_ns) / NS_PER_S)
        self._e2e.append((last_ns - start_ns) / NS_PER_S)
        if output_tokens > 1:
            self._tpot.append((last_ns - first_ns) / (output_tokens - 1) / NS_PER_S)

    def _judge(self, record: RequestRecord, start_ns: int, first_ns: int, last_ns: int) -> None:
        targets = self.targets.get(record.class_name)
        if targets is not None:
            self._good += targets.met(first_ns - start_ns, tpot_ns(first_ns, last_ns, record.output_tokens), last_ns - start_ns)

    def _failed(self, record: RequestRecord) -> None:
        name = record.error_class or record.outcome
        self.failures[name] = self.failures.get(name, 0) + 1
        if record.outcome == "failed":
            self.failed_requests += 1
            self._fresh_failures[name] = self._fresh_failures.get(name, 0) + 1

    def flush(self) -> None:
        """Put what waits into the exporter."""
        if self.listener is not None:
            self.listener(self._ttft, self._tpot)
        export = self.exporter
        for name, values in self._waiting.items():
            if values:
                export.observe(name, values)
                values.clear()
        export.absorb(ExportDelta(histograms={_ITL: self._itl.drain()}))
        for label, count in self._fresh_failures.items():
            export.count("bmp_request_failure_total", count, label)
        export.count("bmp_request_success_total", self._ok)
        export.count("bmp_request_goodput_total", self._good)
        export.count("bmp_prompt_tokens_total", self._prompt_tokens)
        export.count("bmp_generation_tokens_total", self.output_tokens - self._flushed_tokens)
        export.set("bmp_requests_in_flight", self.level)
        self._fresh_failures.clear()
        self._ok = self._good = self._prompt_tokens = 0
        self._flushed_tokens = self.output_tokens

    # -- summing over workers -----------------------------------------------------------

    def drain(self) -> MetricsDelta:
        """What was seen since the last drain; counting begins again from 0. Single values are left
        to the caller's own listener."""
        self.flush()
        delta = MetricsDelta(
            in_flight=self.level,
            ended_requests=self.ended_requests,
            failed_requests=self.failed_requests,
            output_tokens=self.output_tokens,
            failures=self.failures,
            exported=self.exporter.drain(),
        )
        self.ended_requests = self.failed_requests = self.output_tokens = self._flushed_tokens = 0
        self.failures = {}
        return delta

    def absorb(self, delta: MetricsDelta, worker: int) -> None:
        """Add what a worker has seen; its level of requests in flight replaces the one before."""
        self._levels[worker] = delta.in_flight
        self.in_flight = sum(self._levels.values())
        self.ended_requests += delta.ended_requests
        self.failed_requests += delta.failed_requests
        self.output_tokens += delta.output_tokens
        self._flushed_tokens += delta.output_tokens
        for name, count in delta.failures.items():
            self.failures[name] = self.failures.get(name, 0) + count
        self.exporter.absorb(delta.exported)
        if self.listener is not None:
            self.listener(delta.ttft_s, delta.tpot_s)
