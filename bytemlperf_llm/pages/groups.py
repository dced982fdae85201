"""Classes of a mix, and addresses that requests went to, side by side: on the page and in the terminal."""

from __future__ import annotations

from typing import Any

from bytemlperf.report.blocks import Cell, table
from bytemlperf.report.text import number
from bytemlperf.runs.kinds import Section
from bytemlperf_llm.pages.latency import ms

SPARE = ("TPOT p99", "TTFT p99", "tokens/s out", "cached", "share", "requests")


def group_sections(summary: dict[str, Any]) -> list[Section]:
    """Nothing for requests of one kind that all went to the same address."""
    classes, endpoints = summary.get("classes") or {}, summary.get("endpoints") or {}
    class_rows = [{"class": name, "share": _percent(group["share"]), **_cells(group)} for name, group in classes.items()]
    endpoint_rows = [{"endpoint": name, **_cells(group)} for name, group in endpoints.items()]
    note = "Latencies in ms. Within SLO: the share of requests that met the service levels of their own class."
    if (fairness := summary.get("fairness")) and fairness["jain_index"] is not None:
        note += f" Jain's fairness index of these shares: {fairness['jain_index']:.3f} (1: equal)."
    return [
        *table("Classes", class_rows, note=note, group="Classes", spare=SPARE),
        *table("Endpoints", endpoint_rows, note="Latencies in ms.", group="Endpoints", spare=SPARE),
    ]


def _cells(group: dict[str, Any]) -> dict[str, Cell]:
    metrics, good = group["metrics"], group["goodput"]
    figures = {
        f"{name.upper()} p{percent}": _percentile(metrics.get(name), percent) for name in ("ttft", "tpot") for percent in ("50", "99")
    }
    cached, prompt = group["cached_tokens"], group["prompt_tokens"]
    return {
        "requests": group["requests"],
        "failed": group["outcomes"]["failed"],
        **figures,
        "tokens/s out": number(group["rates"]["output_token_throughput"]["value"]),
        "cached": _percent(cached / prompt) if prompt and cached is not None else None,
        "within SLO": _percent(good["share"]) if good else None,
    }


def _percentile(metric: dict[str, Any] | None, percent: str) -> str | None:
    return None if metric is None else ms(metric["percentiles"].get(percent))


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.1%}"
