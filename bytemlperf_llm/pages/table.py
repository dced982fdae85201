"""The final table: what a person reads at a glance, in a terminal or a file."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bytemlperf.command.console import first_that_fits
from bytemlperf.command.exits import markup_of
from bytemlperf.hardware.measured import device_text
from bytemlperf.runs.verdicts import COLOURS
from bytemlperf_llm.metrics.client_error import sentence
from bytemlperf_llm.metrics.load import Load
from bytemlperf_llm.metrics.outages import Outage
from bytemlperf_llm.metrics.summary import Summary
from bytemlperf_llm.run.rebuild import load_sentence

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

NS_PER_MS = 1e6
NS_PER_S = 1e9
WIDE_COLUMNS = 118
LEFT_OUT = ((), ("95",), ("95", "99.9"), ("90", "95", "99.9"))
"""Percentiles that a terminal does without, the wider ones first."""
SHOWN = ("ttft", "service_ttft", "tpot", "itl", "e2e", "service_e2e", "schedule_lateness")
WITH_FAILURES = ("ttft", "e2e")
TITLES = {
    "ttft": "TTFT",
    "service_ttft": "TTFT from sent",
    "tpot": "TPOT",
    "itl": "ITL",
    "e2e": "E2E",
    "service_e2e": "E2E from sent",
    "schedule_lateness": "send delay",
}
ENOUGH_REQUESTS = {"99": 459, "99.9": 4603}
"""The fewest requests whose order statistics carry a percentile at 99 % confidence: log(0.01) / log(p)."""


def print_summary(console: Console, summary: Summary, run: dict[str, Any], folder: Path) -> None:
    """Everything, ending in the verdict and the next command to try."""
    _print_head(console, run)
    console.print(latency_table(summary, console.width))
    console.print(throughput_table(summary, console.width))
    console.print(f"[dim]steady state:[/] {markup_of(summary.steady_state.note)}", highlight=False)
    if summary.client_error is not None:
        console.print(f"[dim]client measurement error:[/] {markup_of(sentence(summary.client_error))}", highlight=False)
    for text in _remarks(summary, run):
        console.print(f"[yellow]![/] {markup_of(text)}")
    word = summary.verdict.upper()
    console.print(f"[bold {COLOURS[summary.verdict]}]{word}[/]" + "".join(f"\n  [bold]because[/] {markup_of(r)}" for r in summary.reasons))
    console.print(f"[dim]next:[/] {_next_command(summary, run, folder)}", soft_wrap=True)


def _print_head(console: Console, run: dict[str, Any]) -> None:
    engine = run.get("engine", {})
    versions = " ".join(f"{name} {version}" for name, version in engine.get("versions", {}).items() if name != engine.get("name"))
    model = " ".join(part for part in (engine.get("model"), engine.get("dtype")) if part and part != "none")
    parts = [versions, model, device_text(run, engine)]
    console.print()
    console.print(f"[bold]{markup_of(str(engine.get('name')))}[/]" + "".join(f" · {markup_of(part)}" for part in parts if part))
    scenario = markup_of(run["config"]["scenario"]["name"])
    if load := load_sentence(run):
        console.print(f"[bold]load[/] {markup_of(load)}", highlight=False)
    console.print(f"[dim]scenario {scenario}, seed {run['seed']}, schedule {run['schedule_sha256'][:12]}[/]")


def latency_table(summary: Summary, width: int = WIDE_COLUMNS) -> Table:
    """Percentiles in ms with their 95 % intervals, then those with failures as infinite where there are any. A narrow terminal
    gets fewer percentiles, at last without intervals, and never cut figures."""
    known = next((list(summary.metrics[name].percentiles) for name in SHOWN if name in summary.metrics), [])
    choices = [[percent for percent in known if percent not in left_out] for left_out in LEFT_OUT]
    fitting = first_that_fits((_latency_table(summary, percents, intervals=True) for percents in choices), width)
    return fitting or _latency_table(summary, choices[-1], intervals=False)


def _latency_table(summary: Summary, percents: list[str], intervals: bool) -> Table:
    from rich import box
    from rich.table import Table

    shown = [name for name in SHOWN if name in summary.metrics]
    unanswered = sum(summary.outcomes[name] for name in ("failed", "cancelled", "in_flight"))
    below = "; 95 % interval below each figure" if intervals else ""
    title = f"latency, ms  [dim](percentiles by nearest rank{below})[/]"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    table.add_column("", style="bold", no_wrap=True)
    table.add_column("mean", justify="right", no_wrap=True)
    for percent in percents:
        table.add_column(f"p{percent}", justify="right", no_wrap=True)
    table.add_column("n", justify="right", style="dim", no_wrap=True)
    for name in shown:
        metric = summary.metrics[name]
        bounds = metric.ci95 if intervals else {}
        cells = [_cell(metric.mean, bounds.get("mean"))]
        cells += [_cell(metric.percentiles[percent], bounds.get(percent)) for percent in percents]
        table.add_row(TITLES[name], *cells, f"{metric.count:,}")
        if name in WITH_FAILURES and metric.percentiles_with_failures is not None and unanswered:
            infinite = [_cell(metric.percentiles_with_failures[percent], None) for percent in percents]
            table.add_row(f"{TITLES[name]}, failures as ∞", "", *infinite, f"{metric.count + unanswered:,}")
    return table


def _cell(value: Any, interval: Any) -> str:
    if value == "insufficient":
        return "[dim]insufficient[/]"
    if value == "inf":
        return "∞"
    below = "" if isinstance(interval, str) or interval is None else f"\n[dim]{_ms(interval[0])} – {_ms(interval[1])}[/]"
    return f"{_ms(value)}{below}"


def _ms(value_ns: Any) -> str:
    if isinstance(value_ns, str):
        return "∞" if value_ns == "inf" else value_ns
    value_ms = value_ns / NS_PER_MS
    digits = 3 if abs(value_ms) < 1 else 2 if abs(value_ms) < 100 else 1 if abs(value_ms) < 10_000 else 0
    return f"{value_ms:,.{digits}f}"


def throughput_table(summary: Summary, width: int = WIDE_COLUMNS) -> Table:
    """Rates, outcomes, load and client: two columns of label and value, one in a narrow terminal."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    left, right = _rate_rows(summary), _load_rows(summary)
    if width < WIDE_COLUMNS:
        left, right = left + right, []
    for _ in range(2 if right else 1):
        table.add_column(style="bold", no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
    for row in range(max(len(left), len(right))):
        pair = (left[row] if row < len(left) else ("", ""), right[row] if row < len(right) else ("", ""))
        table.add_row(*pair[0], *(pair[1] if right else ()))
    return table


def _rate_rows(summary: Summary) -> list[tuple[str, str]]:
    rows = [(name.replace("_", " "), f"{_number(rate.value)} {rate.unit}") for name, rate in summary.rates.items()]
    if summary.goodput is not None:
        good = summary.goodput
        share = "–" if good.share is None else f"{good.share:.1%}"
        slo = " ".join(f"{name}≤{value:g}" for name, value in _slo(good.slo_ms) if value is not None)
        rows.append((f"goodput ({slo} ms)", f"{_number(good.requests_per_s.value)} {good.requests_per_s.unit}, {share}"))
    return rows


def _slo(slo: Any) -> list[tuple[str, float | None]]:
    return [("ttft", slo.ttft), ("tpot", slo.tpot), ("e2e", slo.e2e)]


def _load_rows(summary: Summary) -> list[tuple[str, str]]:
    load = summary.load
    outcomes = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in summary.outcomes.items() if count)
    rows = [("requests", f"{summary.scheduled:,}: {outcomes}")]
    if load.requested_rate is not None:
        rows.append(("rate target / actual", f"{_number(load.requested_rate)} / {_number(load.offered_rate)} req/s"))
    rows += _arrival_rows(load)
    if load.loop_utilisation is not None:
        rows.append(("client loop busy", f"{load.loop_utilisation:.1%}"))
    tokens = summary.tokens
    rows.append(
        ("tokens in / out", f"{'–' if tokens.prompt_tokens is None else format(tokens.prompt_tokens, ',')} / {tokens.output_tokens:,}")
    )
    if tokens.recount is not None:
        counts = tokens.recount
        usage = f"{counts.usage_tokens:,}" if counts.usage_disagreement is not None else "–"
        rows.append((f"usage / recount / chunks of {counts.answers:,}", f"{usage} / {counts.recounted_tokens:,} / {counts.chunks:,}"))
    for name, failure in summary.failures.items():
        rows.append((f"failed: {name}", f"{failure.count:,}"))
    return rows


