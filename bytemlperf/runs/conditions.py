"""`--fail-if`: a condition on a figure that ends a command with status 1.

ttft p50 > 5%                  changed by more than +5 % (of runs that are compared)
output_token_throughput < -3%  fell by more than 3 %, likewise
ttft p99 > 200                 is more than 200 in its own unit
any worse > 5%                 some figure is worse by more than 5 %, likewise
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from bytemlperf.errors import UserError

if TYPE_CHECKING:
    from bytemlperf.runs.kinds import Figure

_CONDITION = re.compile(r"^\s*(?P<metric>.+?)\s*(?P<sign>[<>])\s*(?P<limit>[-+]?\d+(?:\.\d+)?)\s*(?P<percent>%?)\s*$")
ANY = "any worse"
MOST_NAMED = 20


class Condition(NamedTuple):
    """One condition; `limit` is a percentage of change where `relative`."""

    text: str
    metric: str
    above: bool
    limit: float
    relative: bool

    def beyond(self, value: float) -> bool:
        return value > self.limit if self.above else value < self.limit

    def fault(self, figure: Figure | None) -> str:
        """That the figure is beyond the limit, or can't be evaluated, which must not pass; empty where it isn't."""
        if figure is None or figure.value is None:
            return f"can't be evaluated: {(figure and figure.reason) or 'not measured'}"
        return f"it is {figure.value:.4g} {figure.unit}".rstrip() if self.beyond(figure.value) else ""


def parse(text: str) -> Condition:
    """Raises UserError for what is no condition."""
    match = _CONDITION.match(text)
    if match is None:
        raise UserError(f"--fail-if {text!r} is not a condition", "write METRIC > LIMIT or METRIC > PERCENT%, as in 'ttft p50 > 5%'")
    relative = bool(match["percent"])
    condition = Condition(text.strip(), match["metric"], match["sign"] == ">", float(match["limit"]), relative)
    if condition.metric == ANY and not (condition.relative and condition.above):
        raise UserError(f"--fail-if {text!r} needs a percentage", "write 'any worse > 5%'")
    return condition


def of_one_run(text: str) -> Condition:
    """A condition on a figure itself. Raises UserError."""
    condition = parse(text)
    if condition.relative:
        fix = "give a limit in the figure's unit, or use: bmp compare --fail-if"
        raise UserError(f"--fail-if {text!r} compares, and this is one run", fix)
    return condition


def unmet(figures: Iterable[Figure], texts: Iterable[str]) -> list[str]:
    """A sentence for each condition that a run's figures meet, or that can't be evaluated: what can't be must not pass."""
    named = [(figure, {figure.metric, figure.label}) for figure in figures]
    sentences = []
    for condition in map(of_one_run, texts):
        of_metric = [figure for figure, names in named if condition.metric in names]
        if not of_metric:
            known = ", ".join(sorted({figure.metric for figure, _ in named})[:MOST_NAMED])
            sentences.append(f"{condition.text}: no such figure; there are: {known or 'none'}")
        sentences += [f"{condition.text}: {fault}" for figure in of_metric if (fault := condition.fault(figure))]
    return sentences
