"""The training suite's part of a report page: what was reached, then loss, throughput, time split, memory,
communication, checks, faults."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bytemlperf.report.blocks import axes, line, metric_cells
from bytemlperf.runs.kinds import Plot, Section, Table, Text
from bytemlperf.runs.records import once
from bytemlperf.units import NS_PER_MS
from training.plan.memory import gib
from training.results.history import History
from training.results.records import Record, StepRecord
from training.results.summary import PHASES

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
PERCENTS = ("50", "90", "99")
RATES = ("tokens_per_second", "samples_per_second", "tflops_per_device", "mfu", "hfu")


def sections(summary: dict[str, Any], records: Iterable[Record]) -> list[Section]:
    """The page of a single run."""
    history = once(records, History)
    found: list[Section | None] = [
        _rates(summary),
        _facts(summary),
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


def terminal_sections(run: dict[str, Any], summary: dict[str, Any]) -> list[Section]:
    """Times and rates, what was reached, checks."""
    found = (_plan(run, summary), _times(summary), _rates(summary), _facts(summary), _communication(summary), _checks(summary))
    return [section for section in (*found, _recovery(summary)) if section is not None]


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


def _facts(summary: dict[str, Any]) -> Table | None:
    """Loss, memory, stalls, the peak, checkpoints: a line each."""
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
            rows.append([f"checkpoint {action}", f"{part['count']} x, {gib_fine(part['bytes'])}, {mean}"])
    return Table(title="", columns=["", ""], rows=rows, group="Facts") if rows else None


def _target(convergence: dict[str, Any]) -> str:
    if convergence["target_loss"] is None:
        return ""
    if convergence["steps_to_target"] is None:
        return f", target {convergence['target_loss']} not reached"
    spent = f" in {convergence['time_to_target_ns'] / 1e9:.2f} s" if convergence["time_to_target_ns"] is not None else ""
    work = f"{convergence['steps_to_target']} steps, {convergence['tokens_to_target']:,} tokens"
    return f", target {convergence['target_loss']} after {work}{spent}"


def gib_fine(size: int) -> str:
    """Bytes for a person, small ones too."""
    return gib(size) if size >= 10 << 20 else f"{size / 1024:,.1f} KiB"


def thinned(steps: Sequence[StepRecord]) -> tuple[list[StepRecord], str]:
    """At most so many steps as a plot can show, and a note when some are left out."""
    every = -(-len(steps) // MOST_POINTS) or 1
    return list(steps[::every]), f"every {every}th of {len(steps)} steps" if every > 1 else ""


def _line(steps: Sequence[StepRecord], values: list[float | None], name: str, **style: Any) -> dict[str, Any]:
    return line(name, [step.step for step in steps], values, **style)


def _loss_plot(history: History, summary: dict[str, Any]) -> Plot | None:
    steps, note = thinned(history.curve)
    convergence = summary["convergence"]
    if not steps or not convergence:
        return None
    data = [_line(steps, [step.loss for step in steps], "loss")]
    data.append({**_line(steps, [step.grad_norm for step in steps], "gradient norm", dash="dot"), "yaxis": "y2"})
    norms = {"title": {"text": "gradient norm"}, "overlaying": "y", "side": "right", "rangemode": "tozero"}
    alt = f"The loss goes from {convergence['first_loss']:.4f} to {convergence['last_loss']:.4f}"
    return Plot(title="Loss", data=data, layout=axes("step", "loss, nats", yaxis2=norms), note=note, alt=alt)


def _throughput_plot(history: History) -> Plot | None:
    steps, note = thinned(history.curve)
    if not steps:
        return None
    unit = "images/s" if all(step.tokens == step.samples for step in steps) else "tokens/s"
    rates: list[float | None] = [step.tokens * 1e9 / max(step.step_ns) for step in steps]
    note = "; ".join(filter(None, [note, "warm-up and traced steps are shown but excluded"]))
    return Plot(title="Throughput", data=[_line(steps, rates, unit)], layout=axes("step", unit), note=note, alt=f"{unit} of each step")


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
    return Plot(title="Where a step's time goes", data=data, layout=axes("step", "ms, mean of the ranks"), note=note, alt="Stacked times")


def _memory_plot(history: History) -> Plot | None:
    steps, note = thinned(history.curve)
    if not steps:
        return None
    data = []
    for rank in range(len(steps[0].held_bytes)):
        data.append(_line(steps, [step.held_bytes[rank] / (1 << 20) for step in steps], f"rank {rank} held"))
    return Plot(title="Memory", data=data, layout=axes("step", "MiB"), note=note, alt="Memory that each rank holds after a step")


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
    metrics = {title: summary["metrics"][name] for name, title in TITLES.items() if name in summary["metrics"] and name not in RATES}
    rows = [[title, *metric_cells(metric, PERCENTS, NS_PER_MS), metric["count"]] for title, metric in metrics.items()]
    columns = ["", "mean", *(f"p{percent}" for percent in PERCENTS), "steps"]
    note = "Below each figure its 95 % interval."
    return Table(title="Time of a step, ms", columns=columns, rows=rows, note=note, spare=["p90"]) if rows else None


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
