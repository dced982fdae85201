"""One measurement point of MLPerf Endpoints: a closed-loop run folder, and what the rules make of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.runs.files import damage_said
from bytemlperf.runs.folder import misshapen, part, read_run_json
from bytemlperf.runs.kinds import came_to_its_end
from bytemlperf.runs.records import RunRecords
from bytemlperf_llm.mlperf.regions import least_s
from bytemlperf_llm.mlperf.samples import Samples, Series, samples_of, series
from bytemlperf_llm.mlperf.steady import SteadyState, steady_state
from bytemlperf_llm.plan.scenario import Scenario, scenario_of, seed_of
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.workload.schedule import Schedule

NS = 1e9


class Measured(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The figures of a stretch of a run, as the reference client's result_summary.json has them; times in ns."""

    n_samples_issued: int
    n_samples_completed: int
    n_samples_failed: int
    duration_ns: int
    qps: float
    tps: float
    ttft: Series | None
    tpot: Series | None
    latency: Series | None
    output_sequence_lengths: Series | None
    input_sequence_lengths: Series | None

    @property
    def ttft_p90_ms(self) -> float | None:
        return None if self.ttft is None else self.ttft.percentiles["90.0"] / 1e6

    @property
    def tps_per_user(self) -> float | None:
        """Output tokens a second that nine of ten users have at least: 1000 / tpot_p90_ms."""
        return None if self.tpot is None else NS / self.tpot.percentiles["90.0"]


def measured(samples: Samples, duration_ns: int) -> Measured:
    """Of these requests, whose throughput is over so long."""
    answered = samples.ok == 1
    completed, seconds = int(answered.sum()), max(duration_ns, 1) / NS
    prompts = samples.prompt_tokens[answered & (samples.prompt_tokens >= 0)]
    return Measured(
        n_samples_issued=samples.requests,
        n_samples_completed=completed,
        n_samples_failed=samples.requests - completed,
        duration_ns=duration_ns,
        qps=completed / seconds,
        tps=samples.output_tokens / seconds,
        ttft=series(samples.ttft_ns(), early=True),
        tpot=series(samples.tpot_ns(), early=True),
        latency=series(samples.latency_ns(), early=True),
        output_sequence_lengths=series(samples.tokens[answered], early=False),
        input_sequence_lengths=series(prompts, early=False),
    )


class Declared(msgspec.Struct, frozen=True, kw_only=True):
    """What `endpoints run` leaves in run.json beside an ordinary run: by which of the rules' settings it was made."""

    dataset_size: int
    short: bool
    seed_set: str | None = None
    max_concurrency: int | None = None


class Point(NamedTuple):
    """`total` is of the whole run, `official` of the steady window where that is what counts, else the same."""

    folder: Path
    run: dict[str, Any]
    scenario: Scenario
    seed: int
    declared: Declared | None
    concurrency: int
    dataset_size: int
    samples: Samples
    steady: SteadyState
    total: Measured
    official: Measured

    @property
    def seed_set(self) -> str | None:
        return None if self.declared is None else self.declared.seed_set

    @property
    def windowed(self) -> bool:
        return self.official is not self.total


def read_point(folder: Path, dataset_size: int | None) -> Point:
    """Of a run over a data set of so many prompts; None: as the run or its prompt files say. Raises UserError."""
    run = read_run_json(folder)
    misshapen(run)
    if run.get("kind") != "llm":
        raise UserError(f"{folder} is not a run of serve-bench", "name run folders of `bmp-llm serve-bench` or `bmp-llm endpoints run`")
    scenario, declared = scenario_of(run), _declared(run)
    concurrency = scenario.arrival.max_concurrency
    if scenario.arrival.process != "closed" or concurrency is None:
        raise UserError(
            f"{folder} is not a point: its load is {scenario.arrival.sentence()}",
            "points keep a fixed number of requests in flight (rules 6.1): --max-concurrency N without a rate",
        )
    if not came_to_its_end(run):
        raise UserError(f"{folder} did not complete", f"resume it with: bmp-llm resume {folder}")
    size = dataset_size or (declared.dataset_size if declared else Schedule(scenario, seed_of(run)).workload().prompt_count)
    if size is None:
        raise UserError(f"{folder} has synthetic prompts, so no data set has a size", "give --dataset-size, the prompts of one pass")
    with damage_said(folder):
        records: RunRecords[RequestRecord] = RunRecords(folder, RequestRecord)
        samples = samples_of(records)
    if not samples.output_tokens:
        raise UserError(f"{folder} has no answer with tokens", "leave it out")
    steady = steady_state(samples, size, least_s(concurrency))
    total, window = measured(samples, samples.whole_span_ns), steady.official(samples)
    official = total if window is None else measured(window, window.issue_span_ns)
    return Point(folder, run, scenario, seed_of(run), declared, concurrency, size, samples, steady, total, official)


def _declared(run: dict[str, Any]) -> Declared | None:
    try:
        return msgspec.convert(part(run, "mlperf"), Declared)
    except msgspec.ValidationError:
        return None
