"""The kind `llm`: what a run of LLM serving tells."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.export.timeline import Story
from bytemlperf.lazy import numpy
from bytemlperf.report.blocks import figure_of
from bytemlperf.runs.folder import part
from bytemlperf.runs.kinds import Figure, RunKind, Section, Text
from bytemlperf.runs.records import RunRecords
from bytemlperf.statistics.statistics import INSUFFICIENT, mean_interval
from bytemlperf.units import NS_PER_MS
from bytemlperf_llm.export.story import story_of
from bytemlperf_llm.metrics.accumulator import OWN_LIMIT
from bytemlperf_llm.metrics.verdict import exit_status_of
from bytemlperf_llm.mlperf.loadgen import loadgen_sections
from bytemlperf_llm.pages.bound import bound_sections
from bytemlperf_llm.pages.causes import cause_sections
from bytemlperf_llm.pages.columns import LATENCIES, RunColumns, columns_of
from bytemlperf_llm.pages.groups import group_sections
from bytemlperf_llm.pages.latency import TITLES, latency_sections
from bytemlperf_llm.pages.load import client_sections, error_sections, length_sections, schedule_sections
from bytemlperf_llm.pages.prefix import prefix_sections
from bytemlperf_llm.pages.reasoning import reasoning_sections
from bytemlperf_llm.pages.server import server_sections
from bytemlperf_llm.pages.server_times import server_time_sections
from bytemlperf_llm.pages.sessions import session_sections
from bytemlperf_llm.pages.speculation import speculation_figures, speculation_sections
from bytemlperf_llm.pages.stages import stage_sections
from bytemlperf_llm.pages.stalls import fluidity_sections, stall_sections
from bytemlperf_llm.pages.terminal import next_command, terminal_sections
from bytemlperf_llm.pages.timeline import timeline_sections, tokens_in, waterfall_sections
from bytemlperf_llm.record.gauges import Sample, read_gauges
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.run.limits import devices_used
from bytemlperf_llm.run.rebuild import cache_of, load_of
from bytemlperf_llm.run.summarise import summarise
from bytemlperf_llm.run.verify import verify

LABELLED = (*LATENCIES, "itl")
HEADLINES = {("ttft", "50"), ("tpot", "50"), ("e2e", "50")}
RATES = ("request_throughput", "output_token_throughput", "input_token_throughput", "input_throughput")
RATE_LABELS = {name: name.replace("_", " ") for name in RATES}
_FIXED_POINT = 1e6  # intervals are computed in integers: a millionth of the unit
THROUGHPUT_STRETCHES = 30  # batch means, as for the mean's interval


class LlmKind(RunKind):
    """Summary, figures and sections of LLM serving."""

    name = "LLM serving"
    record = RequestRecord
    valid_means = "The load was on target, and the client kept up with it."
    killed_means = "requests without a record count as dropped"
    stopped_means = "requests not yet sent count as dropped"

    def next_command(self, run: dict[str, Any], summary: dict[str, Any], folder: Path) -> tuple[str, str]:
        """By what the run showed."""
        return next_command(run, summary, folder)

    def summarise(self, run: dict[str, Any], records: Iterable[RequestRecord]) -> dict[str, Any]:
        """As `metrics.summary` has it. Raises UserError."""
        return summarise(run, records)

    def verify(self, run: dict[str, Any], records: Iterable[RequestRecord]) -> Iterator[str]:
        """Against the schedule made anew."""
        return verify(run, records)

    def delivered(self, summary: dict[str, Any]) -> dict[str, Any]:
        """The load, beside what was asked for; what `--until` saw."""
        return {name: summary[name] for name in ("load", "until") if name in summary}

    def planned(self, run: dict[str, Any]) -> int | None:
        """The schedule's requests."""
        requests = run.get("scheduled_requests")
        return requests if isinstance(requests, int) else None

    def devices_used(self, run: dict[str, Any]) -> int | None:
        """As the engine was told to split the model."""
        return devices_used(run)

    def load_sentence(self, run: dict[str, Any]) -> str:
        """The load that was asked for."""
        return load_of(run).text

    def facts(self, run: dict[str, Any]) -> list[tuple[str, str]]:
        """The server's address, and the state of its prefix cache."""
        address, before = part(run, "config", "engine_options").get("base_url"), cache_of(run)
        return [*([("server", str(address))] if address else []), *([("prefix cache", before.text())] if before else [])]

    def exit_status(self, summary: dict[str, Any]) -> int:
        """Also by what this client lost itself."""
        lost = summary["failures"].get(OWN_LIMIT)
        return exit_status_of(summary["verdict"], lost["count"] if lost else 0, summary["outcomes"])

    def figures(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[RequestRecord]) -> list[Figure]:
        """Latencies, rates, goodput and failures; `key` is the scenario, so that engines and machines compare."""
        columns = None if isinstance(records, RunRecords) and not records.samples else columns_of(run, records)
        key = str(run.get("config", {}).get("scenario", {}).get("name") or "llm")
        load = load_of(run)
        figures = figures_of(key, summary, columns)
        return [msgspec.structs.replace(figure, load=load.text, offered=load.offered and figure.is_rate) for figure in figures]

    def sections(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[RequestRecord]) -> list[Section]:
        """Cause before detail."""
        columns, gauges = columns_of(run, records), _gauges(records)
        return [
            *([Text(title="Until", body=summary["until"]["sentence"])] if "until" in summary else []),
            *loadgen_sections(summary),
            *cause_sections(summary),
            *bound_sections(summary),
            *stage_sections(columns),
            *group_sections(summary),
            *session_sections(summary),
            *prefix_sections(summary),
            *latency_sections(summary, columns),
            *reasoning_sections(summary),
            *fluidity_sections(summary),
            *server_sections(summary),
            *server_time_sections(summary),
            *speculation_sections(summary, columns, gauges),
            *timeline_sections(summary, columns, gauges),
            *stall_sections(summary, columns.origin_ns),
            *length_sections(columns),
            *error_sections(summary, columns),
            *schedule_sections(summary, columns),
            *client_sections(summary),
            *waterfall_sections(columns),
        ]

    def story(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[RequestRecord]) -> Story:
        """Requests, sessions, tokens and gauges."""
        return story_of(run, summary, records, _gauges(records))

    def terminal(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[dict[str, Any]]) -> list[Section]:  # noqa: ARG002
        """Latencies, what was reached, whether the load was on target, failures."""
        return [*terminal_sections(run, summary), *server_sections(summary), *server_time_sections(summary), *loadgen_sections(summary)]


