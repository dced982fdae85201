"""The description of a trace as tables."""

from __future__ import annotations

from pathlib import Path

from bytemlperf.report.text import counted, number
from bytemlperf.runs.kinds import Section, Table, Text
from bytemlperf_llm.trace.description import Description

NAMES = {
    "turns": "turns of a session",
    "prompt_tokens": "prompt tokens",
    "output_tokens": "output tokens",
    "pause_s": "tools and thinking (s)",
}
COLUMNS = ("mean", "min", "p50", "p90", "p99", "max")


def description_sections(told: Description) -> list[Section]:
    """What it is, what it holds, how it is spread."""
    head = Text(title=f"{Path(told.file).name} ({told.format})", body=_held(told))
    return [head, Table(title="", columns=["", ""], rows=_facts(told)), _spreads(told)]


def _held(told: Description) -> str:
    sessions = "" if told.sessions is None else f"{counted(told.sessions, 'session')} of "
    left_out = f"; {told.left_out:,} left out: without a prompt and an answer" if told.left_out else ""
    return f"{sessions}{counted(told.requests, 'request')}{left_out}"


def _facts(told: Description) -> list[list[str]]:
    total = told.prompt_tokens.sum if told.prompt_tokens else 0
    rows = []
    if told.reusable_tokens is not None and total:
        rows.append(["prefix reuse, unbounded cache", f"{told.reusable_tokens / total:.1%} of {number(total)} prompt tokens"])
    if told.peak is not None:
        name, noun = ("most at a time", "session") if told.sessions else ("most in a second", "request")
        rows.append([name, counted(told.peak, noun)])
    scaled = "" if told.time_scale == 1.0 else f" at --time-scale {told.time_scale:g}"
    times = (
        ("duration at the file's own times", told.duration_s),
        ("longest session", told.longest_session_s),
        ("one user, session after session", told.one_user_s),
    )
    return rows + [[f"{name}{scaled}", _time(seconds)] for name, seconds in times if seconds is not None]


def _spreads(told: Description) -> Table:
    spreads = [(title, getattr(told, name)) for name, title in NAMES.items()]
    rows = [[title, *(getattr(spread, column) for column in COLUMNS), spread.count] for title, spread in spreads if spread is not None]
    notes = [f"Tokens of texts: {told.counted_by}."] if told.counted_by else []
    if told.unsaid_outputs:
        notes.append(f"Of {counted(told.unsaid_outputs, 'request')} the file doesn't say how long the answer is.")
    if told.one_user_s is not None:
        notes.append("Responses count as instantaneous.")
    if told.format == "bailian_chains":
        notes.append("Its pauses include the response times.")
    return Table(title="", columns=["", *COLUMNS, "n"], rows=rows, note=" ".join(notes), spare=["min", "p90"])


def _time(seconds: float) -> str:
    """In seconds, and in hours and minutes where that says more."""
    minutes, hours = round(seconds / 60), round(seconds / 3600, 1)
    more = f" ({hours:,.1f} h)" if seconds >= 7200 else f" ({minutes} min)" if seconds >= 120 else ""
    return f"{number(seconds)} s{more}"
