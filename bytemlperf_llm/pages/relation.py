"""A latency of requests against an amount of theirs: prompt tokens, output tokens, tokens a step."""

from __future__ import annotations

from bytemlperf.lazy import numpy
from bytemlperf.report.blocks import axes, dots, line
from bytemlperf.report.thin import Binned, kept_dots
from bytemlperf.runs.kinds import Plot
from bytemlperf.statistics.columns import Floats

BINS = 12


def against(title: str, axis: str, amounts: Floats, values: Floats, group: str) -> Plot | None:
    """Values in ms as dots, with the median and p90 of equal numbers of requests; None where all amounts are the same."""
    present = ~numpy.isnan(values)
    amounts, values = amounts[present], values[present]
    if len(values) < 2 or amounts.min() == amounts.max():
        return None
    edges = numpy.unique(numpy.quantile(amounts, numpy.linspace(0, 1, BINS + 1)))
    binned = Binned(amounts, values, edges)
    chosen = kept_dots(values)
    data = [dots("requests", amounts[chosen], values[chosen], "%{y:.4~g} ms at %{x:.4~g} tokens", size=3.5, color="@0/.4")]
    for name, percent, dash in (("p50", 50.0, "solid"), ("p90", 90.0, "dot")):
        shown = binned.percentile(percent)
        data.append(line(name, binned.middle, shown, f"{name} %{{y:.4~g}} ms", width=1.8, color="@1", dash=dash))
    correlation = float(numpy.corrcoef(_ranks(amounts), _ranks(values))[0, 1]) if values.min() < values.max() else 0.0
    note = f"Rank correlation {correlation:+.2f}. Lines: of equal numbers of requests."
    if len(chosen) < len(values):
        note += f" Dots: {len(chosen):,} of {len(values):,}, the extremes among them."
    alt = f"{title}: rank correlation {correlation:+.2f}"
    return Plot(title=title, data=data, layout=axes(axis, "ms"), note=note, alt=alt, half=True, group=group)


def _ranks(values: Floats) -> Floats:
    """Mean ranks, ties shared (Spearman)."""
    _, place, counts = numpy.unique(values, return_inverse=True, return_counts=True)
    return (numpy.cumsum(counts) - (counts - 1) / 2)[place]
