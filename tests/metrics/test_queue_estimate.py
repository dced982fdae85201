"""Queue time by Little's law against the truth: an engine that stamps every request's queue, asked for its gauge once a second."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import msgspec
import pytest

from bytemlperf_llm.metrics.accumulator import Accumulator
from bytemlperf_llm.metrics.queue_estimate import MIN_SAMPLES, QueueEstimate, queue_estimate_of
from bytemlperf_llm.pages.server_times import server_time_sections
from bytemlperf_llm.record.gauges import Sample
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.workload.schedule import Planned
from engines.reference.engine import ReferenceEngine
from tests.metrics.records import MS, answered
from tests.virtual import VirtualLoop, make_request, make_worker, run, sleep_ns

SEEDS = range(40)
SECOND = 1_000 * MS
TOKENS = 6


def virtual_run(seed: int, rate: float, requests: int = 300, slots: int = 4) -> tuple[list[RequestRecord], list[Sample]]:
    """Poisson arrivals at an engine of `slots`, each taken for 500 ms (half more or less): 8 requests/s are all that it carries."""

    async def measured(loop: VirtualLoop) -> tuple[list[RequestRecord], list[Sample]]:
        engine, draw = ReferenceEngine(), random.Random(seed)
        await engine.start(None, {"slots": str(slots), "ttft_ms": "250", "itl_ms": "50", "jitter": "0.5"})
        worker, sink = make_worker(loop, engine)
        planned, at_ns = [], 0
        for index in range(requests):
            at_ns += round(draw.expovariate(rate) * SECOND)
            request = msgspec.structs.replace(make_request(index, TOKENS), id=f"{seed}-{index}")
            planned.append(Planned(request=request, offset_ns=at_ns))
        samples: list[Sample] = []

        async def sample() -> None:
            while True:
                samples.append(Sample(at_ns=loop.now_ns(), gauges=engine.stats()))
                await sleep_ns(SECOND)

        sampling = asyncio.ensure_future(sample())
        await worker.run_open(iter(planned), 0)
        sampling.cancel()
        return sink.by_index(), samples

    found: tuple[list[RequestRecord], list[Sample]] = run(measured)
    return found


def truth_ms(records: list[RequestRecord]) -> float:
    queued = [record.stages.scheduled_ns - record.stages.queued_ns for record in records if record.stages]  # type: ignore[operator]
    return sum(queued) / len(queued) / MS


def estimate_of(records: list[RequestRecord], samples: list[Sample], others: int = 0) -> QueueEstimate | None:
    return queue_estimate_of(Accumulator().add_all(records), samples, others)


@pytest.mark.parametrize("rate", [4.0, 7.0, 12.0], ids=["hardly any queue", "busy", "overloaded"])
def test_the_interval_holds_the_true_mean_queue_time(rate: float) -> None:
    held, errors = 0, []
    for seed in SEEDS:
        records, samples = virtual_run(seed, rate)
        estimate, truth = estimate_of(records, samples), truth_ms(records)
        assert estimate is not None
        assert estimate.requests == 300
        low, high = estimate.ci95_ms
        held += low <= truth <= high
        errors.append(estimate.mean_ms - truth)
    assert held >= 0.9 * len(SEEDS)
    bias = sum(errors) / len(errors)
    spread = (sum((error - bias) ** 2 for error in errors) / (len(errors) - 1) / len(errors)) ** 0.5
    assert abs(bias) <= 3 * spread, "unbiased"


def test_a_queue_that_no_sample_saw_is_bounded_and_not_ruled_out() -> None:
    records = [answered(index, 1_000.0 * index, 1_000.0 * index, [1_000.0 * index + 500]) for index in range(60)]
    samples = [Sample(at_ns=second * SECOND + 1, gauges={"waiting": 0.0}) for second in range(60)]
    estimate = estimate_of(records, samples)
    assert estimate is not None
    assert estimate.mean_ms == 0
    assert estimate.ci95_ms == (0.0, pytest.approx(3 / 60 * 59_500 / 60, rel=0.02))


def test_thinned_samples_count_by_the_time_that_they_stand_for() -> None:
    records = [answered(index, 1_000.0 * index, 1_000.0 * index, [1_000.0 * index + 900]) for index in range(40)]
    dense = [Sample(at_ns=second * SECOND, gauges={"waiting": 2.0}) for second in range(1, 11)]
    sparse = [Sample(at_ns=second * SECOND, gauges={"waiting": 0.0}) for second in range(20, 40, 5)]
    estimate = estimate_of(records, [*dense, *sparse])
    assert estimate is not None
    assert estimate.mean_waiting == pytest.approx(2 * (0.5 + 9 + 5) / 39.9)


@pytest.mark.parametrize(
    ("gauges", "count", "others"),
    [
        ({"running": 1.0}, 60, 0),
        ({"waiting": 1.0}, MIN_SAMPLES - 1, 0),
        ({"waiting": 1.0}, 60, 1),
        ({"waiting": -1.0}, 60, 0),
        ({"waiting": 1e308}, 60, 0),
    ],
    ids=["no such gauge", "too few samples", "others use the server", "a gauge below zero", "a gauge that lies"],
)
def test_nothing_is_estimated_without_what_it_takes(gauges: dict[str, float], count: int, others: int) -> None:
    records = [answered(index, 1_000.0 * index, 1_000.0 * index, [1_000.0 * index + 500]) for index in range(60)]
    samples = [Sample(at_ns=second * SECOND + 1, gauges=gauges) for second in range(count)]
    assert estimate_of(records, samples, others) is None


def test_the_page_says_that_it_is_an_estimate_beside_what_is_measured() -> None:
    estimate = QueueEstimate(mean_ms=12.0, ci95_ms=(9.0, 16.0), samples=60, mean_waiting=0.5, requests=300)
    summary: dict[str, Any] = {"queue_estimate": msgspec.to_builtins(estimate), "metrics": {}}
    summary["server"] = {"latencies": {"queue": {"mean_ms": 11.5}}}
    (text,) = server_time_sections(summary)
    assert "estimated by Little's law: 12 ms a request on average (95 %: 9 – 16)" in str(text.body)
    assert "by its histogram 11.50 ms" in str(text.body)
