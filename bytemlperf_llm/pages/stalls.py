"""Stalls on the page and in the terminal: how many responses paused in mid-stream, and which moments stopped the server."""

from __future__ import annotations

from typing import Any

from bytemlperf.report.text import counted, number
from bytemlperf.runs.kinds import Section, Table, Text
from bytemlperf.units import NS_PER_MS, NS_PER_S
from bytemlperf_llm.metrics.fluidity import FLUID
from bytemlperf_llm.metrics.stalls import LEAST_SILENCES, TIMES
from bytemlperf_llm.pages.latency import GROUP as LATENCY
from bytemlperf_llm.pages.timeline import GROUP

DEADLINES = (
    "Etalon's fluidity index: the first token is due at the TTFT target, each other one a TPOT target after the one before; what comes "
    "early leaves slack, a late token has missed each deadline that passed until it came. Index: 1 − missed / deadlines of a response."
)


def stall_rows(summary: dict[str, Any]) -> list[list[str]]:
    """For the table of results; nothing where nothing stalled."""
    stalls = summary.get("stalls")
    return [["stalled in mid-stream", _sentence(stalls)]] if stalls and stalls["stalled"] else []


def fluidity_rows(summary: dict[str, Any]) -> list[list[str]]:
    """For the table of results; nothing where tokens have no deadlines."""
    found = summary.get("fluidity")
    if not found:
        return []
    deadlines, missed, index = found["deadlines"], found["missed"], found["index"]
    low = [f"p{percent} {value:.3f}" for percent, value in index["percentiles"].items() if isinstance(value, float)][:1]
    fluid = f"{found['fluid_share']:.1%} of {found['responses']:,} responses are fluid (index ≥ {FLUID})"
    told = ", ".join([f"mean {index['mean']:.3f}", *low])
    return [
        ["token deadlines missed", f"{missed:,} of {deadlines:,} ({missed / deadlines:.1%})"],
        ["fluidity index", f"{told}; {fluid}"],
    ]


def fluidity_sections(summary: dict[str, Any]) -> list[Section]:
    """The same rows as a table of their own."""
    rows = fluidity_rows(summary)
    return [Table(title="Token deadlines", columns=["", ""], rows=rows, note=DEADLINES, group=LATENCY)] if rows else []


def stall_sections(summary: dict[str, Any], origin_ns: int) -> list[Section]:
    """Events of the server since `origin_ns`; nothing where nothing stalled."""
    stalls = summary.get("stalls")
    if not stalls or not stalls["stalled"]:
        return []
    note = (
        f"Stalled: {_sentence(stalls)}. A response stalls where its longest silence is more than {TIMES} times the mean of its other "
        f"ones, of which it needs {LEAST_SILENCES}. The server stopped where half of the open streams, three at least, did at one moment."
    )
    if not stalls["events"]:
        return [Text(title="Stalls", body=note, group=GROUP)]
    rows = [
        [(event["at_ns"] - origin_ns) / NS_PER_S, event["stalled"], event["streams"], event["longest_ns"] / NS_PER_MS]
        for event in stalls["events"]
    ]
    columns = ["at, s", "streams stalled", "streams open", "longest, ms"]
    return [Table(title="Stalls", columns=columns, rows=rows, note=note, group=GROUP)]


def _sentence(stalls: dict[str, Any]) -> str:
    share = stalls["stalled"] / stalls["judged"]
    text = f"{stalls['stalled']:,} of {stalls['judged']:,} responses ({share:.1%}), longest {number(stalls['longest_ns'] / NS_PER_MS)} ms; "
    if not stalls["together"]:
        return f"{text}single streams, no event of the server"
    return f"{text}{stalls['together']:,} of them in {counted(stalls['server_events'], 'event')} of the server"
