"""How often intervals hold the truth, how often a comparison sees a difference where there is none, and how often one of 5 %.

    python -m benchmarks.intervals [--runs 200] [--pairs 100] [--quick]

Runs of a simulated server (simulated.py), each with a seed of its own. Coverage: of 95 % intervals of every published percentile and
mean, against the figures of many runs together. Differences: pairs of runs of one server, with one schedule and with two, and pairs
of which the second is 5 % slower; shown is for each family of figures the share of p values under 0.05 among its
figures, of the worst one of them, and the share of comparisons whose judgement (over all figures) names one of them.
Bounds: coverage at least 94.5 % over all percentiles; false differences at most 1 in 20 a family; 5 % seen in every pair of even runs.
"""

from __future__ import annotations

import argparse
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import msgspec

from benchmarks.simulated import Served, run_of
from bytemlperf.compare.statistics import change, significant
from bytemlperf.runs.kinds import Figure
from bytemlperf.statistics.clusters import ClusteredColumn
from bytemlperf.statistics.metric import Metric
from bytemlperf.statistics.statistics import nearest_rank, parse_percentile
from bytemlperf_llm.kind import figures_of
from bytemlperf_llm.metrics.accumulator import Accumulator
from bytemlperf_llm.metrics.facts import RunFacts
from bytemlperf_llm.metrics.summary import summary_of
from bytemlperf_llm.pages.columns import RunColumns

JUDGED = ("ttft", "tpot", "itl", "inter_chunk_latency", "e2e", "ntpot", "max_stall")
PERCENTILES = ("50", "90", "95", "99")
TRUTH_REQUESTS = 60_000

PLAIN = Served(drift=0.0, stall=0.0, jitter=0.3)
SERVERS = {
    "open loop, bursts": PLAIN.but(rate=10.0, burst=4),
    "closed loop, bursts": PLAIN.but(rate=None, concurrency=8, burst=4, requests=200),
    "open loop, speed wanders, stalls": Served(burst=3, drift=0.02, drift_s=0.3, stall=0.001, requests=500),
}
EVEN = PLAIN.but(jitter=0.05, rate=None, concurrency=8, requests=200)


def facts_of(served: Served) -> RunFacts:
    return RunFacts(open_loop=served.rate is not None, process="poisson" if served.rate else "constant", percentiles=PERCENTILES)


# -- coverage ---------------------------------------------------------------------------------


