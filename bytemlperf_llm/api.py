"""Runs as objects, for notebooks and scripts.

import bytemlperf_llm as bmp

run = await bmp.serve_bench(base_url="http://127.0.0.1:8000", request_rate="4", num_prompts=200)
run = bmp.open("latest")        # or a folder, an id, a label, latest~1
run.summary.ttft.p50            # ms; None where the sample can't carry it
run.requests                    # a polars DataFrame, a row a request
run.compare(bmp.open("latest~1")).rows
"""

from __future__ import annotations

import asyncio
import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bytemlperf.child.process import environment
from bytemlperf.command.exits import EXIT_INTERRUPTED
from bytemlperf.command.flags import fields_of
from bytemlperf.compare.comparison import Comparison, compare_all
from bytemlperf.errors import EXIT_USAGE, UserError, nearest
from bytemlperf.report.gather import view_run
from bytemlperf.runs.files import damage_said
from bytemlperf.runs.folder import read_run_json
from bytemlperf.runs.kinds import run_kind
from bytemlperf.runs.names import run_named
from bytemlperf.runs.records import RunRecords
from bytemlperf.runs.suite import summarise_suite
from bytemlperf.units import NS_PER_MS
from bytemlperf_llm.export.tables import Frame
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.record.record import RequestRecord

if TYPE_CHECKING:
    import polars


class Figure:
    """A metric of a summary: `p50`, `p99`, `p99_9`, `mean`, `std`, `min`, `max`, `count`, `unit`; times in ms. A percentile that the sample
    can't carry is None."""

    def __init__(self, name: str, metric: dict[str, Any]) -> None:
        self._name, self._ci95 = name, metric["ci95"]
        unit: str = metric["unit"]
        self._by, self.unit = (NS_PER_MS, "ms") if unit == "ns" else (1, unit)
        self.count, self.formula = metric["count"], metric["formula"]
        self._values = {name: metric[name] for name in ("mean", "std", "min", "max")}
        self._values |= {f"p{level.replace('.', '_')}": value for level, value in metric["percentiles"].items()}

    def __getattr__(self, name: str) -> float | None:
        if name not in self._values:
            raise AttributeError(f"{self._name} has no {name}; it has {', '.join(self._values)}")
        value = self._values[name]
        return None if value is None or value == "insufficient" else value / self._by

    def interval(self, name: str) -> tuple[float, float] | None:
        """The 95 % interval of `mean` or of a percentile; None where the sample can't carry one."""
        bounds = self._ci95.get(name.removeprefix("p").replace("_", "."))
        return None if bounds is None or bounds == "insufficient" else (bounds[0] / self._by, bounds[1] / self._by)

    def __dir__(self) -> list[str]:
        return [*self._values, "count", "formula", "interval", "unit"]

    def __repr__(self) -> str:
        return f"<{self._name}: mean {self.mean} {self.unit}, {self.count} values>"


class Summary:
    """summary.json: metrics by name (`ttft`, `tpot`, `itl`, `e2e`), everything else as it stands there (`verdict`, `rates`, `goodput`)."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content

    def __getattr__(self, name: str) -> Any:
        metrics = self.content.get("metrics", {})
        if name in metrics:
            return Figure(name, metrics[name])
        if name not in self.content:
            raise AttributeError(f"the summary has no {name}; it has {', '.join([*metrics, *self.content])}")
        return self.content[name]

    def __dir__(self) -> list[str]:
        return [*self.content.get("metrics", {}), *self.content]


class Run:
    """A run folder. Everything is read when it is asked for first. Raises UserError where it is damaged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = read_run_json(folder)
        self.kind = str(self.run.get("kind"))

    @cached_property
    def summary(self) -> Summary:
        """Computed from the records."""
        with damage_said(self.folder):
            return Summary(summarise_suite(self.folder, self.run, RunRecords(self.folder, run_kind(self.kind).record)))

    @cached_property
    def requests(self) -> polars.DataFrame:
        """A row for each request, with its metrics in nanoseconds: the columns of the Parquet export. Raises UserError without polars."""
        if self.kind != "llm":
            raise UserError(f"{self.folder} is a run of kind {self.kind} and has no requests", "open a run of bmp-llm serve-bench")
        frame = Frame()
        records: RunRecords[RequestRecord] = RunRecords(self.folder, RequestRecord)
        for record in records:
            frame.add(record)
        return frame.whole()

    def compare(self, other: Run) -> Comparison:
        """This run as the baseline of another of its kind: `rows` with their `sides` and judgements. Raises UserError."""
        if other.kind != self.kind:
            raise UserError(f"a run of kind {other.kind} can't be compared with one of kind {self.kind}", "compare runs of one kind")
        views = [view_run(run.folder) for run in (self, other)]
        return compare_all(views, views[0])[0]

    def __repr__(self) -> str:
        return f"<Run {self.folder}>"


def open_run(name: str | Path = "latest", runs_dir: str | Path = "runs") -> Run:
    """The run of a folder, id, label, or `latest`, `latest~1`. Raises UserError."""
    return Run(run_named(Path(name), Path(runs_dir)))


async def serve_bench(**flags: Any) -> Run:
    """Run `bmp-llm serve-bench` with these flags (their names with underscores) in a process of its own, and open what it leaves, whatever
    the verdict. Cancelling interrupts it. Raises UserError for bad input, with the command's own words."""
    known = [field.name for field in fields_of(Flags)]
    for name in flags.keys() - known:
        raise UserError(f"serve_bench has no flag {name!r}", nearest(name, known))
    words = ["serve-bench", *Flags.of(flags).words(), "--quiet"]
    command = [sys.executable, "-P", "-c", "from bytemlperf_llm.cli import main; main()", *words]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, env=environment(), stdout=pipe, stderr=pipe)
    try:
        said, errors = await process.communicate()
    except asyncio.CancelledError:
        process.terminate()
        await process.wait()
        raise
    last = said.decode().splitlines()[-1:] or [""]
    if process.returncode in (EXIT_USAGE, EXIT_INTERRUPTED) or not last[0]:
        cause, _, fix = errors.decode().strip().splitlines()[-1].removeprefix("error: ").partition("; ")
        raise UserError(cause, fix)
    return open_run(last[0])
