"""`bmp-llm endpoints run`: points of MLPerf Endpoints on one started engine, each an ordinary closed-loop run, then their submission.

A point keeps its number of requests in flight over whole passes of the data set, until the passes after the first have lasted as long as
its steady window must, and a fifth more; the first passes are the ramp that the steady-state verdict leaves out, so there is no warm-up.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec

from bytemlperf.errors import UserError, nearest
from bytemlperf.report.text import counted
from bytemlperf.runs.folder import part
from bytemlperf.runs.suite import SuiteRun
from bytemlperf.units import NS_PER_S
from bytemlperf_llm.loadgen.recorder import monotonic_ns
from bytemlperf_llm.mlperf.command import submit
from bytemlperf_llm.mlperf.disclosure import Disclosure, read_disclosure
from bytemlperf_llm.mlperf.flags import PointFlags, SubmissionFlags
from bytemlperf_llm.mlperf.kind import BAD, KIND_NAME, folders_of, points_in
from bytemlperf_llm.mlperf.point import Declared
from bytemlperf_llm.mlperf.regions import MOST_POINTS, default_points, least_s
from bytemlperf_llm.mlperf.seeds import SEED_SETS, sampling_seed
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.plan import Plan, resolve
from bytemlperf_llm.points.driver import Driver
from bytemlperf_llm.points.flags import comparable
from bytemlperf_llm.points.point import PointRun
from bytemlperf_llm.run.started import Started, started_engine
from bytemlperf_llm.sweep.axes import length, numbers
from bytemlperf_llm.sweep.row import row_of
from bytemlperf_llm.workload import Workload
from bytemlperf_llm.workload.schedule import ALL, Planned, Remaining, Schedule, Share

LEAST_PASSES = 6
"""One at least is left out, four make a window, and the last one's end is not in it."""
MAX_CONCURRENCY = 256
SLACK = 1.2
LONGEST_S = 86_400


class PassSchedule(Schedule):
    """A closed loop's, which ends with the first pass at whose end so many passes and seconds are over."""

    def __init__(self, schedule: Schedule, size: int, passes: int, after_first_s: float, now: Callable[[], int] = monotonic_ns) -> None:
        super().__init__(schedule.scenario, schedule.seed)
        self._size, self._passes, self._after_first_s, self._now = size, passes, after_first_s, now

    def planned(self, share: Share = ALL, left: Remaining | None = None, workload: Workload | None = None) -> Iterator[Planned]:
        first_ended_ns = 0
        for place, planned in enumerate(super().planned(share, left, workload)):
            if place == self._size:
                first_ended_ns = self._now()
            passes, inside = divmod(place, self._size)
            if not inside and passes >= self._passes and self._now() - first_ended_ns >= self._after_first_s * NS_PER_S:
                return
            yield planned


class MeasuredPoint(PointRun):
    """One point. What it was made by stands in its run.json."""

    def __init__(self, run: SuiteRun, started: Started, plan: Plan, argv: list[str], declared: Declared) -> None:
        super().__init__(run, started, plan, argv, quiet=plan.output.run.quiet)
        self._declared = declared

    def schedule(self) -> Schedule:
        concurrency = self._plan.load.scenario.arrival.max_concurrency
        assert concurrency is not None
        after_first_s = 0.0 if self._declared.short else SLACK * least_s(concurrency)
        return PassSchedule(super().schedule(), self._declared.dataset_size, LEAST_PASSES, after_first_s)

    def describe(self, plan: Plan) -> int | None:
        """As of any run, with what was declared."""
        planned = super().describe(plan)
        self._run.run["mlperf"] = msgspec.to_builtins(self._declared)
        return planned


def run(flags: Flags, given: PointFlags, submission: SubmissionFlags, argv: list[str]) -> int:
    """Measure every point, then write the submission into the same folder. Returns the exit status. Raises UserError."""
    disclosure = read_disclosure(submission.disclosure)
    plan = _bound(resolve(flags), given.seed_set)
    declared = Declared(
        dataset_size=_dataset_size(plan, disclosure, submission),
        short=given.short,
        seed_set=given.seed_set,
        max_concurrency=given.max_concurrency,
    )
    plan = plan.with_scenario({"prompts.drawn": declared.dataset_size})
    points = Points(plan, declared, _concurrencies(given), argv, given.resume)
    points.drive()
    folder = points.suite.folder
    if points.status:
        print(folder)
        return points.status
    out = folder / "submission"
    shutil.rmtree(out, ignore_errors=True)  # of fewer points, where the folder goes on
    return submit(points_in(folder), submission.changed(out=out, dataset_size=declared.dataset_size), disclosure, quiet=flags.quiet)


