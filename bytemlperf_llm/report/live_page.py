"""`--dashboard`: the run in a browser while it goes on, by server-sent events on loopback.

The run's own loop hands over one small snapshot a second (`tick`); threads pass it on to the pages that are open.
Nothing is computed in a thread, so that no page can hold the loop up. A page that is opened late gets what
was before it. Percentiles here are of each second's requests, and of all so far from 2 % wide buckets; the
final ones are exact and come from the records.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bytemlperf.report.event_server import EventServer
from bytemlperf.report.page import render_live
from bytemlperf.report.text import visible
from bytemlperf_llm.live.sketch import NS_PER_S, Sketch

if TYPE_CHECKING:
    from bytemlperf_llm.live.metrics import LlmMetrics


class LivePage(EventServer):
    """Serves one run's page. `listen` and `tick` are called by the run's loop."""

    def __init__(self, metrics: LlmMetrics, title: str) -> None:
        """Raises UserError without jinja2."""
        super().__init__(*render_live(title))
        self._metrics = metrics
        self.scheduled: int | None = None
        self._ttft: list[float] = []
        self._tpot: list[float] = []
        self._all = {"ttft": Sketch(), "tpot": Sketch()}
        self._before = (0.0, 0, 0)
        self._ticked_at = time.monotonic()

    def listen(self, ttft_s: Sequence[float], tpot_s: Sequence[float]) -> None:
        """Single values since the last call."""
        self._ttft += ttft_s
        self._tpot += tpot_s

    def tick(self, elapsed_s: float) -> None:
        """Hand a snapshot to the pages."""
        self.publish("tick", self._snapshot(elapsed_s))
        self._ttft, self._tpot = [], []
        self._ticked_at = time.monotonic()

    def end(self, sentence: str) -> None:
        """Tell the pages that the run is over, after what the last part of a second brought."""
        if self._history:
            self.tick(self._before[0] + time.monotonic() - self._ticked_at)
        self.publish("end", {"says": visible(sentence)})
        self.end_events()

    def _snapshot(self, elapsed_s: float) -> dict[str, Any]:
        seen = self._metrics
        before_s, ended, tokens = self._before
        passed = max(elapsed_s - before_s, 1e-9)
        self._before = (elapsed_s, seen.ended_requests, seen.output_tokens)
        for name, values in (("ttft", self._ttft), ("tpot", self._tpot)):
            for value_s in values:
                self._all[name].add(value_s * NS_PER_S)
        return {
            "t": round(elapsed_s, 2),
            "ended": seen.ended_requests,
            "scheduled": self.scheduled,
            "in_flight": seen.in_flight,
            "failed": sum(seen.failures.values()),
            "failures": dict(seen.failures),
            "tokens": seen.output_tokens,
            "answers_s": round((seen.ended_requests - ended) / passed, 3),
            "tokens_s": round((seen.output_tokens - tokens) / passed, 1),
            "ttft": _percentiles_ms(self._ttft),
            "tpot": _percentiles_ms(self._tpot),
            "ttft_all": [self._all["ttft"].percentile_ms(50), self._all["ttft"].percentile_ms(99)],
            "tpot_all": [self._all["tpot"].percentile_ms(50), self._all["tpot"].percentile_ms(99)],
        }

    def close(self) -> None:
        """Stop serving; open pages keep what they show."""
        if not self._ended:
            self.end("The run has ended.")
        self.stop_serving()


def _percentiles_ms(values_s: Sequence[float]) -> list[float] | None:
    """Nearest-rank p50 and p99, and the maximum, of one second's values."""
    if not values_s:
        return None
    ordered = sorted(values_s)
    ranks = (math.ceil(share * len(ordered)) - 1 for share in (0.5, 0.99, 1.0))
    return [round(ordered[rank] * 1e3, 3) for rank in ranks]
