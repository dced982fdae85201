"""What a run folder of some kind can tell: the contract between the suites and what all of them share.

A suite writes its runs with `runs.suite.SuiteRun` and describes them by one `RunKind`, found through
`bytemlperf.extensions.RUN_KINDS` (its name there = `kind` in run.json). Summary, verify,
report, comparison, catalogue and site work on any kind through it, and know no suite by name.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.export.timeline import Story
from bytemlperf.extensions import RUN_KINDS
from bytemlperf.runs.verdicts import exit_status

MAX_OF_A_KIND = 20
"""So many findings of one kind are listed; the rest is counted."""

Better = Literal["lower", "higher", "neither"]
RATE_UNITS = re.compile(r"/s$|FLOP/s$|FLOPS$|OPS$")


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One published number, comparable between runs. `key` says what was measured (the case, without
    the machine), `metric` which number of it; both together are equal where two runs can be compared.

    `value` None is "not available", with the `reason`. `low` and `high` bound its 95 % interval; `count`
    is how many samples it stands on. `label` is what a person reads in place of key and metric.

    `samples` are raw values in the same unit and in the order of time, from which a comparison takes
    its error; `statistic` then says how `value` comes from them: `mean`, or a nearest-rank percentile
    (`p50`, `p99.9`). `sample_ids` name what each sample was measured on (a request, a case), so that two
    runs of one schedule can be paired. Figures may share one tuple.

    `load` is the load that it was measured under, for a reader; equal loads have equal texts. `offered`: the value is the load
    that was asked for (a throughput in an open loop), and says nothing of how much more there could be: it is never ranked.
    """

    key: str
    metric: str
    unit: str
    value: float | None
    better: Better = "neither"
    low: float | None = None
    high: float | None = None
    count: int | None = None
    samples: Sequence[float] = ()
    reason: str = ""
    headline: bool = False
    label: str = ""
    statistic: str = ""
    sample_ids: Sequence[str | int] = ()
    load: str = ""
    offered: bool = False

    @property
    def is_rate(self) -> bool:
        """Whether it is so much in a second: what goes with a load, and what prices and watts can be set against."""
        return self.better == "higher" and RATE_UNITS.search(self.unit) is not None


