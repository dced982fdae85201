"""summary.json of a training run, from run.json and the records alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import Any

import msgspec

from bytemlperf.report.text import counted
from bytemlperf.runs.records import once
from bytemlperf.runs.verdicts import VerdictName, median_reasons, worst
from bytemlperf.statistics.metric import Metric, describe, rate
from bytemlperf.statistics.statistics import INTERVAL_DEFINITION, PERCENTILE_DEFINITION
from bytemlperf.units import NS_PER_S
from training.results.checks import SMOOTHED_STEPS, reached, run_checks, spikes
from training.results.records import History, MicroPoint, Record, StepRecord, TraceRecord
from training.workload.flops import HFU_FORMULA, MFU_FORMULA, forward_formula
from training.workload.workload import Workload

PHASES = ("data", "forward", "backward", "optimizer")
BUSY_SHARE = 0.5
STALL_SHARE = 0.05
"""A step stalls when it waits for data longer than this share of the median step."""


def summarise(run: dict[str, Any], records: Iterable[Record]) -> dict[str, Any]:
    """Verdict, reasons, metrics, counts, and what is particular to training."""
    config, history = run["config"] | run.get("beside", {}), once(records, History)
    checks = run_checks(config, history)
    resumed = {part["first_attempt"] for part in run.get("resumed", []) if "first_attempt" in part}
    starts = [start for start in history.starts if start.attempt in resumed]
    pauses = [f"resumed from step {start.first_step}: the pause before is excluded" for start in starts]
    metrics = _metrics(config, history)
    invalid = _invalid(config, history) + [
        f"{check.name}: {'' if check.value is None else f'{check.value:.3g} is not below {check.limit:g}; '}{check.detail}"
        for check in checks
        if check.status == "failed"
    ]
    reasons: dict[VerdictName, list[str]] = {"invalid": invalid, "partial": _target_missed(config, history), **_precision(config, metrics)}
    return {
        "verdict": worst(reasons),
        "reasons": [reason for held in reasons.values() for reason in held],
        "warnings": [*_warnings(config, history), *pauses],
        "metrics": metrics,
        "counts": _counts(history),
        "checks": [msgspec.to_builtins(check) for check in checks],
        "split": split(history),
        "communication": communication(config, history),
        "memory": _memory(config, history),
        "convergence": _convergence(config, history, resumed),
        "checkpoints": _checkpoints(history),
        "recovery": recovery(history, resumed),
        "start": _start(history),
        "end": None if history.end is None else {"why": history.end.why, "state_sha256": history.end.state_sha256},
        "definitions": {"percentiles": PERCENTILE_DEFINITION, "intervals": INTERVAL_DEFINITION},
    }


def _precision(config: dict[str, Any], metrics: dict[str, Any]) -> dict[VerdictName, list[str]]:
    """Why step times are less than they could be: few or unsteady steps, a machine that was busy before."""
    medians = {"the step time": metrics["step_time"]} if "step_time" in metrics else {}
    reasons = {name: [text] for name, text in median_reasons("metric", medians).items()}
    cores, load = config.get("cores"), config.get("load_before")
    if cores and load is not None and config["device"] == "cpu" and load > BUSY_SHARE * cores:
        busy = f"the machine was busy before the run (load average {load:g} on {counted(cores, 'core')}): times are inflated"
        reasons["noisy"] = [*reasons.get("noisy", []), busy]
    return reasons


def _target_missed(config: dict[str, Any], history: History) -> list[str]:
    target = config.get("target_loss")
    missed = target is not None and history.end is not None and history.end.why != "target reached"
    return [f"the loss did not reach {target}: there is no time to it"] if missed else []


def _invalid(config: dict[str, Any], history: History) -> list[str]:
    reasons = []
    if not history.measured:
        reasons.append("no step was measured")
    diverged = [step for step in history.steps if step.status == "diverged"]
    if diverged:
        reasons.append(f"the loss or the gradient is not finite from step {diverged[0].step} on")
    if history.end is None:
        done = len(history.curve)
        reasons.append(f"the ranks did not complete: {done} of {config['steps']} steps are recorded")
    return reasons


def _warnings(config: dict[str, Any], history: History) -> list[str]:
    warnings = [f"{event.event}: {event.detail}" for event in history.events if event.event == "failure"]
    warnings += [f"{record.action} of a checkpoint failed: {record.reason}" for record in history.checkpoints if record.status == "failed"]
    jumps = spikes(history.losses)
    if jumps:
        warnings.append(f"the loss jumped at step {', '.join(str(history.curve[index].step) for index in jumps[:5])}")
    cores = config.get("cores")
    ranks = config["layout"]["world"] // config["nnodes"]
    if config["device"] == "cpu" and cores and ranks * config["threads"] > cores:
        warnings.append(f"{ranks} ranks of {counted(config['threads'], 'thread')} share {counted(cores, 'core')}: they slow each other")
    return warnings


def _counts(history: History) -> dict[str, int]:
    roles = [step.role for step in history.steps]
    return {
        "ok": sum(step.status == "ok" for step in history.steps),
        "diverged": sum(step.status == "diverged" for step in history.steps),
        "warmup": roles.count("warmup"),
        "traced": roles.count("traced"),
        "measured": len(history.measured),
        "restarts": sum(event.event == "restart" for event in history.events),
        "hangs": sum(event.event == "hang" for event in history.events),
    }


def _metrics(config: dict[str, Any], history: History) -> dict[str, Any]:
    measured, times = history.measured, history.step_times_ns
    if not measured:
        return {}
    workload = msgspec.convert(config["workload"], Workload)
    first = measured[0]
    metrics: dict[str, Metric | None] = {
        "step_time": describe(times, "ns", "from requesting data to the end of the optimizer step, slowest rank"),
        **{f"{name}_time": describe(_means(measured, f"{name}_ns"), "ns", f"{name} of a step, mean of the ranks") for name in PHASES},
        "wall_time": describe(
            [step.wall_ns for step in measured], "ns", "from a step's end to the next one's, with reporting and checkpoints"
        ),
        "samples_per_second": rate(first.samples, times, "samples/s", "global batch / step time"),
        "tokens_per_second": None
        if workload.family == "resnet"
        else rate(first.tokens, times, "tokens/s", "tokens of a global batch / step time"),
    }
    if history.starts:
        metrics |= _efficiency(workload, history, times)
    return {name: msgspec.to_builtins(metric) for name, metric in metrics.items() if metric is not None}


def _means(steps: list[StepRecord], field: str) -> list[int]:
    return [round(statistics.fmean(getattr(step, field))) for step in steps]


def _efficiency(workload: Workload, history: History, times: list[int]) -> dict[str, Metric | None]:
    start, samples = history.starts[-1], history.measured[0].samples
    devices = len(start.peak_flops)
    peak = statistics.fmean(start.peak_flops)
    formula = f"{MFU_FORMULA}; {forward_formula(workload)}; peak {peak / 1e12:.4g} TFLOP/s a device, {start.peak_source}"

    def per_device(flops: int, unit: str, scale: float, text: str) -> Metric | None:
        return rate(flops * samples / devices / scale, times, unit, text)

    return {
        "tflops_per_device": per_device(start.model_flops, "TFLOP/s", 1e12, "model FLOPs of a step / step time / devices"),
        "mfu": per_device(start.model_flops, "1", peak, formula),
        "hfu": per_device(start.model_flops + start.recomputed_flops, "1", peak, HFU_FORMULA),
    }


def split(history: History) -> dict[str, Any]:
    """Shares of the measured steps' time, and of the traced ones' what no measured step can tell."""
    measured = history.measured
    if not measured:
        return {}
    whole = statistics.fmean(_means(measured, "step_ns"))
    shares: dict[str, float] = {name: statistics.fmean(_means(measured, f"{name}_ns")) / whole for name in PHASES}
    shares["other"] = max(0.0, 1.0 - sum(shares.values()))
    synced = [ns for step in measured for ns in step.sync_ns if ns is not None]
    waits = [max(step.data_ns) for step in measured]
    stalled = [
        wait
        for wait, time in zip(waits, history.step_times_ns, strict=True)
        if wait > STALL_SHARE * statistics.median(history.step_times_ns)
    ]
    return {
        "shares": shares,
        "gradient_wait_share": sum(synced) / len(synced) / whole if synced else None,
        "loader_stalls": len(stalled),
        "loader_stalled_ns": sum(stalled),
        "loader_wait_ns": sum(waits),
        **_exposed(history.traces),
        "unseen": _unseen(history, bool(synced)),
    }


def _unseen(history: History, hooked: bool) -> str:
    """What of the exposed communication no stamp can tell here; empty where a traced step tells all of it."""
    if history.traces or len(history.measured[0].step_ns) == 1:
        return ""
    if hooked:
        return "no step was traced: only the wait for gradients is seen, by hooks; give --trace-steps 2"
    return "no step was traced, and this sharding has no hook: waiting for collectives lies in forward and backward; give --trace-steps 2"


def _exposed(traces: list[TraceRecord]) -> dict[str, float | None]:
    if not traces:
        return {"exposed_share": None, "communication_share": None, "compute_share": None, "hidden_share": None}
    step, busy, sent, exposed = (
        sum(sum(getattr(trace, name)) for trace in traces) for name in ("step_ns", "busy_ns", "communication_ns", "exposed_ns")
    )
    return {
        "exposed_share": exposed / step,
        "communication_share": sent / step,
        "compute_share": busy / step,
        "hidden_share": 1 - exposed / sent if sent else None,
    }


def communication(config: dict[str, Any], history: History) -> dict[str, Any]:
    """Volume of a step on rank 0, counted and on paper, and bus bandwidths in bytes/s."""
    if not history.traces:
        return {"transfers": [], "bus_bandwidth_in_step": None, "alone": []}
    trace = history.traces[-1]
    paper = {(transfer.op, transfer.group): transfer.bytes for transfer in trace.analytic}
    rows = [
        {
            **{name: getattr(transfer, name) for name in ("op", "group", "calls", "bytes")},
            "analytic_bytes": paper.get((transfer.op, transfer.group)),
            "bus_bytes": transfer.bus_bytes,
        }
        for transfer in trace.transfers
    ]
    under_way = trace.communication_ns[0]
    alone = [
        {
            "op": transfer.op,
            "group": transfer.group,
            "bytes": transfer.bytes,
            "median_ns": statistics.median(transfer.ns),
            "bus_bandwidth": transfer.bus_bytes * NS_PER_S / statistics.median(transfer.ns),
            "micro": msgspec.to_builtins(micro_point(config, transfer.op, transfer.group, transfer.bytes)),
        }
        for transfer in history.collectives
    ]
    total = sum(transfer.bus_bytes for transfer in trace.transfers)
    return {"transfers": rows, "bus_bandwidth_in_step": total * NS_PER_S / under_way if under_way else None, "alone": alone}


def micro_point(config: dict[str, Any], op: str, ranks: int, size: int) -> MicroPoint | None:
    """What `bmp micro` measured for the same collective and ranks, in float32 as ours, at the size with the nearest ratio."""
    points = msgspec.convert(config.get("micro_collectives") or [], list[MicroPoint])
    alike = [point for point in points if (point.op, point.ranks, point.dtype) == (op, ranks, "float32")]
    return min(alike, key=lambda point: abs(math.log(point.bytes / size)), default=None)


def _memory(config: dict[str, Any], history: History) -> dict[str, Any]:
    estimated = config.get("memory_estimate", {}).get("total_bytes")
    if not history.steps:
        return {"estimated_bytes": estimated}
    last = history.steps[-1]
    return {"peak_bytes": last.peak_bytes, "held_bytes": last.held_bytes, "estimated_bytes": estimated}


def _convergence(config: dict[str, Any], history: History, resumed: set[int]) -> dict[str, Any]:
    losses, curve = history.losses, history.curve
    if not losses:
        return {}
    target = config.get("target_loss")
    index = next((index for index in range(len(losses)) if reached(losses[: index + 1], target)), None)
    begun = history.starts[0].at_ns if history.starts else None
    until = -1 if index is None else curve[index].attempt
    paused_ns = sum(history.pause_ns(start) for start in history.starts if start.attempt in resumed and start.attempt <= until)
    return {
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "smoothed_loss": statistics.fmean(losses[-SMOOTHED_STEPS:]),
        "best_loss": min(losses),
        "target_loss": target,
        "steps_to_target": None if index is None else curve[index].step + 1,
        "tokens_to_target": None if index is None else sum(step.tokens for step in curve[: index + 1]),
        "time_to_target_ns": None if index is None or begun is None else curve[index].at_ns - begun - paused_ns,
        "spikes": [curve[index].step for index in spikes(losses)],
    }


def _checkpoints(history: History) -> dict[str, Any]:
    good = [record for record in history.checkpoints if record.status == "ok"]
    parts: dict[str, Any] = {"failed": len(history.checkpoints) - len(good)}
    for action in ("save", "load"):
        mine = [record for record in good if record.action == action]
        parts[action] = {
            "count": len(mine),
            "bytes": mine[-1].bytes if mine else None,
            "time": msgspec.to_builtins(describe([max(record.ns) for record in mine], "ns", f"{action} of a checkpoint, slowest rank")),
        }
    return parts


def recovery(history: History, resumed: set[int]) -> list[dict[str, Any]]:
    """For each restart (not after a pause): the steps that were lost, and how long it took to step again and to be as far as before."""
    recoveries = []
    for start in history.starts:
        before = [step for step in history.steps if step.attempt < start.attempt]
        after = [step for step in history.steps if step.attempt == start.attempt]
        if not start.attempt or start.attempt in resumed or not before or not after:
            continue
        last = before[-1]
        again = next((step for step in after if step.step >= last.step), None)
        lost = [step for step in before if step.step >= start.first_step and step.attempt == last.attempt]
        recoveries.append(
            {
                "attempt": start.attempt,
                "resumed_from_step": start.first_step,
                "last_step_before": last.step,
                "lost_steps": len(lost),
                "lost_ns": sum(step.wall_ns for step in lost),
                "to_next_step_ns": after[0].at_ns - last.at_ns,
                "to_same_step_ns": None if again is None else again.at_ns - last.at_ns,
            }
        )
    return recoveries


def _start(history: History) -> dict[str, Any]:
    if not history.starts:
        return {}
    start = history.starts[0]
    return {
        "start_ns": max(start.start_ns),
        "parameters": start.parameters,
        "device": start.device,
        "devices": sorted(set(start.devices)),
        "hosts": len(set(start.hosts)),
        "model_flops": start.model_flops,
        "recomputed_flops": start.recomputed_flops,
        "peak_flops": statistics.fmean(start.peak_flops),
        "peak_source": start.peak_source,
    }
