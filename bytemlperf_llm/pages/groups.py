"""Classes of a mix, and addresses that requests went to, side by side: on the page and in the terminal."""

from __future__ import annotations

from typing import Any

from bytemlperf.report.blocks import Cell, table
from bytemlperf.report.text import number
from bytemlperf.runs.kinds import Section
from bytemlperf_llm.pages.latency import ms

TAILS = ("99", "95", "90")
"""The highest percentile that all groups carry is shown."""
SPARE = (*(f"TPOT p{tail}" for tail in TAILS), "share", "tokens/s out", *(f"TTFT p{tail}" for tail in TAILS))


def group_sections(summary: dict[str, Any]) -> list[Section]:
    """Nothing for requests of one kind that all went to the same address."""
    classes: list[dict[str, Cell]] = [{"share": _percent(group["share"])} for group in (summary.get("classes") or {}).values()]
    note = "Latencies in ms. Within SLO: requests that met the service levels of their own class."
    if (fairness := summary.get("fairness")) and fairness["jain_index"] is not None:
        note += f" Jain's fairness index: {fairness['jain_index']:.3f} (1: equal)."
    return [
        *table("Classes", _rows(summary, "class", "classes", classes), note=note, group="Classes", spare=SPARE),
        *table("Endpoints", _rows(summary, "endpoint", "endpoints"), note="Latencies in ms.", group="Endpoints", spare=SPARE),
    ]


def _rows(summary: dict[str, Any], title: str, key: str, more: list[dict[str, Cell]] | None = None) -> list[dict[str, Cell]]:
    groups = summary.get(key) or {}
    metrics = [(name, metric["percentiles"]) for group in groups.values() for name, metric in group["metrics"].items()]
    tail = next((tail for tail in TAILS if not any(isinstance(claims.get(tail), str) for _, claims in metrics)), TAILS[-1])
    shown = ("ttft", "tpot") if any(name == "ttft" for name, _ in metrics) else ("e2e",)
    named = zip(groups.items(), more or [{}] * len(groups), strict=True)
    return [
        {title: name, **own, **_cells(group, [(each, percent) for each in shown for percent in ("50", tail)])}
        for (name, group), own in named
    ]


def _cells(group: dict[str, Any], percentiles: list[tuple[str, str]]) -> dict[str, Cell]:
    metrics, good = group["metrics"], group["goodput"]
    cached, prompt = group["cached_tokens"], group["prompt_tokens"]
    return {
        "requests": group["requests"],
        "failed": group["outcomes"]["failed"],
        **{f"{name.upper()} p{percent}": _percentile(metrics.get(name), percent) for name, percent in percentiles},
        "tokens/s out": number(group["rates"]["output_token_throughput"]["value"]) if group["output_tokens"] else None,
        "cached": _percent(cached / prompt) if prompt and cached is not None else None,
        "within SLO": _percent(good["share"]) if good else None,
    }


def _percentile(metric: dict[str, Any] | None, percent: str) -> str | None:
    return None if metric is None else ms(metric["percentiles"].get(percent))


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.1%}"
