"""Speculative decoding on the page and in the terminal: acceptance, sizes of steps, tokens a step over time, TPOT against them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bytemlperf.lazy import numpy
from bytemlperf.report.blocks import axes, bars, figure_of, line
from bytemlperf.report.text import number
from bytemlperf.report.thin import time_edges
from bytemlperf.runs.kinds import Figure, Plot, Section, Table
from bytemlperf_llm.pages.columns import RunColumns
from bytemlperf_llm.pages.gauges import GaugeLine, gauge_lines
from bytemlperf_llm.pages.relation import against
from bytemlperf_llm.pages.timeline import tokens_in
from bytemlperf_llm.record.gauges import Sample

GROUP = "Speculative decoding"
LEAST_STEPS = 5  # of a stretch of time that is drawn
NOTE = (
    "A step is a burst of tokens of one stream. Acceptance length: 1 + accepted / drafts; rate: accepted / drafted, by the engine over "
    "the measured part, other traffic included. A server or proxy that bundles tokens looks like speculation in the streams alone."
)


def speculation_rows(summary: dict[str, Any]) -> list[list[str]]:
    """For the table of results; nothing where a step brings a token."""
    found = summary.get("speculation")
    if not found:
        return []
    rows = []
    if per_step := found["tokens_per_step"]:
        bounds = per_step["ci95"]
        between = "" if isinstance(bounds, str) else f" ({' – '.join(f'{bound:.2f}' for bound in bounds)})"
        classes = ", ".join(f"{name} {of_class['mean']:.2f}" for name, of_class in found["by_class"].items())
        rows.append(["tokens a step, in the streams", f"{per_step['mean']:.2f}{between}{f'; {classes}' if classes else ''}"])
    if drafts := found["drafts"]:
        length = "" if drafts["acceptance_length"] is None else f"length {drafts['acceptance_length']:.2f}, "
        counts = f"{drafts['accepted_tokens']:,} of {drafts['draft_tokens']:,} draft tokens"
        rows.append(["acceptance, by the engine", f"{length}rate {drafts['acceptance_rate']:.1%} ({counts})"])
    if found["accepted_per_answer"] is not None:
        rows.append(["accepted draft tokens a response, by usage", number(found["accepted_per_answer"])])
    return rows


def speculation_sections(summary: dict[str, Any], columns: RunColumns, samples: Sequence[Sample] = ()) -> list[Section]:
    """Nothing where a step brings a token. Of the engine's `samples` those gauges of acceptance that it has in place of counters."""
    found = summary.get("speculation")
    if not found:
        return []
    at = (found["drafts"] or {}).get("acceptance_at", [])
    rows = [*speculation_rows(summary), *([f"accepted at place {place}", f"{share:.1%}"] for place, share in enumerate(at, start=1))]
    rows += [[f"{line.label}, gauge", f"{numpy.median(line.values):.3g} in the median"] for line in _acceptance(samples)]
    sections: list[Section] = [Table(title="Acceptance", columns=["", ""], rows=rows, note=NOTE, group=GROUP)]
    if found["steps"] and columns.answered.any():
        steps = columns.raw("silences")[columns.answered].astype("f8")
        per_step = numpy.divide(columns.raw("step_tokens")[columns.answered], steps, out=numpy.full(len(steps), numpy.nan), where=steps > 0)
        told, tpot = ~numpy.isnan(per_step), columns.latencies["tpot"][columns.answered]
        plots = [
            _sizes(found),
            _over_time(found, columns),
            against("TPOT by tokens a step", "tokens a step", per_step[told], tpot[told], GROUP),
        ]
        sections += [plot for plot in plots if plot is not None]
    return sections


def _acceptance(samples: Sequence[Sample]) -> list[GaugeLine]:
    return [line for line in gauge_lines(samples, 0) if "acceptance_" in line.name]


def speculation_figures(key: str, summary: dict[str, Any]) -> list[Figure]:
    """Tokens a step and acceptance, where a step brings several; neither better high nor low, so that other prompts compare."""
    found = summary.get("speculation") or {}
    means = {
        "tokens a step": found.get("tokens_per_step"),
        **{f"{name} tokens a step": each for name, each in found.get("by_class", {}).items()},
    }
    drafts = found.get("drafts") or {}
    counted = (("acceptance length", "tokens", 1), ("acceptance rate", "%", 100))
    return [
        *(
            figure_of(
                {"count": None, **mean, "ci95": {"mean": mean["ci95"]}},
                "mean",
                key=key,
                metric=name,
                label=name,
                unit="tokens",
            )
            for name, mean in means.items()
            if mean
        ),
        *(
            Figure(key=key, metric=name, label=name, unit=unit, value=scale * value)
            for name, unit, scale in counted
            if (value := drafts.get(name.replace(" ", "_"))) is not None
        ),
    ]


def _sizes(found: dict[str, Any]) -> Plot:
    sizes = {int(tokens): 100 * count / found["steps"] for tokens, count in found["step_sizes"].items()}
    data = [bars("steps", list(sizes), list(sizes.values()), "%{y:.1f} % of steps had %{x} tokens", color="@0")]
    layout = axes("tokens of a step", "share of steps, %")
    alt = ", ".join(f"{tokens}: {share:.1f} %" for tokens, share in sizes.items())
    return Plot(title="Sizes of steps", data=data, layout=layout, alt=alt, half=True, group=GROUP)


def _over_time(found: dict[str, Any], columns: RunColumns) -> Plot:
    """Tokens after the first of each stream over its steps, in each stretch of time."""
    edges = time_edges(0.0, columns.duration_s, found["steps"] // 20)
    tokens, steps = tokens_in(columns, edges, first=False), numpy.zeros(len(edges) - 1)
    for stamps, _, weights in columns.token_blocks(columns.acc.inter_chunk):
        steps += numpy.histogram(stamps, edges, weights=weights)[0]
    shown = steps >= LEAST_STEPS
    middle = ((edges[:-1] + edges[1:]) / 2)[shown]
    data = [line("tokens a step", middle, tokens[shown] / steps[shown], "%{y:.3~g} tokens at %{x:.1f} s", width=1.6, color="@0")]
    layout = axes("seconds from the first request due", "tokens a step")
    alt = f"tokens a step over the run, {found['tokens_per_step']['mean']:.2f} in all"
    return Plot(title="Tokens a step over time", data=data, layout=layout, alt=alt, half=True, group=GROUP)
