"""What `bmp-llm doctor --calibrate` prints: the ladder, the timer, and how far figures can be believed here."""

from __future__ import annotations

import sys

from bytemlperf.command.console import print_sections, terminal
from bytemlperf.runs.kinds import Section, Table, Text
from bytemlperf.units import NS_PER_MS, NS_PER_US
from bytemlperf_llm.calibration.cache import keep
from bytemlperf_llm.calibration.ladder import run_calibration
from bytemlperf_llm.metrics.client_error import (
    COMMAND,
    MAX_LOOP_BUSY,
    MAX_OTHERS_BUSY,
    MEDIAN_LIMIT_NS,
    P99_LIMIT_NS,
    P99_LIMIT_SHARE,
    Calibration,
    CalibrationStep,
    Spread,
    ceiling,
    holds,
    in_time,
    others_busy,
)

ERRORS = ("ttft", "tpot", "itl", "e2e", "lateness", "server_write")
TITLES = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL [1]", "e2e": "E2E", "lateness": "send delay", "server_write": "server delay [2]"}
LADDER_ENDS = "; the load steps end there, the machine may carry more"
BEYOND = {
    "server": "; above it the reference server was the limit, not the worker",
    "machine": "; above it other processes were using the cores: try again on a quiet machine",
}
FOOTNOTES = (
    "[1] against the target gap, so it includes the server's own jitter",
    "[2] the server's writes against its own schedule; errors are measured against its writes, so this is in ITL's only",
)


def run_calibrate() -> int:
    """Measure the client's own error on this machine, keep and print it. Raises UserError when it can't."""
    calibration = run_calibration(lambda text: print(f"calibrating: {text}", file=sys.stderr, flush=True))
    path = keep(calibration)
    print_sections(terminal(), calibration_sections(calibration))
    print(f"kept in {path}; every run on this machine now reports its client measurement error")
    return 0


def calibration_sections(calibration: Calibration) -> list[Section]:
    """Everything, ending in the ceiling."""
    others = [Text(body=others_sentence(calibration), style="warning")] if others_busy(calibration) > MAX_OTHERS_BUSY else []
    sentences = [Text(body=sentence(calibration)) for sentence in (timer_sentence, ceiling_sentence)]
    return [calibration_table(calibration), *sentences, *others]


def calibration_table(calibration: Calibration) -> Table:
    """A row a step; errors as p50 / p99 / max in ms."""
    ttft, itl = calibration.ttft_ns / NS_PER_MS, calibration.itl_ns / NS_PER_MS
    title = f"client stamp − server stamp, ms: p50, p99, max  (TTFT {ttft:g} ms, ITL {itl:g} ms, {calibration.tokens} tokens)"
    rows = [
        [
            *(f"{value:,.0f}" for value in (step.rate_offered, step.chunks_per_s, step.streams)),
            *(f"{busy:.0%}" for busy in (step.loop_busy, step.server_busy)),
            *(_cell(getattr(step, name)) for name in ERRORS),
            _state(step, calibration),
        ]
        for step in calibration.steps
    ]
    columns = ["req/s", "chunks/s", "streams", "loop", "server", *(TITLES[name] for name in ERRORS), ""]
    return Table(title=title, columns=columns, rows=rows, note="\n".join(FOOTNOTES))


def _cell(error: Spread) -> str:
    return "\n".join(_ms(value) for value in (error.p50_ns, error.p99_ns, error.max_ns)) if error.count else "–"


def _ms(value_ns: int) -> str:
    value_ms = value_ns / NS_PER_MS
    return f"{value_ms:.3f}" if value_ms < 10 else f"{value_ms:.1f}"


def _state(step: CalibrationStep, calibration: Calibration) -> str:
    if holds(step, calibration):
        return "holds"
    if step.saturated:
        return f"{step.saturated} full"
    if step.unmatched:
        return f"{step.unmatched} lost"
    if not in_time(step, calibration):
        return "late sends"
    return "loop busy" if step.loop_busy > MAX_LOOP_BUSY else "too far off"


def timer_sentence(calibration: Calibration) -> str:
    timer = calibration.timer
    late = timer.overshoot
    return (
        f"clock: resolution {timer.resolution_ns} ns, {timer.tick_ns} ns between two stamps; "
        f"timer wakes late by {late.p50_ns / NS_PER_US:,.0f} µs (p99 {late.p99_ns / NS_PER_US:,.0f}, max {late.max_ns / NS_PER_US:,.0f})"
    )


def ceiling_sentence(calibration: Calibration) -> str:
    """How far one worker's figures hold on this machine, and what was in the way of more: not always the worker."""
    limits = (
        f"median error ≤ {MEDIAN_LIMIT_NS / NS_PER_MS:g} ms, p99 ≤ {P99_LIMIT_NS / NS_PER_MS:g} ms or {P99_LIMIT_SHARE:.0%}, "
        f"loop ≤ {MAX_LOOP_BUSY:.0%} busy"
    )
    top = ceiling(calibration)
    if top is None:
        return f"ceiling: even the lowest load step did not hold ({limits})"
    beyond = next((step for step in calibration.steps if step.rate_asked > top.rate_asked and not holds(step, calibration)), None)
    further = LADDER_ENDS if beyond is None else BEYOND.get(beyond.saturated, "")
    name = "ceiling of one worker here" if beyond is not None and not further else "one worker here carries at least"
    return f"{name}: {top.tokens_per_s:,.0f} tokens/s in {top.chunks_per_s:,.0f} chunks/s, {top.streams:,.0f} streams ({limits}){further}"


def others_sentence(calibration: Calibration) -> str:
    """When the machine was not the client's and the server's alone."""
    return (
        f"other processes used up to {others_busy(calibration):.0%} of this machine meanwhile, and the errors include their effect: "
        f"run `{COMMAND}` again on a quiet machine"
    )
