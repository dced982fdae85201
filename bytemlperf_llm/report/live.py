"""The live view of a run: a rich table in a terminal, a plain line now and then elsewhere.

It is drawn by the run's own loop, once a second, and says what drawing costs it: nothing is drawn
from a thread, where it could hold the interpreter at a moment that nobody chose.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

from bytemlperf_llm.export.llm_metrics import token_stamps
from bytemlperf_llm.runs.record import RequestRecord

if TYPE_CHECKING:
    from rich.console import Console

NS_PER_S = 1e9
SKETCH_STEP = 0.02  # buckets of the live percentiles are 2 % wide; the final ones are exact
PLAIN_EVERY_TICKS = 10


class Sketch:
    """Live percentiles in constant memory: logarithmic buckets, 2 % wide. Not for results."""

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0

    def add(self, value_ns: float) -> None:
        """Add one value above 0."""
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


class LiveView:
    """A sink that keeps what the view shows. `tick` is called about once a second."""

    def __init__(self, console: Console, title: str, scheduled: int | None, quiet: bool = False) -> None:
        self._console, self._title, self._scheduled = console, title, scheduled
        self._quiet = quiet
        self._live: Any = None
        self._ticks = 0
        self.ended_requests = self.failed = self.in_flight = 0
        self._tokens = 0
        self._ttft, self._tpot = Sketch(), Sketch()
        self._errors: dict[str, int] = {}

    def __enter__(self) -> LiveView:
        if self._console.is_terminal and not self._quiet:
            from rich.live import Live

            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._live is not None:
            self._live.stop()

    # -- feeding --------------------------------------------------------------------

    def started(self) -> None:
        """A request is on its way."""
        self.in_flight += 1

    def ended(self, record: RequestRecord) -> None:
        """A request has ended."""
        self.in_flight -= 1
        self.ended_requests += 1
        self._tokens += record.output_tokens
        if record.outcome != "ok":
            self.failed += record.outcome == "failed"
            name = record.error_class or record.outcome
            self._errors[name] = self._errors.get(name, 0) + 1
            return
        start_ns = record.planned_ns if record.planned_ns is not None else record.sent_ns
        stamps = token_stamps(record)
        if stamps and start_ns is not None:
            self._ttft.add(stamps[0] - start_ns)
            if record.output_tokens > 1:
                self._tpot.add((stamps[-1] - stamps[0]) / (record.output_tokens - 1))

    # -- showing --------------------------------------------------------------------

    def tick(self, elapsed_s: float) -> None:
        """Draw once."""
        self._ticks += 1
        if self._live is not None:
            self._live.update(self._table(elapsed_s), refresh=True)
        elif not self._quiet and self._ticks % PLAIN_EVERY_TICKS == 0:
            print(self.line(elapsed_s), file=sys.stderr, flush=True)

    def line(self, elapsed_s: float) -> str:
        """The plain form."""
        scheduled = f"/{self._scheduled}" if self._scheduled else ""
        return (
            f"[{elapsed_s:5.0f} s] {self.ended_requests}{scheduled} requests, {self.in_flight} in flight, {self.failed} failed, "
            f"{self._tokens / max(elapsed_s, 1e-9):,.0f} tokens/s, TTFT p50 ≈ {self._ttft.percentile_ms(50)} ms, "
            f"p99 ≈ {self._ttft.percentile_ms(99)} ms"
        )

    def _table(self, elapsed_s: float) -> Any:
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bold")
        grid.add_column(justify="right")
        grid.add_column(style="dim")
        done = f"{self.ended_requests:,}" + (f" / {self._scheduled:,}" if self._scheduled else "")
        if self._scheduled:
            grid.add_row("progress", ProgressBar(total=self._scheduled, completed=self.ended_requests, width=28), f"{elapsed_s:.0f} s")
        grid.add_row("requests", done, f"{self.ended_requests / max(elapsed_s, 1e-9):.2f} /s")
        grid.add_row("in flight", f"{self.in_flight:,}", "")
        grid.add_row("output tokens", f"{self._tokens:,}", f"{self._tokens / max(elapsed_s, 1e-9):,.1f} /s")
        grid.add_row("TTFT p50 ≈", f"{self._ttft.percentile_ms(50)} ms", f"p99 ≈ {self._ttft.percentile_ms(99)} ms")
        grid.add_row("TPOT p50 ≈", f"{self._tpot.percentile_ms(50)} ms", f"p99 ≈ {self._tpot.percentile_ms(99)} ms")
        worst = sorted(self._errors.items(), key=lambda item: -item[1])[:3]
        grid.add_row("errors", str(sum(self._errors.values())), ", ".join(f"{name} {count}" for name, count in worst))
        return Panel(grid, title=self._title, title_align="left", expand=False)
