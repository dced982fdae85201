"""What keeps a submission from being accepted, by the checker's own names of its rules, or by the section of the rules.

Most of it only a long run or official data can mend. Everything here is known before the checker runs: what it finds beyond these is
an error of the export.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bytemlperf.runs.folder import part
from bytemlperf_llm.mlperf.disclosure import Disclosure
from bytemlperf_llm.mlperf.point import Point
from bytemlperf_llm.mlperf.power import Devices, Power
from bytemlperf_llm.mlperf.regions import (
    CONCURRENCY_REGIONS,
    LEAST_POINTS,
    MOST_POINTS,
    OTHER_S,
    ULTRA_LOW,
    ULTRA_LOW_S,
    Regions,
    least_s,
    regions,
    uncovered,
)
from bytemlperf_llm.mlperf.seeds import bound

NOT_SUBMITTABLE = "Not submittable: by the method of MLPerf Endpoints, not a result of MLCommons"
BENCHMARK_MODELS = ("llama3_1-8b", "gpt-oss-120b", "deepseek-r1", "kimi-k3", "qwen3_6-35b-a3b", "deepseek-v4_1-flash")
"""Of the round (rules 3.2), as the checker 1.5.3 has them."""
LEAST_QUERIES = {
    "open_orca": 24576,
    "cnn_dailymail": 13368,
    "aime25": 30,
    "gpqa": 198,
    "livecodebench": 880,
    "shopify_product_catalogue": 48289,
    "shopify_product_catalogue_8k": 8000,
    "mlperf_gpt_oss_performance": 6396,
    "mlperf_gpt_oss_accuracy": 4395,
    "math500": 500,
}
"""One pass over each official data set (rules 6.4), as the checker 1.5.3 has them."""


ALWAYS = {
    "rules 2.1.1": "measured by this client, not by MLCommons' reference client",
    "rules 2.8": "tokens as the engine reports them, not as the reference tokenizer and chat template count them",
}
"""Of every run of ours, which the checker doesn't look at."""


class Judged(NamedTuple):
    """What is judged: the points, what is stated, and the system as it is described."""

    points: Sequence[Point]
    disclosure: Disclosure
    description: Mapping[str, Any]
    devices: Devices
    c_max: int
    power: Power | None


def shortfalls(judged: Judged) -> dict[str, str]:
    """By rule."""
    return dict([*_points(judged), *_lengths(judged), *_sent(judged.points), *_stated(judged), *_accuracy(judged), *ALWAYS.items()])


def _points(judged: Judged) -> Iterator[tuple[str, str]]:
    c_max, concurrencies = judged.c_max, [point.concurrency for point in judged.points]
    texts = {
        "point-count": f"{len(concurrencies)} points, {LEAST_POINTS} are the least",
        "region-computation": f"regions need a maximum concurrency above {ULTRA_LOW}, and it is {c_max}",
        "offline-point-present": f"no point at the maximum concurrency, {c_max}, to elect as the Offline result",
    }
    for rule in uncovered(concurrencies, c_max):
        yield rule, texts.get(rule, f"no point in that region for a maximum concurrency of {c_max}")
    if len(concurrencies) > MOST_POINTS:
        yield "point-cap", f"{len(concurrencies)} points, {MOST_POINTS} are the most"


def _lengths(judged: Judged) -> Iterator[tuple[str, str]]:
    points, least = judged.points, LEAST_QUERIES.get(judged.disclosure.dataset.name or "")
    if short := [point for point in points if not point.windowed]:
        yield "steady-state-basis", f"no steady window is official, so figures are of the whole run, at {_names(short)}"
    if brief := [point for point in points if not _long_enough(point)]:
        yield "point-duration", f"{ULTRA_LOW_S} s up to {ULTRA_LOW} in flight and {OTHER_S} s above it are the least, at {_names(brief)}"
    if brisk := [point for point in points if point.declared and point.declared.short]:
        yield "rules 6.2", f"a short run (--short) at {_names(brisk)}"
    if ragged := [point for point in points if point.samples.requests % point.dataset_size]:
        yield "rules 6.4", f"requests are no multiple of the data set's size, at {_names(ragged)}"
    if few := [point for point in points if least and point.official.n_samples_completed < least]:
        yield "min-query-count", f"the data set has {least:,} prompts, fewer were answered at {_names(few)}"


