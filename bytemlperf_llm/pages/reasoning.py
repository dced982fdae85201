"""Reasoning on the page and in the terminal: tokens of it and of the answers, and why a response has no time of its first answer token."""

from __future__ import annotations

from typing import Any

from bytemlperf.report.text import number
from bytemlperf.runs.kinds import Section, Table
from bytemlperf_llm.pages.latency import GROUP

NOTE = "By usage, else by the streams, which tell reasoning apart by a field of its own or by <think> at their begin."


def reasoning_rows(summary: dict[str, Any]) -> list[list[str]]:
    """Nothing where no response had any."""
    reasoning = summary.get("reasoning")
    if not reasoning:
        return []
    tokens, answers = reasoning["reasoning_tokens"], reasoning["answer_tokens"]
    share = f"{tokens / (tokens + answers):.1%} of the output"
    each = " / ".join(number(count / reasoning["responses"]) for count in (tokens, answers))
    rows = [
        ["tokens of reasoning / answer", f"{tokens:,} / {answers:,} ({share}; {each} a response, {reasoning['responses']:,} responses)"]
    ]
    if reasoning["times_missing"]:
        rows.append(["first token of reasoning, of the answer", f"not available: {reasoning['times_missing']}"])
    if reasoning["unanswered"]:
        rows.append(["reasoning without an answer", f"{reasoning['unanswered']:,} responses ended in mid-reasoning"])
    return rows


def reasoning_sections(summary: dict[str, Any]) -> list[Section]:
    """The same rows as a table of their own."""
    rows = reasoning_rows(summary)
    return [Table(title="Reasoning", columns=["", ""], rows=rows, note=NOTE, group=GROUP)] if rows else []
