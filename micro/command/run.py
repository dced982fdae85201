"""What the commands of `bmp micro` do with their cases: settings, peaks, a run folder, the sweep, the table, exports; and what there is.

Everything is checked before anything is measured.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.child.limits import available_memory_bytes
from bytemlperf.command.console import print_table, terminal
from bytemlperf.command.flags import RunOutput, parse_bytes
from bytemlperf.command.signals import Interrupted, interrupt_status
from bytemlperf.errors import UserError
from bytemlperf.export.push import receivers_for
from bytemlperf.extras import require
from bytemlperf.hardware import cards
from bytemlperf.hardware.card import Card
from bytemlperf.hardware.machine import discover
from bytemlperf.hardware.peaks import Roof, roofs_of
from bytemlperf.lazy import torch
from bytemlperf.report.dashboard import live
from bytemlperf.report.terminal import publish
from bytemlperf.runs.files import DAMAGED, damage_said, why
from bytemlperf.runs.kinds import Table
from bytemlperf.runs.records import once
from bytemlperf.runs.suite import SuiteRun
from micro.cases.case import Case
from micro.command.flags import Flags
from micro.command.live import MicroMetrics, SweepView
from micro.measure.timing import Rules
from micro.operators.contract import DTYPES, REQUIRED, Argument
from micro.peaks.machine import GPU_CACHE_BYTES, MEMORY_SHARE, default_threads, last_level_cache_bytes
from micro.peaks.peaks import PeakSource, needed_by
from micro.providers.registry import find_provider, provider_names
from micro.registry import FAMILIES
from micro.results.exports import NAME, WRITERS
from micro.sweep.row import Row, last_rows
from micro.sweep.sweep import ASKED, BUDGET_SPENT, Settings, Sweep

SAMPLING_SHARE = 0.25
"""Of --time-limit, at most: the rest is for set-up, the check and warm-up."""

MEASURE_S = 2.0


def settings_of(flags: Flags) -> Settings:
    """Raises UserError for a device that isn't there, or a size that is none."""
    device = device_of(flags.device)
    threads, threads_from = (flags.threads, ASKED) if flags.threads is not None else default_threads()
    cache = 0 if flags.hot else (last_level_cache_bytes(threads) if device == "cpu" else GPU_CACHE_BYTES)
    budget_s = min(MEASURE_S if flags.seconds is None else flags.seconds, flags.time_limit_s * SAMPLING_SHARE)
    return Settings(
        device=device,
        threads=threads,
        threads_from=threads_from,
        seed=flags.seed,
        rules=Rules(budget_s=budget_s, warm_up_s=max(min(0.2, budget_s), budget_s / 2), precision=flags.ci_width),
        cache_bytes=cache,
        budget_s=flags.budget_s,
        max_case_s=flags.time_limit_s,
        max_memory_bytes=memory_limit(flags.memory_limit, device),
    )


def device_of(text: str) -> str:
    """ "cuda" is cuda:0. Raises UserError for a device that isn't there, or where torch isn't."""
    require("measuring operators", "micro", "torch", "numpy")
    device = "cuda:0" if text == "cuda" else text
    if device == "cpu":
        return device
    if not re.fullmatch(r"cuda:\d+", device):
        raise UserError(f"there is no device '{text}'", "give cpu, cuda or cuda:N")
    count = torch.cuda.device_count()
    if int(device.partition(":")[2]) >= count:
        raise UserError(f"there is no device {device}: torch sees {count} GPUs", "give --device cpu")
    return device


def memory_limit(text: str | None, device: str) -> int | None:
    """What was asked for, else a share of what is free now; None where that can't be told."""
    if text is not None:
        return parse_bytes("--memory-limit", text)
    available = available_memory_bytes() if device == "cpu" else torch.cuda.mem_get_info(device)[0]
    return None if available is None else int(available * MEMORY_SHARE)


EXIT_FAILED_ROWS = 1


def run_cases(cases: list[Case], flags: Flags, label: str, command: list[str]) -> int:
    """A new run folder with a row for each case; 1 where one failed. Raises Interrupted after the first signal."""
    settings = settings_of(flags)
    sheet = _sheet(flags.card, settings.device)
    receivers_for(flags, label)  # an address that can't be used is said before anything is measured
    metrics = MicroMetrics()
    with live(metrics.exporter, flags, quiet=flags.quiet) as begun, SweepView(quiet=flags.quiet) as view:
        source = None if flags.peaks == "off" else PeakSource(settings, fresh=flags.peaks == "fresh", says=view.update)
        config = {"cases": msgspec.to_builtins(cases), "settings": msgspec.to_builtins(settings)}
        packages = {package for case in cases for package in find_provider(case.provider).packages}
        more = {"peaks": msgspec.to_builtins(source.peaks) if source else None, "sheet": msgspec.to_builtins(sheet) if sheet else None}
        run = SuiteRun.begin(
            flags.runs_dir,
            "micro",
            label,
            config,
            command=command,
            seed=flags.seed,
            packages=sorted({"torch", *packages}),
            more={**more, "exports": [name for name in ("csv", "jsonl") if getattr(flags, name)]},
        )
        begun(run.folder)
        return _sweep(run, cases, settings, view, metrics, flags, source)


