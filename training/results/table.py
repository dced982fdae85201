"""The final table of a training run, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bytemlperf.command.exits import one_line
from bytemlperf.runs.verdicts import COLOURS
from training.plan.memory import gib

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

CHECK_STYLES = {"passed": "green", "failed": "red", "not available": "dim"}
TIMES = (
    ("step_time", "step"),
    ("data_time", "  data wait"),
    ("forward_time", "  forward"),
    ("backward_time", "  backward"),
    ("optimizer_time", "  optimiser"),
    ("wall_time", "step to step"),
)
RATES = (
    ("tokens_per_second", "tokens/s", 1.0, ",.0f"),
    ("samples_per_second", "samples/s", 1.0, ",.1f"),
    ("tflops_per_device", "TFLOP/s a device", 1.0, ".4g"),
    ("mfu", "MFU", 100.0, ".1f"),
    ("hfu", "HFU", 100.0, ".1f"),
)
NS_PER_MS = 1e6


def print_summary(console: Console, run: dict[str, Any], summary: dict[str, Any]) -> None:
    """Everything, ending in the verdict."""
    _print_head(console, run, summary)
    metrics = summary["metrics"]
    if metrics:
        console.print(_times(metrics))
        console.print(_rates(metrics))
    for text in remarks(summary):
        console.print(text, highlight=False)
    for check in summary["checks"]:
        value = "" if check["value"] is None else f" {check['value']:.2g} (limit {check['limit']:g})"
        style = CHECK_STYLES[check["status"]]
        console.print(f"[{style}]{check['status']:>13}[/] {check['name']}{value}: {plain(check['detail'])}", highlight=False)
    for text in summary["warnings"]:
        console.print(f"[yellow]![/] {plain(text)}", highlight=False)
    verdict = summary["verdict"]
    reasons = "".join(f"\n  [bold]because[/] {plain(reason)}" for reason in summary["reasons"])
    console.print(f"[bold {COLOURS[verdict]}]{verdict.upper()}[/]{reasons}", highlight=False)


def _print_head(console: Console, run: dict[str, Any], summary: dict[str, Any]) -> None:
    config, start = run["config"], summary["start"]
    layout, recipe = config["layout"], config["workload"]["training"]
    parameters = f" · {start['parameters'] / 1e6:.1f} M parameters" if start else ""
    console.print(
        f"\n[bold]{plain(config['workload']['name'])}[/]{parameters} · {config['trainer']} · {config['sharding']}", highlight=False
    )
    sizes = ", ".join(f"{name} {layout[name]}" for name in ("dp", "tp", "pp", "ep"))
    ranks = f"{layout['world']} rank{'' if layout['world'] == 1 else 's'} ({sizes}), threads per rank: {config['threads']}"
    batch = f"global batch {recipe['global_batch']} in micro-batches of {recipe['micro_batch']}, {recipe['precision']}"
    console.print(f"[dim]{ranks} on {config['device']}; {batch}; seed {run['seed']}[/]", highlight=False)


def _times(metrics: dict[str, Any]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="time, ms  [dim](95 % interval below each figure)[/]", title_justify="left")
    table.add_column("", style="bold", no_wrap=True)
    for name in ("mean", "p50", "p90", "p99"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("n", justify="right", style="dim")
    for key, title in TIMES:
        metric = metrics.get(key)
        if metric is None:
            continue
        cells = [_cell(metric["mean"], metric["ci95"]["mean"])]
        cells += [_cell(metric["percentiles"][text], metric["ci95"][text]) for text in ("50", "90", "99")]
        table.add_row(title, *cells, f"{metric['count']:,}")
    return table


def _cell(value: Any, interval: Any) -> str:
    if isinstance(value, str):
        return "[dim]insufficient[/]"
    shown = f"{value / NS_PER_MS:,.2f}"
    if isinstance(interval, str):
        return f"{shown}\n[dim]insufficient[/]"
    return f"{shown}\n[dim]{interval[0] / NS_PER_MS:,.2f}–{interval[1] / NS_PER_MS:,.2f}[/]"


def _rates(metrics: dict[str, Any]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", style="bold", no_wrap=True)
    table.add_column("mean", justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right", style="dim", no_wrap=True)
    for key, title, scale, spec in RATES:
        metric = metrics.get(key)
        if metric is None or (key == "hfu" and metric["mean"] == metrics["mfu"]["mean"]):
            continue
        bounds = metric["ci95"]["mean"]
        unit = " %" if scale != 1.0 else ""
        between = "insufficient" if isinstance(bounds, str) else f"{bounds[0] * scale:{spec}}–{bounds[1] * scale:{spec}}{unit}"
        table.add_row(title, f"{metric['mean'] * scale:{spec}}{unit}", between)
    return table


def remarks(summary: dict[str, Any]) -> list[str]:
    """Loss, memory, communication, stalls, checkpoints, recovery: a line each."""
    found = []
    convergence, memory, split = summary["convergence"], summary["memory"], summary["split"]
    if convergence:
        found.append(f"[bold]loss[/] {convergence['first_loss']:.4f} → {convergence['last_loss']:.4f}" + _target(convergence))
    if memory.get("peak_bytes"):
        estimate = f", estimated {gib(memory['estimated_bytes'])}" if memory.get("estimated_bytes") else ""
        found.append(f"[bold]memory[/] peak {gib(max(memory['peak_bytes']))} of the largest rank{estimate}")
    found += _communication_lines(summary)
    if split:
        waited = f"{split['loader_wait_ns'] / NS_PER_MS:,.1f} ms"
        found.append(f"[bold]loader[/] {split['loader_stalls']} stalled steps, {waited} waited in all measured steps")
    if summary["start"]:
        found.append(
            f"[bold]peak[/] {summary['start']['peak_flops'] / 1e12:.4g} TFLOP/s a device, {plain(summary['start']['peak_source'])}"
        )
    found += _checkpoint_lines(summary)
    return found


def _target(convergence: dict[str, Any]) -> str:
    if convergence["target_loss"] is None:
        return ""
    if convergence["steps_to_target"] is None:
        return f", target {convergence['target_loss']} not reached"
    spent = f" in {convergence['time_to_target_ns'] / 1e9:.2f} s" if convergence["time_to_target_ns"] is not None else ""
    work = f"{convergence['steps_to_target']} steps, {convergence['tokens_to_target']:,} tokens"
    return f", target {convergence['target_loss']} after {work}{spent}"


def _communication_lines(summary: dict[str, Any]) -> list[str]:
    split, sent = summary["split"], summary["communication"]
    found = []
    if split and split["communication_share"]:
        found.append(
            f"[bold]communication[/] under way {split['communication_share']:.0%} of a traced step, "
            f"exposed {split['exposed_share']:.0%}, hidden behind computing {split['hidden_share']:.0%} of it"
        )
    if split and split["gradient_wait_share"] is not None:
        found.append(f"  waiting for gradients {split['gradient_wait_share']:.1%} of a measured step, by hooks")
    if split and split.get("unseen"):
        found.append(f"  {plain(split['unseen'])}")
    for each in sent["transfers"]:
        paper = f", on paper {gib_fine(each['analytic_bytes'])}" if each["analytic_bytes"] is not None else ""
        found.append(f"  {each['op']} x {each['calls']} over {each['group']} ranks: {gib_fine(each['bytes'])} a step{paper}")
    if sent["bus_bandwidth_in_step"]:
        found.append(f"  bus bandwidth in the step {sent['bus_bandwidth_in_step'] / 1e9:.3f} GB/s")
    for each in sent["alone"]:
        micro = (
            f"; bmp micro measured {each['micro']['bus_bw_gbs']:.3f} GB/s at {gib_fine(each['micro']['bytes'])}" if each["micro"] else ""
        )
        found.append(f"  {each['op']} of {gib_fine(each['bytes'])} alone: {each['bus_bandwidth'] / 1e9:.3f} GB/s{micro}")
    return found


def _checkpoint_lines(summary: dict[str, Any]) -> list[str]:
    found = []
    for action in ("save", "load"):
        part = summary["checkpoints"][action]
        if part["count"]:
            spent = f"mean {part['time']['mean'] / NS_PER_MS:,.0f} ms"
            found.append(f"[bold]checkpoint {action}[/] {part['count']} x, {gib_fine(part['bytes'])}, {spent}")
    for each in summary["recovery"]:
        same = "" if each["to_same_step_ns"] is None else f", caught up after {each['to_same_step_ns'] / 1e9:.2f} s"
        found.append(
            f"[bold]recovery[/] {each['lost_steps']} steps lost ({each['lost_ns'] / 1e9:.2f} s of work), "
            f"stepping again after {each['to_next_step_ns'] / 1e9:.2f} s{same}"
        )
    return found


def gib_fine(size: int | None) -> str:
    """Bytes for a person, small ones too."""
    if size is None:
        return "?"
    return gib(size) if size >= 10 << 20 else f"{size / 1024:,.1f} KiB"


def plain(text: str) -> str:
    """No markup, no control characters."""
    return one_line(str(text)).replace("[", "\\[")
