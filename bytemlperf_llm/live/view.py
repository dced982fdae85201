"""What the live view shows of a run of LLM serving, from the live metrics. The run's own loop draws it, once a second."""

from __future__ import annotations

import math

from bytemlperf.command.live import LiveView
from bytemlperf.units import NS_PER_S
from bytemlperf_llm.live.metrics import LlmMetrics

SKETCH_STEP = 0.02  # buckets of the live percentiles are 2 % wide; the final ones are exact


class Sketch:
    """Live percentiles in constant memory: logarithmic buckets, 2 % wide. Not for results."""

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0

    def add(self, value_ns: float) -> None:
        key = round(math.log(max(value_ns, 1.0)) / SKETCH_STEP)
        self._buckets[key] = self._buckets.get(key, 0) + 1
        self.count += 1

    def percentile_ms(self, percent: float) -> str:
        """About the percentile, in ms, as text."""
        left = math.ceil(self.count * percent / 100)
        for key in sorted(self._buckets):
            left -= self._buckets[key]
            if left <= 0:
                return f"{math.exp(key * SKETCH_STEP) / 1e6:,.1f}"
        return "–"


class LoadView(LiveView):
    """`tick` is called about once a second."""

    def __init__(self, title: str, scheduled: int | None, metrics: LlmMetrics, *, quiet: bool) -> None:
        super().__init__(title, "requests", quiet=quiet, total=scheduled, own_thread=False)
        self._metrics, self._listens = metrics, not quiet
        self._sketches = {"TTFT": Sketch(), "TPOT": Sketch()}

    def __enter__(self) -> LoadView:
        self._metrics.listener = self._listen if self._listens else None
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._metrics.listener = None
        super().__exit__(*error)

    def _listen(self, ttft_s: list[float], tpot_s: list[float]) -> None:
        for sketch, values in zip(self._sketches.values(), (ttft_s, tpot_s), strict=True):
            for value_s in values:
                sketch.add(value_s * NS_PER_S)

    def tick(self, elapsed_s: float) -> None:
        if self._quiet:
            return
        seen, passed_s = self._metrics, max(elapsed_s, 1e-9)
        worst = sorted(seen.failures.items(), key=lambda item: -item[1])[:3]
        facts = {
            "in flight": f"{seen.level:,}",
            "failed": f"{sum(seen.failures.values())}" + "".join(f", {name} {count}" for name, count in worst),
            "throughput": f"{seen.ended_requests / passed_s:.2f} requests/s",
        }
        if seen.output_tokens:
            facts["throughput"] += f", {seen.output_tokens / passed_s:,.0f} tokens/s"
        for name, sketch in self._sketches.items():
            if sketch.count:
                facts[name] = f"p50 ≈ {sketch.percentile_ms(50)} ms, p99 ≈ {sketch.percentile_ms(99)} ms"
        self.update("", seen.ended_requests, facts)
