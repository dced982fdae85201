"""The training suite's part of a report page: what was reached, then loss, throughput, time split, memory,
communication, checks, faults."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bytemlperf.report.blocks import axes, bounded_cell, line, metric_cells, over, table
from bytemlperf.runs.kinds import Plot, Section, Table, Text
from bytemlperf.runs.records import once
from bytemlperf.units import NS_PER_MS, NS_PER_S
from training.plan.memory import gib
from training.results.records import History, Record, StepRecord
from training.results.summary import PHASES

MOST_POINTS = 2000
TITLES = {
    "step_time": "step",
    "data_time": "data wait",
    "forward_time": "forward",
    "backward_time": "backward",
    "optimizer_time": "optimizer",
    "wall_time": "step to step",
    "tokens_per_second": "tokens/s",
    "samples_per_second": "samples/s",
    "tflops_per_device": "TFLOP/s a device",
    "mfu": "MFU",
    "hfu": "HFU",
}
BELOW = "Below each figure its 95 % interval."
PERCENTS = ("50", "90", "99")
RATES = ("tokens_per_second", "samples_per_second", "tflops_per_device", "mfu", "hfu")


def sections(summary: dict[str, Any], records: Iterable[Record]) -> list[Section]:
    """The page of a single run."""
    history = once(records, History)
    return [
        *_rates(summary),
        *_facts(summary),
        *_loss_plot(history, summary),
        *_throughput_plot(history),
        *_times(summary),
        *_split_plot(history),
        *_memory_plot(history),
        *_communication(summary),
        *_checks(summary),
        *_checkpoints(history),
        _formulas(summary),
    ]


def terminal_sections(run: dict[str, Any], summary: dict[str, Any]) -> list[Section]:
    """Times and rates, what was reached, checks."""
    parts = (_times, _rates, _facts, _communication, _checks)
    return [_plan(run, summary), *(section for part in parts for section in part(summary))]


def _plan(run: dict[str, Any], summary: dict[str, Any]) -> Text:
    config, start = run["config"], summary["start"]
    layout, recipe = config["layout"], config["workload"]["training"]
    parameters = f"{start['parameters'] / 1e6:.1f} M parameters; " if start else ""
    sizes = ", ".join(f"{name} {layout[name]}" for name in ("dp", "tp", "pp", "ep"))
    count = f"{layout['world']} rank{'' if layout['world'] == 1 else 's'}"
    ranks = f"{count} ({sizes}) on {config['device']}, threads per rank: {config['threads']}"
    batch = f"global batch {recipe['global_batch']} in micro-batches of {recipe['micro_batch']}, {recipe['precision']}"
    body = f"{parameters}{config['trainer']}, {config['sharding']}; {ranks}; {batch}"
    return Text(title=config["workload"]["name"], body=body)


def _facts(summary: dict[str, Any]) -> list[Section]:
    """Loss, memory, stalls, the peak, checkpoints, recoveries: a line each."""
    convergence, memory, split, start = (summary[name] for name in ("convergence", "memory", "split", "start"))
    rows = []
    if convergence:
        rows.append(["loss", f"{convergence['first_loss']:.4f} → {convergence['last_loss']:.4f}{_target(convergence)}"])
    if memory.get("peak_bytes"):
        estimate = f", estimated {gib(memory['estimated_bytes'])}" if memory.get("estimated_bytes") else ""
        rows.append(["memory", f"peak {gib(max(memory['peak_bytes']))} of the largest rank{estimate}"])
    if split:
        waited = f"{split['loader_wait_ns'] / NS_PER_MS:,.1f} ms"
        rows.append(["loader", f"{split['loader_stalls']} stalled steps, {waited} waited in all measured steps"])
    if start:
        rows.append(["device's peak", f"{start['peak_flops'] / 1e12:.4g} TFLOP/s, {start['peak_source']}"])
    for action in ("save", "load"):
        part = summary["checkpoints"][action]
        if part["count"]:
            mean = f"mean {part['time']['mean'] / NS_PER_MS:,.0f} ms"
            size = gib(part["bytes"]) if part["bytes"] >= 10 << 20 else f"{part['bytes'] / 1024:,.1f} KiB"
            rows.append([f"checkpoint {action}", f"{part['count']} x, {size}, {mean}"])
    for recovery in summary["recovery"]:
        same = "" if recovery["to_same_step_ns"] is None else f", caught up after {recovery['to_same_step_ns'] / NS_PER_S:.2f} s"
        again = f"stepping again after {recovery['to_next_step_ns'] / NS_PER_S:.2f} s"
        rows.append(["recovery", f"{recovery['lost_steps']} steps lost ({recovery['lost_ns'] / NS_PER_S:.2f} s of work), {again}{same}"])
    return [Table(title="", columns=["", ""], rows=rows, group="Facts")]


def _target(convergence: dict[str, Any]) -> str:
    if convergence["target_loss"] is None:
        return ""
    if convergence["steps_to_target"] is None:
        return f", target {convergence['target_loss']} not reached"
    spent = f" in {convergence['time_to_target_ns'] / 1e9:.2f} s" if convergence["time_to_target_ns"] is not None else ""
    work = f"{convergence['steps_to_target']} steps, {convergence['tokens_to_target']:,} tokens"
    return f", target {convergence['target_loss']} after {work}{spent}"


def thinned(steps: Sequence[StepRecord]) -> tuple[list[StepRecord], str]:
    """At most so many steps as a plot can show, and a note when some are left out."""
    every = -(-len(steps) // MOST_POINTS) or 1
    return list(steps[::every]), f"every {every}th of {len(steps)} steps" if every > 1 else ""


Curves = dict[str, Callable[[StepRecord], float | None]]


def _plot(title: str, unit: str, steps: Sequence[StepRecord], curves: Curves, alt: str, note: str = "", **more: Any) -> list[Section]:
    """Curves over the steps, by name; `more` goes into each trace. Nothing without steps."""
    shown, left_out = thinned(steps)
    x = [step.step for step in shown]
    data = [line(name, x, [value(step) for step in shown]) | more for name, value in curves.items()]
    note = "; ".join(filter(None, [left_out, note]))
    return [Plot(title=title, data=data, layout=axes("step", unit), note=note, alt=alt)] if shown else []


def _loss_plot(history: History, summary: dict[str, Any]) -> list[Section]:
    convergence = summary["convergence"]
    if not convergence:
        return []
    alt = f"The loss goes from {convergence['first_loss']:.4f} to {convergence['last_loss']:.4f}"
    curves: Curves = {"loss": lambda step: step.loss, "gradient norm": lambda step: step.grad_norm}
    plots = _plot("Loss", "loss, nats", history.curve, curves, alt)
    for plot in plots:
        assert isinstance(plot, Plot)
        plot.data[1].update({"yaxis": "y2", "line": {"dash": "dot"}})
        plot.layout["yaxis2"] = {"title": {"text": "gradient norm"}, "overlaying": "y", "side": "right", "rangemode": "tozero"}
    return plots


def _throughput_plot(history: History) -> list[Section]:
    unit = "images/s" if all(step.tokens == step.samples for step in history.curve) else "tokens/s"
    rate: Curves = {unit: lambda step: step.tokens * NS_PER_S / max(step.step_ns)}
    return _plot("Throughput", unit, history.curve, rate, f"{unit} of each step", "warm-up and traced steps are shown but excluded")


def _split_plot(history: History) -> list[Section]:
    names = {phase: {"data": "data wait", "optimizer": "optimizer"}.get(phase, phase) for phase in PHASES}
    phases, whole = {name: _phase_ms(phase) for phase, name in names.items()}, _phase_ms("step")
    rest: Curves = {
        "rest: waiting for gradients (megatron), bookkeeping": lambda step: max(0.0, whole(step) - sum(ms(step) for ms in phases.values()))
    }
    steps = [step for step in history.curve if step.role == "measured"]  # steps done twice would run back
    return _plot("Where a step's time goes", "ms, mean of the ranks", steps, {**phases, **rest}, "Stacked times", stackgroup="one")


def _phase_ms(phase: str) -> Callable[[StepRecord], float]:
    return lambda step: sum(getattr(step, f"{phase}_ns")) / len(step.step_ns) / NS_PER_MS


def _memory_plot(history: History) -> list[Section]:
    ranks = len(history.curve[0].held_bytes) if history.curve else 0
    curves: Curves = {f"rank {rank} held": lambda step, rank=rank: step.held_bytes[rank] / (1 << 20) for rank in range(ranks)}  # type: ignore[misc]
    return _plot("Memory", "MiB", history.curve, curves, "Memory that each rank holds after a step")


def _rates(summary: dict[str, Any]) -> list[Section]:
    rows = []
    for name in RATES:
        if metric := summary["metrics"].get(name):
            scale, unit = (1 / 100, "%") if metric["unit"] == "1" else (1.0, metric["unit"])
            mean = bounded_cell(metric["mean"], metric["ci95"]["mean"], scale)
            rows.append({"": TITLES.get(name, name.replace("_", " ")), "mean": mean, "unit": unit, "steps": metric["count"]})
    return table("Results", rows, note=BELOW)


def _times(summary: dict[str, Any]) -> list[Section]:
    metrics = {title: summary["metrics"][name] for name, title in TITLES.items() if name in summary["metrics"] and name not in RATES}
    rows = [[title, *metric_cells(metric, PERCENTS, NS_PER_MS), metric["count"]] for title, metric in metrics.items()]
    columns = ["", "mean", *(f"p{percent}" for percent in PERCENTS), "steps"]
    return [Table(title="Time of a step, ms", columns=columns, rows=rows, note=BELOW, spare=["p90"])] if rows else []


def _communication(summary: dict[str, Any]) -> list[Section]:
    sent, split = summary["communication"], summary["split"]
    names = {"collective": "op", "ranks": "group", "calls a step": "calls", "bytes a step": "bytes", "bytes on paper": "analytic_bytes"}
    rows = [{title: transfer[name] for title, name in names.items()} for transfer in sent["transfers"]]
    parts = []
    if rows and split.get("exposed_share") is not None:
        parts.append(f"exposed {split['exposed_share']:.1%} of a traced step")
    if sent["bus_bandwidth_in_step"]:
        parts.append(f"bus bandwidth in the step {sent['bus_bandwidth_in_step'] / 1e9:.3f} GB/s")
    for alone in sent["alone"]:
        point = alone["micro"]
        beside = f" (bmp micro measured {point['bus_bw_gbs']:.3f} GB/s at {point['bytes']:,} bytes)" if point else ""
        parts.append(f"{alone['op']} of {alone['bytes']:,} bytes alone: {alone['bus_bandwidth'] / 1e9:.3f} GB/s{beside}")
    if rows and split.get("gradient_wait_share") is not None:
        parts.append(f"waiting for gradients {split['gradient_wait_share']:.1%} of a measured step, by hooks")
    if rows and split.get("unseen"):
        parts.append(split["unseen"])
    return table("Communication of rank 0", rows, note="; ".join(parts))


def _checks(summary: dict[str, Any]) -> list[Section]:
    names = {"check": "name", "status": "status", "value": "value", "limit": "limit", "detail": "detail"}
    return table("Checks", [{title: check[name] for title, name in names.items()} for check in summary["checks"]])


def _checkpoints(history: History) -> list[Section]:
    rows = [
        {
            "": checkpoint.action,
            "before step": checkpoint.step,
            "status": checkpoint.status,
            "ms": over(max(checkpoint.ns, default=None), NS_PER_MS),
            "bytes": checkpoint.bytes,
            "reason": checkpoint.reason or None,
        }
        for checkpoint in history.checkpoints
    ]
    return table("Checkpoints", rows)


def _formulas(summary: dict[str, Any]) -> Text:
    lines = [f"{name}: {metric['formula']}" for name, metric in summary["metrics"].items()]
    return Text(title="Formulas", body="\n".join([*lines, *summary["definitions"].values()]))