class Text(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A paragraph of a page. Plain text: the page escapes it. `code` keeps its lines and offers to copy it. A `detail` is printed in a
    terminal with --verbose alone."""

    title: str = ""
    body: str
    style: Literal["plain", "note", "warning", "error", "code"] = "plain"
    folded: bool = False
    detail: bool = False
    group: str = ""


class Table(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A table of a page. Cells are plain text or numbers; the page escapes and formats them, sets numbers
    right and dims a line after the first of a cell (an interval under its figure). `folded` tables wait
    behind their title. `spare` columns are left out of a terminal too narrow for all, those without a figure first, then the first of
    them. A `detail` is printed with --verbose alone."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | int | None]]
    note: str = ""
    folded: bool = False
    detail: bool = False
    group: str = ""
    spare: Sequence[str] = ()


class Plot(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A plot of a page: Plotly's figure as plain JSON values (`data`, `layout`), already small enough
    to be looked at (a few thousand points; say in `note` how it was thinned). `alt` says it in words.

    Trace types: scatter, bar, box, heatmap, contour, histogram, violin. Leave fonts, backgrounds and
    colours to the page, which has them light, dark and for print (a colour by the number of a palette,
    `"color": "@2"`, works wherever a trace takes one). Strings are shown as they are, without markup but `<br>`."""

    title: str
    data: Sequence[dict[str, Any]]
    layout: dict[str, Any] = {}
    note: str = ""
    alt: str = ""
    height: int = 320
    half: bool = False
    group: str = ""


Section = Text | Table | Plot
"""Sections in a row with the same `group` stand together under that heading; `half` plots stand two abreast."""


class Verified(NamedTuple):
    """`findings`: what is wrong. `unchecked`: what could not be looked at, and why."""

    findings: list[str]
    unchecked: list[str]
    records: int


class PlannedJob(msgspec.Struct, kw_only=True):
    """A model at a size and precision that a run was to measure, and what became of it."""

    name: str
    model: str
    size: str
    precision: str
    status: str = "not run"
    reason: str = ""
    sparsity: str = ""


class Unchecked(str):
    """What could not be looked at, and why, among what `verify` finds."""


class RunKind:
    """What a suite knows of its runs; a suite's own kind extends it. `records` are whole records of the logs, each a `record`, in the
    order written, and can be walked more than once; where they come from a folder they are a `RunRecords`, which knows it. `run` is
    run.json, `summary` what `summarise` gave."""

    name = ""
    """In words; the kind itself where it is empty."""
    record: Any = dict[str, Any]
    """The type of a record."""
    valid_means = ""
    """What a valid verdict without a reason says, in a sentence."""
    killed_means = ""
    """What it means for the summary that a run was killed; empty where the counts say it."""
    stopped_means = "the rest was not measured"
    """What it means that the user stopped a run."""
    of_runs = False
    """Its records are of runs in the folders inside its own: `<kind>.json` there is summary.json from the first one on."""
    ranks_runs = False
    """Those runs have ranks of their own."""

    def summarise(self, run: dict[str, Any], records: Iterable[Any]) -> dict[str, Any]:
        """summary.json, from the records alone: `verdict`, `reasons`, `metrics`, `counts`, and more. Deterministic."""
        raise NotImplementedError

    def figures(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[Any]) -> list[Figure]:
        """Every number that a comparison can use."""
        raise NotImplementedError

    def sections(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[Any]) -> list[Section]:
        """The suite's part of the report page, most important first."""
        raise NotImplementedError

    def terminal(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[Any]) -> list[Section]:
        """What of them the end of a run prints."""
        return [section for section in self.sections(run, summary, records) if not isinstance(section, Plot) and not section.folded]

    def beside(self, names: Sequence[str], summaries: Sequence[dict[str, Any]]) -> list[Section]:  # noqa: ARG002
        """What several runs, by these names, show in one picture and table, besides their figures."""
        return []

    def next_command(self, run: dict[str, Any], summary: dict[str, Any], folder: Path) -> tuple[str, str] | None:  # noqa: ARG002
        """A command that is worth trying next, and why; None where there is none."""
        return None

    def planned(self, run: dict[str, Any]) -> int | None:  # noqa: ARG002
        """How many records a whole run has; None where that isn't known before its end."""
        return None

    def contradictions(self, run: dict[str, Any], records: Iterable[Any]) -> Iterable[str]:  # noqa: ARG002
        """A sentence for each record that the plan doesn't have, and for each part of the plan that a run which came to its end
        has no record of."""
        return ()

    def jobs(self, run: dict[str, Any], records: Iterable[Any]) -> list[PlannedJob]:  # noqa: ARG002
        """What the rules of a submission need of each planned job; nothing where models are not what was measured."""
        return []

    def model_of(self, figure: Figure) -> str:  # noqa: ARG002
        """The model that a figure is of, where its key tells; else empty."""
        return ""

    def case_of(self, figure: Figure) -> tuple[str, str]:
        """What was measured, where a run measured several ("" else), and the case that each of them had."""
        return "", figure.key

    def devices_used(self, run: dict[str, Any]) -> int | None:  # noqa: ARG002
        """How many devices the run was told to work on; None where it wasn't."""
        return None

    def load_sentence(self, run: dict[str, Any]) -> str:  # noqa: ARG002
        """The load in a few words; empty where there is none."""
        return ""

    def facts(self, run: dict[str, Any]) -> list[tuple[str, str]]:  # noqa: ARG002
        """What else a reader must know before the figures, by name; empty texts are left out."""
        return []

    def story(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[Any]) -> Story:  # noqa: ARG002
        """What happened when, for a timeline; `summary` may be empty. Raises UserError for a kind that keeps no times."""
        raise UserError(f"a run of kind {run.get('kind')} has no timeline of its own", "export its runs, each a folder in its folder")

    def verify(self, run: dict[str, Any], records: Iterable[Any]) -> Iterable[str]:
        """What is wrong with run.json and the records, a sentence each, or `Unchecked`."""
        return few(self.contradictions(run, records))

    def delivered(self, summary: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """What of the summary stands in run.json's `end` too."""
        return {}

    def exit_status(self, summary: dict[str, Any]) -> int:
        """Of a command that made or summarised a run."""
        return exit_status(summary.get("verdict"))


def few(sentences: Iterable[str], most: int = MAX_OF_A_KIND) -> list[str]:
    """The first findings, and how many more there are."""
    left = iter(sentences)
    shown = list(islice(left, most))
    more = sum(1 for _ in left)
    return [*shown, f"… and {more} more like these"] if more else shown


def came_to_its_end(run: dict[str, Any]) -> bool:
    """Whether run.json says that the run did all that was planned: nobody stopped it, nothing failed."""
    end = run.get("end")
    return isinstance(end, dict) and not end.get("stopped_by_user") and not end.get("failure")


def resume_command(run: dict[str, Any], folder: Path) -> str:
    """The run's own command, that goes on with its folder."""
    words = [str(word) for word in run.get("command", [])]
    return shlex.join(words if "--resume" in words else [*words, "--resume", str(folder)])


def run_kind(kind: str) -> RunKind:
    """The description of a kind. Raises UserError for one that no installed package knows."""
    loaded: RunKind = RUN_KINDS.load(kind)
    return loaded


def kind_name(kind: str) -> str:
    try:
        return run_kind(kind).name or kind
    except UserError:
        return kind