def truth_of(served: Served, first_seed: int, requests: int = TRUTH_REQUESTS) -> dict[tuple[str, str], float]:
    """Metric and statistic to its value over many runs together."""
    values: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for seed in range(first_seed, first_seed + requests // served.requests):
        acc = Accumulator().add_all(run_of(served, seed))
        for name in JUDGED:
            values[name] += _values(acc, name)
    found = {}
    for name, pairs in values.items():
        pairs.sort()
        upto = list(accumulate(count for _, count in pairs))
        found[name, "mean"] = sum(value * count for value, count in pairs) / upto[-1]
        for text in PERCENTILES:
            found[name, text] = pairs[bisect_left(upto, nearest_rank(upto[-1], parse_percentile(text)))][0]
    return found


def _values(acc: Accumulator, name: str) -> Iterable[tuple[int, int]]:
    columns: dict[str, ClusteredColumn] = {"itl": acc.itl, "inter_chunk_latency": acc.inter_chunk}
    if name not in columns:
        return [(value, 1) for value in acc.request_values(name, acc.rows("ok")).tolist()]
    values, counts = columns[name].runs(0, len(columns[name].rows))
    return zip(values.tolist(), counts.tolist(), strict=True)


def covered(metrics: dict[str, Metric], truth: dict[tuple[str, str], float]) -> dict[tuple[str, str], bool]:
    """Of every published figure that has an interval, whether it holds the truth."""
    found = {}
    for name in JUDGED:
        claims = {"mean": metrics[name].mean, **metrics[name].percentiles}
        for text, value in claims.items():
            bounds = metrics[name].ci95[text]
            if value != "insufficient" and bounds != "insufficient":
                found[name, text] = bounds[0] <= truth[name, text] <= bounds[1]
    return found


def coverage(served: Served, runs: int, first_seed: int = 1) -> dict[tuple[str, str], list[bool]]:
    """Metric and statistic to whether each run's interval held the truth."""
    truth, found = truth_of(served, first_seed + 1_000_000), defaultdict(list)
    for seed in range(first_seed, first_seed + runs):
        summary = summary_of(Accumulator().add_all(run_of(served, seed)), facts_of(served))
        for key, held in covered(summary.metrics, truth).items():
            found[key].append(held)
    return found


# -- differences ------------------------------------------------------------------------------


def figures(served: Served, seed: int, schedule_seed: int | None) -> list[Figure]:
    """Every figure of a run that a comparison takes."""
    facts = facts_of(served)
    columns = RunColumns(Accumulator().add_all(run_of(served, seed, schedule_seed)), facts)
    return figures_of("simulated", msgspec.to_builtins(summary_of(columns.acc, facts)), columns)


class Found(NamedTuple):
    """One figure of one pair: its family (the metric), its name, whether p < 0.05, and whether the comparison calls it different."""

    family: str
    metric: str
    alarm: bool
    judged: bool


def compare(served: Served, other: Served, seed: int, *, paired: bool) -> list[Found]:
    """A run of each, of one schedule where `paired`."""
    schedule = seed if paired else None
    before, after = figures(served, 2 * seed, schedule), {each.metric: each for each in figures(other, 2 * seed + 1, schedule)}
    changes = [(each.metric, change(each, after[each.metric], paired=paired)) for each in before if each.metric in after]
    judged = significant([each.p_value for _, each in changes])
    return [
        Found(metric.split()[0], metric, each.p_value < 0.05, real)
        for (metric, each), real in zip(changes, judged, strict=True)
        if each.p_value is not None
    ]


class Family(NamedTuple):
    """Shares over all pairs: of alarms among a family's figures, of the worst of them, of comparisons that name one of them."""

    alarms: float
    worst: float
    judged: float


def families(pairs: Sequence[Sequence[Found]]) -> dict[str, Family]:
    alarms: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    judged: dict[str, list[bool]] = defaultdict(list)
    for pair in pairs:
        for each in pair:
            alarms[each.family][each.metric].append(each.alarm)
        for family in {each.family for each in pair}:
            judged[family].append(any(each.judged for each in pair if each.family == family))
    return {
        family: Family(
            alarms=_share([alarm for each in metrics.values() for alarm in each]),
            worst=max(map(_share, metrics.values())),
            judged=_share(judged[family]),
        )
        for family, metrics in alarms.items()
    }


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)


# -- the script -------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="a fifth of both")
    arguments = parser.parse_args()
    runs, pairs = (each // 5 if arguments.quick else each for each in (arguments.runs, arguments.pairs))
    for name, served in SERVERS.items():
        print(f"\n{name}: {served.requests} requests a run, {runs} runs")
        show_coverage(coverage(served, runs))
        for paired in (True, False):
            kind = "one schedule" if paired else "two schedules"
            show_families(f"no difference, {kind}", [compare(served, served, seed, paired=paired) for seed in range(pairs)])
    print(f"\neven, {EVEN.requests} requests a run")
    show_families("5 % slower, one schedule", [compare(EVEN, EVEN.but(slower=1.05), seed, paired=True) for seed in range(pairs)])


def show_coverage(found: dict[tuple[str, str], list[bool]]) -> None:
    for metric in JUDGED:
        cells = [f"{text} {_share(held):6.1%}" for (name, text), held in found.items() if name == metric]
        print(f"  {metric:<20} {'  '.join(cells)}")
    percentiles = [held for (_, text), every in found.items() for held in every if text != "mean"]
    print(f"  all percentiles: {_share(percentiles):.1%} of {len(percentiles):,} intervals hold the truth (at least 94.5 %)")


def show_families(title: str, pairs: Sequence[Sequence[Any]]) -> None:
    print(f"  {title}, {len(pairs)} pairs: p < 0.05 over the family | of its worst figure | judged different")
    for name, family in families(pairs).items():
        print(f"    {name:<26} {family.alarms:6.1%} | {family.worst:6.1%} | {family.judged:6.1%}")
    print(f"    {'any':<26} judged different in {_share([any(each.judged for each in pair) for pair in pairs]):.1%}")


if __name__ == "__main__":
    main()