class Points(Driver):
    def __init__(self, plan: Plan, declared: Declared, concurrencies: list[int], argv: list[str], resume: Path | None) -> None:
        super().__init__(KIND_NAME, [plan], argv, resume)
        self._declared, self._concurrencies = declared, concurrencies

    async def run(self) -> None:
        """What is left, on one started engine. Raises UserError, or Interrupted."""
        config = {"flags": comparable(self._plan.flags, self._redactor), "declared": msgspec.to_builtins(self._declared)}
        done: dict[int, Path] = {}
        if self._resumed:
            before = part(self.suite.run, "config")
            self._refuse_other_flags({name: before.get(name) for name in config}, config)
            done = folders_of(self.suite.records(), self.suite.folder)
        left = [concurrency for concurrency in self._concurrencies if concurrency not in done]
        if not left:
            return
        async with started_engine(self._plan, self._redactor, self._say, self.suite.folder) as started:
            plan = await started.ready(self._plan)
            self._open(started, config | {"axes": {"concurrency": ",".join(map(str, self._concurrencies))}})
            for concurrency in left:
                if not await self._point(started, plan, concurrency):
                    return

    async def _point(self, started: Started, plan: Plan, concurrency: int) -> bool:
        """Whether to go on. Raises UserError where the point is none."""
        arrival = {"process": "closed", "rate": None, "ramp": None, "burstiness": 1.0, "max_concurrency": concurrency}
        suite = SuiteRun.reserve(self.suite.folder, "llm", f"r{concurrency}")
        point = MeasuredPoint(suite, started, plan.with_scenario({"arrival": arrival}), self._argv, self._declared)
        summary, self.status = await point.ended()
        if self.status:
            return False
        self.suite.append(row_of("", suite.folder.name, suite.run, summary, suite.records()))
        if summary["verdict"] in BAD:
            raise UserError(
                f"the point at {concurrency} in flight is {summary['verdict']}: {summary['reasons'][0]}",
                f"see {suite.folder}; resume with --resume {self.suite.folder}",
            )
        rates = summary["rates"]["output_token_throughput"]
        self._say(f"{concurrency} in flight: {counted(summary['outcomes']['ok'], 'response')}, {rates['overall']:.4g} tokens/s")
        return True


def _bound(plan: Plan, seed_set: str | None) -> Plan:
    """The plan of all points: no warm-up, whole passes, and the seeds of the set. Raises UserError."""
    if plan.load.scenario.classes:
        raise UserError("the rules know requests of one kind, and the scenario has classes", "take another --scenario")
    plan = plan.with_scenario({"warmup_requests": 0, "num_requests": None, "duration_s": LONGEST_S})
    plan = plan.with_scenario({"drain_s": plan.load.scenario.timeouts.total_s})
    if seed_set is None:
        return plan
    if seed_set not in SEED_SETS:
        raise UserError(f"--seed-set {seed_set!r} is not published", nearest(seed_set, list(SEED_SETS)))
    seeds = SEED_SETS[seed_set]
    plan = plan.with_scenario({"sampling.seed": sampling_seed(seeds)})
    seed = seeds.sample_index_rng_seed
    return replace(plan, load=replace(plan.load, seed=seed), flags=plan.flags | {"seed": seed})


def _dataset_size(plan: Plan, disclosure: Disclosure, submission: SubmissionFlags) -> int:
    """Raises UserError where nothing says."""
    size = submission.dataset_size or disclosure.dataset.size
    size = size or Schedule(plan.load.scenario, plan.load.seed).workload().prompt_count
    if size is None:
        raise UserError("synthetic prompts have no data set's size", "give --dataset-size, the prompts of one pass")
    return size


def _concurrencies(given: PointFlags) -> list[int]:
    """Ascending. Raises UserError."""
    most = given.max_concurrency
    if given.concurrency is None:
        return default_points(most or MAX_CONCURRENCY)
    concurrencies = sorted(numbers("--concurrency", given.concurrency, length))
    if len(concurrencies) > MOST_POINTS:
        raise UserError(f"{len(concurrencies)} points, and a submission has at most {MOST_POINTS}", "give fewer")
    if most is not None and concurrencies[-1] > most:
        raise UserError(f"--concurrency {concurrencies[-1]} is above --max-concurrency {most}", "give at most that, or a higher maximum")
    return concurrencies
