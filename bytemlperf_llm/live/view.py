"""The live view of a run: a rich table in a terminal, a plain line now and then elsewhere.

It is drawn by the run's own loop, once a second: never from a thread, which could hold the
interpreter at a moment that nobody chose.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from bytemlperf_llm.live.sketch import NS_PER_S, Sketch

if TYPE_CHECKING:
    from rich.console import Console

    from bytemlperf_llm.live.metrics import LlmMetrics
    from bytemlperf_llm.report.live_page import LivePage

PLAIN_EVERY_TICKS = 10


class LiveView:
    """Shows a run while it goes on, from the live metrics. `tick` is called about once a second."""

    def __init__(
        self,
        console: Console,
        title: str,
        scheduled: int | None,
        metrics: LlmMetrics,
        quiet: bool = False,
        page: LivePage | None = None,
    ) -> None:
        self._console, self._title, self._scheduled, self._metrics, self._quiet = console, title, scheduled, metrics, quiet
        self._page = page
        if page is not None:
            page.scheduled = scheduled
        self._live: Any = None
        self._ticks = 0
        self._ttft, self._tpot = Sketch(), Sketch()

    def __enter__(self) -> LiveView:
        if not self._quiet or self._page is not None:
            self._metrics.listener = self._listen
        if self._console.is_terminal and not self._quiet:
            from rich.live import Live

            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._metrics.listener = None
        if self._live is not None:
            self._live.stop()

    def _listen(self, ttft_s: list[float], tpot_s: list[float]) -> None:
        if self._page is not None:
            self._page.listen(ttft_s, tpot_s)
        for sketch, values in ((self._ttft, ttft_s), (self._tpot, tpot_s)):
            for value_s in values:
                sketch.add(value_s * NS_PER_S)

    def tick(self, elapsed_s: float) -> None:
        """Draw once."""
        self._ticks += 1
        if self._page is not None:
            self._page.tick(elapsed_s)
        if self._live is not None:
            self._live.update(self._table(elapsed_s), refresh=True)
        elif not self._quiet and self._ticks % PLAIN_EVERY_TICKS == 0:
            print(self.line(elapsed_s), file=sys.stderr, flush=True)

    def line(self, elapsed_s: float) -> str:
        """The plain form."""
        seen = self._metrics
        scheduled = f"/{self._scheduled}" if self._scheduled else ""
        return (
            f"[{elapsed_s:5.0f} s] {seen.ended_requests}{scheduled} requests, {seen.in_flight} in flight, {seen.failed_requests} failed, "
            f"{seen.output_tokens / max(elapsed_s, 1e-9):,.0f} tokens/s, TTFT p50 ≈ {self._ttft.percentile_ms(50)} ms, "
            f"p99 ≈ {self._ttft.percentile_ms(99)} ms"
        )

    def _table(self, elapsed_s: float) -> Any:
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        seen = self._metrics
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bold")
        grid.add_column(justify="right")
        grid.add_column(style="dim")
        done = f"{seen.ended_requests:,}" + (f" / {self._scheduled:,}" if self._scheduled else "")
        if self._scheduled:
            grid.add_row("progress", ProgressBar(total=self._scheduled, completed=seen.ended_requests, width=28), f"{elapsed_s:.0f} s")
        grid.add_row("requests", done, f"{seen.ended_requests / max(elapsed_s, 1e-9):.2f} /s")
        grid.add_row("in flight", f"{seen.in_flight:,}", "")
        grid.add_row("output tokens", f"{seen.output_tokens:,}", f"{seen.output_tokens / max(elapsed_s, 1e-9):,.1f} /s")
        grid.add_row("TTFT p50 ≈", f"{self._ttft.percentile_ms(50)} ms", f"p99 ≈ {self._ttft.percentile_ms(99)} ms")
        grid.add_row("TPOT p50 ≈", f"{self._tpot.percentile_ms(50)} ms", f"p99 ≈ {self._tpot.percentile_ms(99)} ms")
        worst = sorted(seen.failures.items(), key=lambda item: -item[1])[:3]
        grid.add_row("errors", str(sum(seen.failures.values())), ", ".join(f"{name} {count}" for name, count in worst))
        return Panel(grid, title=self._title, title_align="left", expand=False)