def _arrival_rows(load: Load) -> list[tuple[str, str]]:
    rows = []
    if load.count_dispersion is not None and load.expected_dispersion is not None:
        rows.append(("dispersion expected / observed", f"{load.expected_dispersion:.2f} / {load.count_dispersion:.2f}"))
    test = load.arrival_test
    if test is not None and test.p_value is None:
        rows.append(("arrival gaps off target", f"{test.distance:.1%}"))
    elif test is not None:
        rows.append(("arrivals, Kolmogorov-Smirnov", f"D {test.distance:.3f}, p {test.p_value:.2g}"))
    late = load.lateness
    if late is not None:
        p50, p99 = (_late_ms(value) for value in (late.p50, late.p99))
        rows.append(("client delay p50 / p99 / max", f"{p50} / {p99} / {_ms(late.max)} ms"))
    return rows


def _late_ms(value: Any) -> str:
    return "–" if value == "insufficient" else _ms(value)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" if value >= 1 else f"{value:.3f}"


def _remarks(summary: Summary, run: dict[str, Any]) -> list[str]:
    notes = [note for note in run.get("engine", {}).get("notes", []) if "random weights" in note]
    examples = [f"{name}: {detail}" for name, failure in summary.failures.items() for detail in failure.details[:1]]
    return [*notes, *(_outage(outage) for outage in summary.outages), *summary.warnings, *examples]


