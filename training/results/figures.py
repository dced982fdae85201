"""Numbers of a training run that a comparison can use. The key is the case without the machine: workload,
precision, layout, batch; the trainer and the device are what is compared."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from bytemlperf.report.blocks import figure_of
from bytemlperf.runs.kinds import Better, Figure
from bytemlperf.runs.records import once
from bytemlperf.units import NS_PER_MS
from training.results.history import History
from training.results.records import Record

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
    found = [_time(key, name, metrics[name], history) for name in MS_METRICS if name in metrics]
    found += [_rate(key, name, metrics[name]) for name in RATE_METRICS if name in metrics]
    return [*found, *_sizes(key, summary), *_losses(key, summary)]


def _time(key: str, name: str, metric: dict[str, Any], history: History) -> Figure:
    samples = tuple(ns / NS_PER_MS for ns in history.step_times_ns) if name == "step_time" else ()
    more = {"samples": samples, "headline": name in HEADLINES}
    return figure_of(metric, "mean", NS_PER_MS, key=key, metric=name, unit="ms", better="lower", **more)


def _rate(key: str, name: str, metric: dict[str, Any]) -> Figure:
    unit, scale = ("%", 1 / PERCENT) if metric["unit"] == "1" else (metric["unit"], 1.0)
    headline = name in HEADLINES and "measured:" not in metric["formula"]  # each run's own peak: no common measure
    return figure_of(metric, "mean", scale, key=key, metric=name, unit=unit, better="higher", headline=headline)


def _sizes(key: str, summary: dict[str, Any]) -> list[Figure]:
    found = []
    if summary["memory"].get("peak_bytes"):
        found.append(_plain(key, "peak_memory", "bytes", float(max(summary["memory"]["peak_bytes"])), "lower"))
    split = summary["split"]
    if split:
        why = "" if split["exposed_share"] is not None else "no step was traced"
        exposed = None if split["exposed_share"] is None else split["exposed_share"] * PERCENT
        found.append(_plain(key, "exposed_communication", "%", exposed, "lower", why))
    for action in ("save", "load"):
        part = summary["checkpoints"][action]
        if part["count"]:
            found.append(_plain(key, f"checkpoint_{action}_time", "ms", part["time"]["mean"] / NS_PER_MS, "lower"))
    lost = summary["recovery"]
    if lost:
        found.append(_plain(key, "recovery_time", "ms", statistics.fmean(each["to_next_step_ns"] for each in lost) / NS_PER_MS, "lower"))
    return found


def _losses(key: str, summary: dict[str, Any]) -> list[Figure]:
    convergence = summary["convergence"]
    if not convergence:
        return []
    found = [_plain(key, "smoothed_loss", "nats", convergence["smoothed_loss"], "lower")]
    if convergence["target_loss"] is not None:
        spent = convergence["time_to_target_ns"]
        why = "" if spent is not None else "the target was not reached"
        found.append(_plain(key, f"time_to_loss_{convergence['target_loss']}", "s", None if spent is None else spent / 1e9, "lower", why))
    return found


def _plain(key: str, metric: str, unit: str, value: float | None, better: Better, reason: str = "") -> Figure:
    return Figure(key=key, metric=metric, unit=unit, value=value, better=better, reason=reason)