KIND = LlmKind()


def figures_of(key: str, summary: dict[str, Any], columns: RunColumns | None) -> list[Figure]:
    """Every figure of a summary, with samples from the run's columns where there are any."""
    metrics = summary.get("metrics", {})
    tail = "ttft" if "ttft" in metrics else "e2e"
    latencies = [
        figure for name, metric in metrics.items() if name in LABELLED for figure in _latencies(key, name, metric, columns, tail=tail)
    ]
    parts = (
        speculation_figures(key, summary),
        _fluidity(key, summary),
        _rates(key, summary, columns),
        _shares(key, summary),
        _sessions(key, summary),
        _classes(key, summary),
        _energy(key, summary),
    )
    return [*latencies, *chain.from_iterable(parts)]


def _energy(key: str, summary: dict[str, Any]) -> list[Figure]:
    """Of an output token, where it was measured."""
    joules = (summary.get("energy") or {}).get("joules_per_output_token")
    label = "energy per output token"
    return [] if joules is None else [Figure(key=key, metric=label, label=label, unit="J", value=joules, better="lower")]


def _fluidity(key: str, summary: dict[str, Any]) -> list[Figure]:
    """Mean index of fluidity, where tokens have deadlines."""
    found, name = summary.get("fluidity"), "fluidity index"
    return (
        [figure_of(found["index"], "mean", key=key, metric=name, label=name, unit="", better="higher", statistic="mean")] if found else []
    )


def _classes(key: str, summary: dict[str, Any]) -> list[Figure]:
    """TTFT and goodput of each class, where there are some, and the fairness between them."""
    figures = []
    for name, group in (summary.get("classes") or {}).items():
        if metric := group["metrics"].get("ttft"):
            figures += _latencies(key, "ttft", metric, None, f"{name} ")
        figures += _shares(key, {"goodput": group["goodput"]}, f"{name} ")
    if fairness := summary.get("fairness"):
        index = fairness["jain_index"]
        figures.append(Figure(key=key, metric="fairness", label="Jain's fairness index", unit="", value=index, better="higher"))
    return figures


def _sessions(key: str, summary: dict[str, Any]) -> list[Figure]:
    """Whole time and goodput of sessions, where there are some."""
    sessions = summary.get("sessions") or {}
    figures = _latencies(key, "session_time", sessions["metrics"]["session_time"], None) if sessions.get("metrics") else []
    if good := sessions.get("goodput"):
        value = good["sessions_per_s"]
        figures.append(
            Figure(
                key=key, metric="session goodput", label="session goodput", unit="sessions/s", value=value, better="higher", headline=True
            )
        )
    return figures


