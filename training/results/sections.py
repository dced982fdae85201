"""The training suite's part of a report page: what was reached, then loss, throughput, time split, memory,
communication, checks, faults."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bytemlperf.runs.kinds import Plot, Section, Table, Text
from bytemlperf.runs.records import once
from training.results.history import History
from training.results.records import StepRecord
from training.results.summary import PHASES

NS_PER_MS = 1e6
MOST_POINTS = 2000
TITLES = {
    "step_time": "step",
    "data_time": "data wait",
    "forward_time": "forward",
    "backward_time": "backward",
    "optimizer_time": "optimiser",
    "wall_time": "step to step",
    "tokens_per_second": "tokens/s",
    "samples_per_second": "samples/s",
    "tflops_per_device": "TFLOP/s a device",
    "mfu": "MFU",
    "hfu": "HFU",
}
RATES = ("tokens_per_second", "samples_per_second", "tflops_per_device", "mfu", "hfu")


def sections(summary: dict[str, Any], records: Iterable[dict[str, Any]]) -> list[Section]:
    """The page of a single run."""
    history = once(records, History)
    found: list[Section | None] = [
        _rates(summary),
        _loss_plot(history, summary),
        _throughput_plot(history),
        _times(summary),
        _split_plot(history),
        _memory_plot(history),
        _communication(summary),
        _checks(summary),
        _checkpoints(history),
        _recovery(summary),
        _formulas(summary),
    ]
    return [section for section in found if section is not None]


def thinned(steps: Sequence[StepRecord]) -> tuple[list[StepRecord], str]:
    """At most so many steps as a plot can show, and a note when some are left out."""
    every = -(-len(steps) // MOST_POINTS) or 1
    return list(steps[::every]), f"every {every}th of {len(steps)} steps" if every > 1 else ""


def _line(steps: Sequence[StepRecord], values: list[float | None], name: str) -> dict[str, Any]:
    return {"type": "scatter", "mode": "lines", "name": name, "x": [step.step for step in steps], "y": values}


def _axes(y: str) -> dict[str, Any]:
    return {"xaxis": {"title": {"text": "step"}}, "yaxis": {"title": {"text": y}, "rangemode": "tozero"}}


def _loss_plot(history: History, summary: dict[str, Any]) -> Plot | None:
    steps, note = thinned(history.curve)
    convergence = summary["convergence"]
    if not steps or not convergence:
        return None
    data = [_line(steps, [step.loss for step in steps], "loss")]
    data.append({**_line(steps, [step.grad_norm for step in steps], "gradient norm"), "yaxis": "y2", "line": {"dash": "dot"}})
    layout = {
        **_axes("loss, nats"),
        "yaxis2": {"title": {"text": "gradient norm"}, "overlaying": "y", "side": "right", "rangemode": "tozero"},
    }
    return Plot(
        title="Loss",
        data=data,
        layout=layout,
        note=note,
        alt=f"The loss goes from {convergence['first_loss']:.4f} to {convergence['last_loss']:.4f}",
    )


def _throughput_plot(history: History) -> Plot | None:
    steps, note = thinned(history.curve)
    if not steps:
        return None
    unit = "images/s" if all(step.tokens == step.samples for step in steps) else "tokens/s"
    rates: list[float | None] = [step.tokens * 1e9 / max(step.step_ns) for step in steps]
    note = "; ".join(filter(None, [note, "warm-up and traced steps are shown but excluded"]))
    return Plot(title="Throughput", data=[_line(steps, rates, unit)], layout=_axes(unit), note=note, alt=f"{unit} of each step")


def _split_plot(history: History) -> Plot | None:
    steps, note = thinned([step for step in history.curve if step.role == "measured"])  # steps done twice would run back
    if not steps:
        return None
    data = []
    rest: list[float | None] = [
        max(0, sum(step.step_ns) - sum(sum(getattr(step, f"{phase}_ns")) for phase in PHASES)) / len(step.step_ns) / NS_PER_MS
        for step in steps
    ]
    for phase in PHASES:
        values: list[float | None] = [sum(getattr(step, f"{phase}_ns")) / len(step.step_ns) / NS_PER_MS for step in steps]
        data.append({**_line(steps, values, {"data": "data wait", "optimizer": "optimiser"}.get(phase, phase)), "stackgroup": "one"})
    data.append({**_line(steps, rest, "rest: waiting for gradients (megatron), bookkeeping"), "stackgroup": "one"})
    return Plot(title="Where a step's time goes", data=data, layout=_axes("ms, mean of the ranks"), note=note, alt="Stacked times")


def _memory_plot(history: History) -> Plot | None:
    steps, note = thinned(history.curve)
    if not steps:
        return None
    data = []
    for rank in range(len(steps[0].held_bytes)):
        data.append(_line(steps, [step.held_bytes[rank] / (1 << 20) for step in steps], f"rank {rank} held"))
    return Plot(title="Memory", data=data, layout=_axes("MiB"), note=note, alt="Memory that each rank holds after a step")


def _rates(summary: dict[str, Any]) -> Table | None:
    rows: list[list[str | float | int | None]] = []
    for name in RATES:
        metric = summary["metrics"].get(name)
        if metric is not None:
            bounds = metric["ci95"]["mean"]
            scale, unit = (100.0, "%") if metric["unit"] == "1" else (1.0, metric["unit"])
            low, high = (None, None) if isinstance(bounds, str) else (bound * scale for bound in bounds)
            rows.append([TITLES.get(name, name.replace("_", " ")), metric["mean"] * scale, low, high, unit, metric["count"]])
    if not rows:
        return None
    return Table(title="Results", columns=["", "mean", "95 % from", "to", "unit", "steps"], rows=rows)


def _times(summary: dict[str, Any]) -> Table | None:
    rows: list[list[str | float | int | None]] = []
    for name, title in TITLES.items():
        if name in RATES:
            continue
        metric = summary["metrics"].get(name)
        if metric is None:
            continue
        claims = [metric["percentiles"][text] for text in ("50", "90", "99")]
        shown = ["insufficient" if isinstance(claim, str) else claim / NS_PER_MS for claim in claims]
        rows.append([title, metric["mean"] / NS_PER_MS, *shown, metric["count"]])
    if not rows:
        return None
    return Table(title="Time of a step, ms", columns=["", "mean", "p50", "p90", "p99", "steps"], rows=rows)


def _communication(summary: dict[str, Any]) -> Table | None:
    sent = summary["communication"]
    rows: list[list[str | float | int | None]] = [
        [each["op"], each["group"], each["calls"], each["bytes"], each["analytic_bytes"]] for each in sent["transfers"]
    ]
    if not rows:
        return None
    split = summary["split"]
    parts = [
        f"{each['op']} of {each['bytes']:,} bytes alone: {each['bus_bandwidth'] / 1e9:.3f} GB/s{_micro(each)}" for each in sent["alone"]
    ]
    if sent["bus_bandwidth_in_step"]:
        parts.insert(0, f"bus bandwidth in the step {sent['bus_bandwidth_in_step'] / 1e9:.3f} GB/s")
    if split.get("exposed_share") is not None:
        parts.insert(0, f"exposed {split['exposed_share']:.1%} of a traced step")
    if split.get("gradient_wait_share") is not None:
        parts.append(f"waiting for gradients {split['gradient_wait_share']:.1%} of a measured step, by hooks")
    if split.get("unseen"):
        parts.append(split["unseen"])
    columns = ["collective", "ranks", "calls a step", "bytes a step", "bytes on paper"]
    return Table(title="Communication of rank 0", columns=columns, rows=rows, note="; ".join(parts))


def _micro(alone: dict[str, Any]) -> str:
    """What `bmp micro` measured beside it."""
    point = alone["micro"]
    return f" (bmp micro: {point['bus_bw_gbs']:.3f} GB/s at {point['bytes']:,} bytes)" if point else ""


def _checks(summary: dict[str, Any]) -> Table:
    rows = [[check["name"], check["status"], check["value"], check["limit"], check["detail"]] for check in summary["checks"]]
    return Table(title="Checks", columns=["check", "status", "value", "limit", "detail"], rows=rows)


def _checkpoints(history: History) -> Table | None:
    rows: list[list[str | float | int | None]] = [
        [each.action, each.step, each.status, max(each.ns) / NS_PER_MS if each.ns else None, each.bytes, each.reason]
        for each in history.checkpoints
    ]
    return Table(title="Checkpoints", columns=["", "before step", "status", "ms", "bytes", "reason"], rows=rows) if rows else None


def _recovery(summary: dict[str, Any]) -> Table | None:
    rows = [
        [each["attempt"], each["resumed_from_step"], each["lost_steps"], each["lost_ns"] / 1e9, each["to_next_step_ns"] / 1e9]
        for each in summary["recovery"]
    ]
    columns = ["attempt", "from step", "steps lost", "s of work lost", "s until the next step"]
    return Table(title="Recovery", columns=columns, rows=rows) if rows else None


def _formulas(summary: dict[str, Any]) -> Text:
    lines = [f"{name}: {metric['formula']}" for name, metric in summary["metrics"].items()]
    return Text(title="Formulas", body="\n".join([*lines, *summary["definitions"].values()]))
