"""`--fail-if` on a comparison (`bytemlperf.runs.conditions`), for a merge gate.

A change counts when its 95 % interval excludes none (for `any`, when the judgement over all figures says so). A figure that isn't
there, a rate under another load, or a run that is invalid, failing or overloaded, fails a gate: what can't be evaluated must not pass.
"""

from __future__ import annotations

from collections.abc import Sequence

from bytemlperf.compare.comparison import Comparison, Row, Side
from bytemlperf.compare.statistics import Change
from bytemlperf.errors import UserError
from bytemlperf.runs.conditions import ANY, Condition
from bytemlperf.runs.verdicts import UNFIT


def failures(comparisons: Sequence[Comparison], conditions: Sequence[Condition]) -> list[str]:
    """A sentence for each way in which a condition is met, or can't be evaluated. Raises UserError for a metric that no run has."""
    found = []
    if conditions:
        found += [
            f"{name} is {view.verdict}: {'; '.join(view.reasons) or 'see its report'}"
            for comparison in comparisons
            for name, view in zip(comparison.names, comparison.views, strict=True)
            if view.verdict in UNFIT
        ]
    for condition in conditions:
        found += _any_worse(comparisons, condition) if condition.metric == ANY else _named(comparisons, condition)
    return found


def _any_worse(comparisons: Sequence[Comparison], condition: Condition) -> list[str]:
    return [
        *(f"{condition.text}: can't be evaluated: {each.different_loads}" for each in comparisons if each.different_loads),
        *(
            f"{condition.text}: {name}: {_told(row, side)}"
            for comparison in comparisons
            for row in comparison.rows
            for name, side in zip(comparison.names, row.sides, strict=True)
            if side.judgement in ("worse", "negligible") and worsening(row.better, side.change) * 100 > condition.limit
        ),
    ]


def worsening(better: str, difference: Change | None) -> float:
    """By which share a figure is worse; below 0 where it is better, 0 where nothing can be said."""
    change = 0.0 if difference is None or difference.ratio is None else difference.ratio - 1
    return {"lower": change, "higher": -change}.get(better, 0.0)


def _named(comparisons: Sequence[Comparison], condition: Condition) -> list[str]:
    rows = [(comparison, row) for comparison in comparisons for row in comparison.row(condition.metric)]
    if not rows:
        known = sorted({row.metric for comparison in comparisons for row in comparison.rows})
        raise UserError(f"no run has a figure {condition.metric!r}", f"there are: {', '.join(known[:20]) or 'none'}")
    return [text for comparison, row in rows for text in _row_failures(comparison, row, condition)]


def _row_failures(comparison: Comparison, row: Row, condition: Condition) -> list[str]:
    found = []
    alone = len(row.sides) == 1
    for place, (name, side) in enumerate(zip(comparison.names, row.sides, strict=True)):
        if place == comparison.baseline and not alone:
            continue
        text = _relative(row, side, condition) if condition.relative else condition.fault(side.figure)
        if text:
            found.append(f"{condition.text}: {name}: {text}")
    return found


def _relative(row: Row, side: Side, condition: Condition) -> str:
    change = side.change
    if change is None or change.ratio is None:
        return f"can't be evaluated: {change.method if change else 'there is no baseline to compare with'}"
    if not condition.beyond((change.ratio - 1) * 100):
        return ""
    excludes_none = change.low is None or change.high is None or change.low > 1 or change.high < 1
    return _told(row, side) if excludes_none else ""


def _told(row: Row, side: Side) -> str:
    assert side.change is not None
    assert side.change.ratio is not None
    between = bounds_text(side.change)
    return f"{row.label} {percent(side.change.ratio)}" + (f" ({between})" if between else "")


def bounds_text(difference: Change) -> str:
    """Its interval; nothing where it has none."""
    return "" if difference.low is None or difference.high is None else f"{percent(difference.low)} to {percent(difference.high)}"


def percent(ratio: float) -> str:
    """A ratio as a signed change."""
    value = (ratio - 1) * 100
    digits = 1 if abs(value) < 100 else 0
    return f"{round(value, digits) or 0.0:+.{digits}f} %"  # no -0.0