def resume_run(folder: Path, flags: Flags, command: list[str]) -> int:
    """Cases without a row, and those that a budget left out, into the same folder."""
    require("measuring operators", "micro", "torch", "numpy")
    run = SuiteRun.open(folder, "micro")
    cases, settings = _planned(run.run)
    run.go_on(command=command)
    settings = msgspec.structs.replace(settings, budget_s=flags.budget_s)
    done = {row.key for row in run.records() if not row.reason.startswith(BUDGET_SPENT)}
    left = [case for case in cases if case.key not in done]
    try:
        metrics = MicroMetrics()
        with live(metrics.exporter, flags, quiet=flags.quiet) as begun, SweepView(quiet=flags.quiet) as view:
            begun(folder)
            source = PeakSource(settings, says=view.update) if run.run.get("peaks") else None
            return _sweep(run, left, settings, view, metrics, flags, source)
    finally:
        run.end()


def _planned(run: dict[str, Any]) -> tuple[list[Case], Settings]:
    """The cases of a run and how they are measured. Raises UserError."""
    try:
        roofs_of(run)
        return msgspec.convert(run["config"]["cases"], list[Case]), msgspec.convert(run["config"]["settings"], Settings)
    except DAMAGED as error:
        raise UserError(f"this run can't be resumed: {why(error)}", "start a new run") from None


def _sweep(
    run: SuiteRun,
    cases: list[Case],
    settings: Settings,
    view: SweepView,
    metrics: MicroMetrics,
    output: RunOutput,
    source: PeakSource | None,
) -> int:
    metrics.plan(len(cases), source.peaks if source else None)
    interrupted = False

    def keep(row: Row) -> None:
        run.append(row)
        metrics.add(row)
        view.add(row)

    def roofs(case: Case, row: Row | None) -> dict[str, Roof]:
        """The data sheet's, and the peaks that are measured as cases come to need them, which run.json then has."""
        if source is not None:
            needed = needed_by(case)
            if source.need(needed) if row is None else source.refine(needed):
                run.run["peaks"] = msgspec.to_builtins(source.peaks)
                metrics.plan(len(cases), source.peaks)
        return roofs_of(run.run)

    sweep = Sweep(settings, keep, begins=view.begins, roofs=roofs)
    with run:
        try:
            view.begin(len(cases))
            sweep.run(cases)
        except KeyboardInterrupt:  # the case under way is ended; every row so far is kept
            interrupted = True
        finally:
            if source is not None:
                source.close()
            runners = {name: msgspec.to_builtins(hello) for name, hello in sweep.hellos.items()}
            summary = run.end(stopped=interrupted, runners=runners)
    view.__exit__()
    with damage_said(run.folder):
        for ending in run.run.get("exports") or ():
            WRITERS[f".{ending}"](run.folder / f"{NAME}.{ending}", run.run, once(run.records(), last_rows))
        status = publish(run.folder, summary, output, run=run.run, records=run.records())
    if interrupted:
        raise Interrupted(interrupt_status() - 128, f"resume with: bmp micro resume {run.folder}")
    return EXIT_FAILED_ROWS if summary["counts"]["failed"] else status


def sheet_roof(card: Card) -> Roof:
    """A spec card's peaks, dense. A link's bandwidth is taken one way;
    where the card doesn't say which way it counts, it is left out."""
    flops = {dtype: peak for dtype in DTYPES if (peak := cards.peak_flops(card, dtype)) is not None}
    ways = {"one way": 1.0, "both ways": 0.5}
    links = [link.gbytes_per_s * ways[link.direction] * cards.GIGA for link in card.links if link.direction in ways]
    return Roof(
        flops_per_s=flops,
        bytes_per_s=cards.memory_bandwidth(card),
        link_bytes_per_s=max(links, default=None),
        source=f"{card.name}, per {card.per}",
    )


def _sheet(name: str | None, device: str) -> Roof | None:
    """The named card's peaks, else those of the card that is surely this device's. Raises UserError for an unknown name."""
    if name is not None:
        return sheet_roof(cards.find(name))
    hardware = discover()
    if device == "cpu":
        hardware = {"cpu": hardware["cpu"]}
    card = cards.match(hardware)
    return sheet_roof(card) if card else None


def print_lists() -> None:
    """Operators by family with their arguments and defaults, and providers."""
    console = terminal()
    operators = [
        (operator.name, family, operator.help, " ".join(map(_argument, operator.arguments)))
        for family, members in FAMILIES.items()
        for operator in members
    ]
    print_table(console, Table(title="Operators", columns=("operator", "family", "what", "arguments (=default)"), rows=operators))
    providers = [(name, find_provider(name).help) for name in provider_names()]
    print_table(console, Table(title="Providers", columns=("provider", "what"), rows=providers))


def _argument(argument: Argument) -> str:
    return argument.name if argument.default is REQUIRED else f"{argument.name}={argument.default}"