def _gauges(records: Iterable[RequestRecord]) -> Sequence[Sample]:
    """The engine's own gauges, where the run kept some; what is no sample is named with the other damages."""
    if not isinstance(records, RunRecords):
        return ()
    kept = read_gauges(records.folder)
    records.notes = kept.damages
    return kept.samples


def _latencies(key: str, name: str, metric: dict[str, Any], columns: RunColumns | None, of: str = "", tail: str = "ttft") -> list[Figure]:
    samples, ids = _samples(name, columns) if name in LATENCIES and columns is not None else ((), ())
    names = {"mean": "mean", **{percent: f"p{percent}" for percent in metric["percentiles"]}}
    claimed = [percent for percent, value in metric["percentiles"].items() if not isinstance(value, str)]
    headlines = HEADLINES | {(tail, percent) for percent in claimed[-1:]}  # the highest that the sample carries
    return [
        figure_of(
            metric,
            statistic,
            NS_PER_MS,
            key=key,
            metric=f"{of}{name} {text}",
            label=f"{of}{TITLES[name]} {text}",
            unit="ms",
            better="lower",
            samples=samples,
            sample_ids=ids,
            statistic=text,
            headline=not of and (name, statistic) in headlines,
        )
        for statistic, text in names.items()
    ]


def _samples(name: str, columns: RunColumns) -> tuple[Sequence[float], Sequence[int]]:
    values = columns.latencies[name]
    present = ~numpy.isnan(values)
    return array("d", values[present].tobytes()), array("q", columns.index[present].astype("i8").tobytes())


def _rates(key: str, summary: dict[str, Any], columns: RunColumns | None) -> list[Figure]:
    rates = {name: rate for name, rate in summary.get("rates", {}).items() if name in RATE_LABELS}
    figures = []
    for name, rate in rates.items():
        stretches = () if columns is None else _stretches(name, summary, columns)
        low, high = mean_bounds(stretches)
        figures.append(
            Figure(
                key=key,
                metric=name,
                label=RATE_LABELS[name],
                unit=rate["unit"],
                value=rate["value"],
                better="higher",
                low=low,
                high=high,
                headline=name in ("output_token_throughput", "input_throughput"),
                samples=stretches,
                statistic="mean" if len(stretches) else "",
                count=len(stretches) or None,
            )
        )
    return figures


def _stretches(name: str, summary: dict[str, Any], columns: RunColumns) -> Sequence[float]:
    """The rate in thirty equal stretches of the steady window, whose mean is the rate; none for a short run."""
    if name.startswith("input_") or columns.ok.sum() < 2 * THROUGHPUT_STRETCHES:
        return ()
    window = summary["steady_state"]["window"]
    start, end = ((window[side] - columns.origin_ns) / 1e9 for side in ("start_ns", "end_ns"))
    edges = numpy.linspace(start, end, THROUGHPUT_STRETCHES + 1)
    counts = tokens_in(columns, edges) if name == "output_token_throughput" else numpy.histogram(columns.when("end")[columns.ok], edges)[0]
    return array("d", (counts / (edges[1] - edges[0])).astype("f8").tobytes())


def mean_bounds(values: Sequence[float]) -> tuple[float | None, float | None]:
    """95 % interval of the mean of values in the order of time, as of any mean; Nones under two values."""
    fixed = [round(value * _FIXED_POINT) for value in values]
    bounds = mean_interval(fixed, [1] * len(fixed))
    return (None, None) if bounds == INSUFFICIENT else (bounds[0] / _FIXED_POINT, bounds[1] / _FIXED_POINT)


def _shares(key: str, summary: dict[str, Any], of: str = "") -> list[Figure]:
    figures = []
    goodput = summary.get("goodput")
    if goodput:
        rate, share = goodput["requests_per_s"], goodput["share"]
        reason = "" if share is not None else "no request was checked against the SLO"
        for metric, label, unit, value, why in (
            ("goodput", "goodput", rate["unit"], rate["value"], ""),
            ("goodput share", "requests within SLO", "%", None if share is None else share * 100, reason),
        ):
            found = Figure(key=key, metric=of + metric, label=of + label, unit=unit, value=value, better="higher", reason=why)
            figures.append(msgspec.structs.replace(found, headline=not of))
    scheduled, outcomes = summary.get("scheduled") or 0, summary.get("outcomes", {})
    if scheduled:
        lost = 100 * (1 - outcomes.get("ok", 0) / scheduled)
        figures.append(Figure(key=key, metric="not answered", label="not answered", unit="%", value=lost, better="lower", count=scheduled))
    return figures
