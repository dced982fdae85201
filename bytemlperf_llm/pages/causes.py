"""Why the slowest requests were slow, in sentences: at the top of the page, the first of them in the terminal."""

from __future__ import annotations

from typing import Any

import msgspec

from bytemlperf.report.text import number
from bytemlperf.runs.kinds import Section, Table, Text
from bytemlperf_llm.causes.judge import LEAST_SHARE, NAMES, Causes, Finding

GROUP = "Causes"
NOTE = (
    "Each rule takes the milliseconds of every request that it accounts for, none of them twice. Share: of how much longer the slowest "
    "10 % took than the tenth around the median, with its 95 % interval by block bootstrap, for each rule alone. ms: of a slow request. "
    f"p: that the share is under {LEAST_SHARE:.0%}. A cause is named where it isn't, with all rules considered (Holm, 5 %)."
)


def cause_sections(summary: dict[str, Any]) -> list[Section]:
    """The sentences, then every rule's figures; nothing where there are no tokens."""
    causes = _causes(summary)
    if causes is None:
        return []
    tails = [
        f"{NAMES[latency]} {number(tail.slow_ms)} ms against {number(tail.typical_ms)} ms of a typical request"
        for latency, tail in causes.tails.items()
    ]
    lead = [f"The slowest 10 % of {causes.requests:,}: {'; '.join(tails)}."] if tails else []
    sentences = _sentences(causes) or [f"{causes.sentence[:1].upper()}{causes.sentence[1:]}."]
    rows = [_row(finding) for finding in causes.findings]
    columns = ["rule", "latency", "share, %", "95 % interval", "ms", "p", "named"]
    tested = [Table(title="Rules tested", columns=columns, rows=rows, note=NOTE, folded=True, group=GROUP)] if rows else []
    return [*(Text(body=sentence, group=GROUP) for sentence in [*sentences, *lead]), *tested]


def cause_lines(summary: dict[str, Any]) -> list[Text]:
    """For the terminal: the first cause; without one, and for all others, with --verbose alone."""
    causes = _causes(summary)
    if causes is None:
        return []
    sentences = _sentences(causes)
    if not sentences:
        return [Text(title="cause", body=causes.sentence, detail=True)]
    return [Text(title="another cause" if rank else "cause", body=body, detail=rank > 0) for rank, body in enumerate(sentences)]


def _sentences(causes: Causes) -> list[str]:
    """Of the causes that are named, the largest first; one that makes both tails has one."""
    shares: dict[str, list[str]] = {}
    for finding in causes.findings:
        if finding.named:
            shares.setdefault(finding.sentence, []).append(_share(finding))
    return [f"{sentence} It accounts for {' and '.join(parts)} of the slowest 10 %." for sentence, parts in shares.items()]


def _causes(summary: dict[str, Any]) -> Causes | None:
    return msgspec.convert(summary["causes"], Causes) if summary.get("causes") else None


def _share(finding: Finding) -> str:
    share, low, high = (min(100 * value, 100.0) for value in (finding.share, finding.low, finding.high))
    return f"{share:.0f} % ({low:.0f} to {high:.0f} %) of the excess {NAMES[finding.latency]}"


def _row(finding: Finding) -> list[str | float | int | None]:
    share = [round(100 * value, 1) for value in (finding.share, finding.low, finding.high)]
    bounds = f"{number(share[1])} – {number(share[2])}"
    named = "yes" if finding.named else "no"
    return [finding.cause, finding.latency.upper(), share[0], bounds, finding.ms, finding.p_value, named]