def _names(points: Sequence[Point]) -> str:
    return ", ".join(f"r{point.concurrency}" for point in points)


def _long_enough(point: Point) -> bool:
    window_s = point.steady.window.duration_s
    return (point.total.duration_ns / 1e9 if window_s is None else window_s) >= least_s(point.concurrency)


def _sent(points: Sequence[Point]) -> Iterator[tuple[str, str]]:
    if any(point.seed_set is None for point in points):
        yield "seed-config-legacy", "a run is bound to no published seed set; endpoints run --seed-set binds one"
    elif not all(bound(point.seed, point.scenario.sampling.seed, point.seed_set) for point in points):
        yield "seed-runtime-match", "a run was not sent with the seeds of its seed set"
    if any(point.scenario.prompts.drawn != point.dataset_size for point in points):
        yield "rules 6.5", "prompts were dealt in shuffled order, not drawn with replacement; endpoints run draws them"
        yield "rules 2.9.5.1", "prompts came again unchanged, so a prefix cache may know them; endpoints run puts a salt before each"
    if any(point.scenario.warmup_requests for point in points):
        yield "warmup-present", "a run sent warm-up requests and doesn't say for how long; endpoints run sends none"


def _stated(judged: Judged) -> Iterator[tuple[str, str]]:
    disclosure, points, node = judged.disclosure, judged.points, judged.description["node_types"][0]
    model, seed_set = disclosure.model, points[0].seed_set
    if model.name not in BENCHMARK_MODELS:
        named = f"{model.name} is not among the round's models" if model.name else "not stated (model.name); the round's models"
        yield "model-name-valid", f"{named}: {', '.join(BENCHMARK_MODELS)}"
    needed = {
        "model.precision": precision_of(points[0], disclosure),
        "model.link": model.link,
        "dataset.link": disclosure.dataset.link,
        "seed set": seed_set,
        "target_cohort": disclosure.target_cohort or seed_set,
    }
    if missing := [name for name, value in needed.items() if not value]:
        yield "point-disclosure-complete", f"not stated: {', '.join(missing)}"
    if "host_processor_core_count" not in node and "host_processor_vcpu_count" not in node:
        yield "system-description-valid", "the server's cores are not known; state system.node.host_processor_core_count"
    has_power = judged.power is not None or disclosure.power is not None
    if judged.power is not None and judged.power.estimated:
        yield "power-estimated", "a part of the system's power is MLCommons' default, not a figure of its vendor"
    if disclosure.division == "Standardized" and not has_power:
        yield "power-descriptor", "no card with a public TDP is known; state system.node.accelerator_card, or power"
    system, provisioned = disclosure.system, judged.devices.accelerators * disclosure.system.node.number_of_nodes
    replica = system.tensor_parallel * system.pipeline_parallel * system.expert_parallel
    if has_power and not provisioned:
        yield "maximal-engagement", "a system without accelerators, of which the checker can't tell whether a point engages all"
    elif has_power and system.data_parallel != provisioned // replica:
        yield "maximal-engagement", f"{system.data_parallel} replicas of {replica} accelerators, and the system has {provisioned}"


def precision_of(point: Point, disclosure: Disclosure) -> str | None:
    """As stated, else as the engine says."""
    return disclosure.model.precision or part(point.run, "engine").get("dtype") or None


def _accuracy(judged: Judged) -> Iterator[tuple[str, str]]:
    stated = [point.concurrency for point in judged.points if point.concurrency in judged.disclosure.accuracy]
    if not stated:
        yield "accuracy-present", "no accuracy results are stated"
    bounds = regions(judged.c_max, min(point.concurrency for point in judged.points))
    if bounds is not None and not (judged.c_max in stated and _one_each(stated, bounds)):
        points = ", ".join(f"r{concurrency}" for concurrency in stated) or "no point"
        yield "accuracy-coverage", f"{points} has accuracy results; one point of each region must, r{judged.c_max} among them, and no other"


def _one_each(stated: Sequence[int], bounds: Regions) -> bool:
    """Whether one of them is of ultra low concurrency, and the others are one in each of the regions."""
    others = [sorted(str(bounds.of(each)) for each in stated if each != one) for one in stated if one <= ULTRA_LOW]
    return sorted(CONCURRENCY_REGIONS) in others
