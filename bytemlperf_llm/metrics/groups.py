"""The figures of a part of the requests: of one class of a mix, or of those that went to one address. Fairness between classes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bytemlperf.statistics.columns import ABSENT, Column, total_of
from bytemlperf.statistics.metric import Metric, describe
from bytemlperf_llm.metrics.accumulator import OUTCOMES, Accumulator
from bytemlperf_llm.metrics.definitions import FORMULAS
from bytemlperf_llm.metrics.facts import ClassFacts, RunFacts
from bytemlperf_llm.metrics.rates import Goodput, Rate, SteadyState, goodput, throughput

METRICS = ("ttft", "tpot", "e2e")
NEVER_ENDED = ("failed", "cancelled", "in_flight")


class Group(msgspec.Struct, kw_only=True):
    """Of the requests with a record. Token counts are of answers; None where one of them lacks it."""

    requests: int
    outcomes: dict[str, int]
    metrics: dict[str, Metric]
    rates: dict[str, Rate]
    goodput: Goodput | None
    prompt_tokens: int | None
    cached_tokens: int | None
    output_tokens: int


class ClassGroup(Group, kw_only=True):
    """`share` of all requests, and the rate that this is of an open loop's. `goodput` is against the class's own service levels."""

    share: float
    requested_rate: float | None


class Fairness(msgspec.Struct, kw_only=True):
    """Jain's index over the classes that have service levels, 1 / their number to 1: (Σx)² / (n Σx²), where x is a class's goodput over its
    target rate, both over the whole run, which is the share of its requests that met its service levels (Jain, Chiu and Hawe, "A
    Quantitative Measure of Fairness and Discrimination for Resource Allocation in Shared Computer Systems", DEC-TR-301, 1984)."""

    jain_index: float | None
    normalised_goodput: dict[str, float]


def classes_of(acc: Accumulator, facts: RunFacts, steady: SteadyState) -> dict[str, ClassGroup]:
    """In the order of the scenario."""
    total = sum(each.share for each in facts.classes)
    return {each.name: _class(acc.part("class_name", each.name), facts, steady, each, each.share / total) for each in facts.classes}


def _class(acc: Accumulator, facts: RunFacts, steady: SteadyState, about: ClassFacts, share: float) -> ClassGroup:
    group = _group(acc, facts, steady, goodput(acc, steady, about.slo_ms))
    rate = None if facts.requested_rate is None else share * facts.requested_rate
    return ClassGroup(**msgspec.structs.asdict(group), share=share, requested_rate=rate)


def endpoints_of(acc: Accumulator, facts: RunFacts, steady: SteadyState) -> dict[str, Group]:
    """By address; none where all requests went to the same."""
    parts = {name: acc.part("endpoint", name) for name in sorted(acc.labels["endpoint"])}
    return {name: _group(part, facts, steady, goodput(part, steady, facts.slo_ms, facts.classes)) for name, part in parts.items()}


def fairness_of(classes: dict[str, ClassGroup]) -> Fairness | None:
    """None under two classes with service levels."""
    shares = {name: group.goodput.share for name, group in classes.items() if group.goodput and group.goodput.share is not None}
    return Fairness(jain_index=jain_index(list(shares.values())), normalised_goodput=shares) if len(shares) > 1 else None


def jain_index(values: Sequence[float]) -> float | None:
    """See Fairness; None where all are 0."""
    squares = len(values) * sum(value * value for value in values)
    return sum(values) ** 2 / squares if squares else None


def _group(acc: Accumulator, facts: RunFacts, steady: SteadyState, good: Goodput | None) -> Group:
    ok, columns = acc.rows("ok"), acc.columns
    infinite = sum(acc.outcomes[outcome] for outcome in NEVER_ENDED)
    metrics = {name: describe(acc.request_values(name, ok), "ns", FORMULAS[name], facts.percentiles, infinite) for name in METRICS}
    return Group(
        requests=len(acc.rows()),
        outcomes={outcome: acc.outcomes[outcome] for outcome in OUTCOMES},
        metrics={name: metric for name, metric in metrics.items() if metric is not None},
        rates=throughput(acc, steady),
        goodput=good,
        prompt_tokens=_total(columns["prompt"][ok]),
        cached_tokens=_total(columns["cached"][ok]),
        output_tokens=total_of(columns["output"][ok]),
    )


def _total(values: Column) -> int | None:
    return None if (values == ABSENT).any() else total_of(values)