def _outage(outage: Outage) -> str:
    began, lost = f"outage from {outage.began_ns / NS_PER_S:.1f} s", f"{outage.failed_requests:,} requests lost"
    if outage.recovery_ns is None:
        return f"{began} to the end, {lost}"
    return f"{began}: recovered after {outage.recovery_ns / NS_PER_S:.1f} s, {lost}"


def _next_command(summary: Summary, run: dict[str, Any], folder: Path) -> str:
    """One thing worth trying, by what the run showed: its own command with something more."""
    if summary.verdict in ("invalid", "failing"):
        return _after_invalid(summary, run, folder)
    command = [str(word) for word in run.get("command") or ["bmp-llm", "serve-bench"]]
    if summary.verdict == "overloaded":
        return _command([*_without(command, "--request-rate"), "--request-rate", "auto"], "70 % of the server's capacity")
    rate = run["config"]["scenario"]["arrival"]["rate"]
    claims = summary.metrics[SHOWN[0]].percentiles if SHOWN[0] in summary.metrics else {}
    missing = [(percent, requests) for percent, requests in ENOUGH_REQUESTS.items() if claims.get(percent) == "insufficient"]
    if missing and rate:
        percent, requests = missing[0]
        longer = _without(command, "--request-rate", "--num-prompts", "--duration")
        return _command([*longer, "--request-rate", f"{rate:g}", "--num-prompts", str(requests)], f"enough for a p{percent}")
    if "--prometheus-port" in command:
        return _command(["bmp-llm", "verify", str(folder)], "unchanged since the run?")
    return _command([*command, "--prometheus-port", "9400"], "watch it live")


def _after_invalid(summary: Summary, run: dict[str, Any], folder: Path) -> str:
    end = run.get("end") or {}
    if summary.outcomes["dropped"] and (not end or end.get("stopped_by_user") or end.get("failure")):
        return _command(["bmp-llm", "resume", str(folder)], "send the rest")
    if summary.verdict == "failing":
        return _command(["bmp-llm", "doctor"], "check the installation, and read the server's own log")
    if summary.outcomes["ok"]:
        return _command(["bmp-llm", "doctor", "--calibrate"], "what this client can carry on this machine")
    return _command(["bmp-llm", "doctor"], "check the installation")


def _without(command: list[str], *flags: str) -> list[str]:
    """The command without these flags and their values."""
    kept: list[str] = []
    words = iter(command)
    for word in words:
        if word in flags:
            next(words, None)
        elif word.partition("=")[0] not in flags:
            kept.append(word)
    return kept


def _command(words: list[str], why: str) -> str:
    return f"{markup_of(shlex.join(words))}   [dim]# {why}[/]"
