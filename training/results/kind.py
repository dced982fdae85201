"""What a training run can tell: the suite's RunKind, and the numbers that a comparison can use.

The key of a figure is the case without the machine: workload, precision, layout, batch; the trainer and the device are what is
compared.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from bytemlperf.export.timeline import Story
from bytemlperf.report.blocks import figure_of
from bytemlperf.runs.folder import part
from bytemlperf.runs.kinds import Better, Figure, RunKind, Section
from bytemlperf.runs.records import once
from bytemlperf.units import NS_PER_MS
from training.results.checks import against_plan
from training.results.records import History, Record
from training.results.sections import sections, terminal_sections
from training.results.story import story_of
from training.results.study_summary import StudyRecord, study_figures, study_sections, study_table, summarise_study
from training.results.summary import summarise

PERCENT = 100.0
MS_METRICS = ("step_time", "data_time", "forward_time", "backward_time", "optimizer_time", "wall_time")
RATE_METRICS = ("tokens_per_second", "samples_per_second", "tflops_per_device", "mfu", "hfu")
HEADLINES = ("step_time", "tokens_per_second", "mfu", "tflops_per_device")


def key_of(config: dict[str, Any]) -> str:
    """The case: equal keys can be compared."""
    layout, recipe = config["layout"], config["workload"]["training"]
    sizes = " ".join(f"{name}{layout[name]}" for name in ("dp", "tp", "pp", "ep") if layout[name] > 1) or "1 rank"
    length = "" if config["workload"]["family"] == "resnet" else f" seq {config['workload']['model']['seq_len']}"
    return f"{config['workload']['name']} {recipe['precision']} {sizes}{length} batch {recipe['global_batch']}/{recipe['micro_batch']}"


def figures(run: dict[str, Any], summary: dict[str, Any], records: Iterable[Record]) -> list[Figure]:
    """Every comparable number of a single run."""
    key, history = key_of(run["config"]), once(records, History)
    metrics = summary["metrics"]
    numbers = [_time(key, name, metrics[name], history) for name in MS_METRICS if name in metrics]
    numbers += [_rate(key, name, metrics[name]) for name in RATE_METRICS if name in metrics]
    return [*numbers, *_sizes(key, summary), *_losses(key, summary)]


def _time(key: str, name: str, metric: dict[str, Any], history: History) -> Figure:
    samples = tuple(ns / NS_PER_MS for ns in history.step_times_ns) if name == "step_time" else ()
    more = {"samples": samples, "headline": name in HEADLINES}
    return figure_of(metric, "mean", NS_PER_MS, key=key, metric=name, unit="ms", better="lower", **more)


def _rate(key: str, name: str, metric: dict[str, Any]) -> Figure:
    unit, scale = ("%", 1 / PERCENT) if metric["unit"] == "1" else (metric["unit"], 1.0)
    headline = name in HEADLINES and "measured:" not in metric["formula"]  # each run's own peak: no common measure
    return figure_of(metric, "mean", scale, key=key, metric=name, unit=unit, better="higher", headline=headline)


def _sizes(key: str, summary: dict[str, Any]) -> list[Figure]:
    numbers = []
    if summary["memory"].get("peak_bytes"):
        numbers.append(_plain(key, "peak_memory", "bytes", float(max(summary["memory"]["peak_bytes"])), "lower"))
    split = summary["split"]
    if split:
        why = "" if split["exposed_share"] is not None else "no step was traced"
        exposed = None if split["exposed_share"] is None else split["exposed_share"] * PERCENT
        numbers.append(_plain(key, "exposed_communication", "%", exposed, "lower", why))
    for action in ("save", "load"):
        files = summary["checkpoints"][action]
        if files["count"]:
            numbers.append(_plain(key, f"checkpoint_{action}_time", "ms", files["time"]["mean"] / NS_PER_MS, "lower"))
    lost = summary["recovery"]
    if lost:
        numbers.append(
            _plain(key, "recovery_time", "ms", statistics.fmean(recovery["to_next_step_ns"] for recovery in lost) / NS_PER_MS, "lower")
        )
    return numbers


def _losses(key: str, summary: dict[str, Any]) -> list[Figure]:
    convergence = summary["convergence"]
    if not convergence:
        return []
    numbers = [_plain(key, "smoothed_loss", "nats", convergence["smoothed_loss"], "lower")]
    if convergence["target_loss"] is not None:
        spent = convergence["time_to_target_ns"]
        why = "" if spent is not None else "the target was not reached"
        numbers.append(_plain(key, f"time_to_loss_{convergence['target_loss']}", "s", None if spent is None else spent / 1e9, "lower", why))
    return numbers


def _plain(key: str, metric: str, unit: str, value: float | None, better: Better, reason: str = "") -> Figure:
    return Figure(key=key, metric=metric, unit=unit, value=value, better=better, reason=reason)


class TrainingKind(RunKind):
    """Runs, and scaling, drift and prediction studies over them: `config.study` says which."""

    name = "Training"
    record = Record | StudyRecord

    def summarise(self, run: dict[str, Any], records: Iterable[Any]) -> dict[str, Any]:
        """From the records alone."""
        return summarise_study(run, records) if _is_study(run) else summarise(run, records)

    def contradictions(self, run: dict[str, Any], records: Iterable[Any]) -> Iterable[str]:
        """Steps against the plan in run.json: none beyond it, none left out, as many ranks' times as there are ranks."""
        return () if _is_study(run) else against_plan(run["config"], History(records))

    def figures(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[Any]) -> list[Figure]:
        """What a comparison can use."""
        return study_figures(run, summary) if _is_study(run) else figures(run, summary, records)

    def devices_used(self, run: dict[str, Any]) -> int | None:
        """One a rank; ranks on a CPU share it."""
        world = part(run, "config", "layout").get("world")
        return world if isinstance(world, int) and part(run, "trainer").get("device") != "cpu" else None

    def sections(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[Any]) -> list[Section]:
        """The page."""
        return study_sections(summary) if _is_study(run) else sections(summary, records)

    def story(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[Any]) -> Story:
        """Steps of every rank; a study has none."""
        return super().story(run, summary, records) if _is_study(run) else story_of(records)

    def terminal(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[Any]) -> list[Section]:  # noqa: ARG002
        """What a run's end shows."""
        return [study_table(summary)] if _is_study(run) else terminal_sections(run, summary)


def _is_study(run: dict[str, Any]) -> bool:
    return "study" in run["config"]


KIND = TrainingKind()
