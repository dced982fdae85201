"""One training run from flags to verdict: check, prepare, start torchrun, follow, summarise, print."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NamedTuple

import msgspec

from bytemlperf.child.limits import usable_cores
from bytemlperf.child.process import stop
from bytemlperf.command.console import print_table, terminal
from bytemlperf.command.signals import Interrupted, leave_lost_terminal, stopping, terminate_like_interrupt
from bytemlperf.errors import UserError
from bytemlperf.export.push import receivers_for
from bytemlperf.extras import require
from bytemlperf.hardware import cards
from bytemlperf.hardware.machine import nvidia_gpus
from bytemlperf.report.dashboard import live
from bytemlperf.report.terminal import publish
from bytemlperf.runs.files import writing
from bytemlperf.runs.kinds import Table
from bytemlperf.runs.suite import SuiteRun
from training.command.reference import earlier_run, find_reference, keep_reference, micro_collectives
from training.plan.flags import Flags, Output
from training.plan.layout import Layout, TrainerName
from training.plan.memory import ESTIMATE_BAND, Estimate, check_memory, estimate, gib
from training.plan.plan import PACKAGES, PLAN_NAME, Plan, check_flags, make_plan, resolve_workload
from training.results.checks import REFERENCE_STEPS
from training.results.records import STOP_FILE, EarlierRun, MicroPoint
from training.watch.follow import KILL_PATIENCE_S, Follower, start
from training.watch.live import TrainingMetrics, TrainingView
from training.workload import workload as workloads
from training.workload.choices import Sharding
from training.workload.corpus import prepare_corpus, resolve_tokenizer
from training.workload.flops import forward_formula, parameters
from training.workload.workload import Workload, vocabulary


class Device(NamedTuple):
    """What the ranks run on; of a GPU its name and memory."""

    kind: Literal["cpu", "cuda"]
    name: str = ""
    memory_bytes: int | None = None


class Prepared(NamedTuple):
    """A checked run that hasn't begun."""

    flags: Flags
    workload: Workload
    layout: Layout
    device: Device
    needed: Estimate
    micro: list[MicroPoint]
    rerun_of: EarlierRun | None = None


def needed_memory(
    workload: Workload, layout: Layout, trainer: TrainerName, sharding: Sharding, device: Device, ranks_here: int, *, check: bool
) -> Estimate:
    """What a rank will need. Raises UserError where it is checked and can't fit."""
    needed = estimate(workload, layout, trainer, sharding, vocabulary(resolve_tokenizer(workload.data.tokenizer)), device.kind)
    if check:
        check_memory(needed, ranks_here, device.kind, device.memory_bytes)
    return needed


def prepare(flags: Flags) -> Prepared:
    """Check everything that can be checked. Raises UserError."""
    workload = resolve_workload(flags)
    layout = check_flags(flags, workload)
    device = choose_device(flags.device, flags.nproc)
    check_packages(flags.trainer, workload)
    if flags.resume_from is not None:
        from training.rank.checkpoint import examine

        examine(flags.resume_from)
    needed = needed_memory(workload, layout, flags.trainer, flags.sharding, device, flags.nproc, check=not flags.skip_memory_check)
    micro = [] if flags.micro_run is None else micro_collectives(flags.micro_run)
    earlier = None if flags.rerun_of is None else earlier_run(flags.rerun_of, flags, workload, layout)
    return Prepared(flags, workload, layout, device, needed, micro, earlier)


def train(flags: Flags, argv: list[str]) -> tuple[Path, dict[str, Any]]:
    """Run; the folder and the summary. Raises UserError for bad input, Interrupted at the second signal."""
    if flags.nnodes > 1:
        raise UserError(f"{flags.nnodes} machines need a rendezvous", "add --prepare, then start torchrun on each: see docs/training.md")
    receivers_for(flags, "training")  # an address that can't be used is said before anything is measured
    run, plan = begin(prepare(flags), argv)
    return train_to_end(run, plan, flags)


def train_to_end(run: SuiteRun, plan: Plan, output: Output) -> tuple[Path, dict[str, Any]]:
    """A run that has begun, or goes on; the folder and the summary. Raises Interrupted at the second signal."""
    metrics = TrainingMetrics()
    with run, live(metrics.exporter, output, quiet=output.quiet) as begun:
        begun(run.folder)
        failure, stopped = _watch(plan, run, metrics, quiet=output.quiet)
        if failure:
            run.fail(failure)
        summary = run.end(stopped=stopped)
    return run.folder, summary


def begin(prepared: Prepared, argv: list[str]) -> tuple[SuiteRun, Plan]:
    """The run folder with its plan. Raises UserError."""
    flags, workload = prepared.flags, prepared.workload
    tokens = None if workload.family == "resnet" else prepare_corpus(workload.data)
    layout = prepared.layout
    label = flags.label or f"{workload.name}-{flags.trainer}-dp{layout.dp}tp{layout.tp}pp{layout.pp}"
    draft = _with_peak(make_plan(flags, workload, layout, tokens, flags.runs_dir, prepared.device.kind), prepared.device)
    described = msgspec.to_builtins(draft)
    described.pop("folder")
    beside = {
        "memory_estimate": {**msgspec.to_builtins(prepared.needed), "total_bytes": prepared.needed.total_bytes},
        "reference": msgspec.to_builtins(find_reference(flags.reference, workload, tokens, draft.trainer, flags.seed, layout)),
        "rerun_of": msgspec.to_builtins(prepared.rerun_of),
        "micro_collectives": msgspec.to_builtins(prepared.micro),
        "cores": usable_cores(),
        "load_before": round(os.getloadavg()[0], 2),
    }
    run = SuiteRun.begin(
        flags.runs_dir,
        "training",
        label,
        described,
        command=argv,
        seed=flags.seed,
        packages=PACKAGES,
        more={"trainer": flags.trainer, "beside": beside},
    )
    plan = msgspec.structs.replace(draft, folder=str(run.folder.absolute()))
    write_plan(plan)
    return run, plan


def write_plan(plan: Plan) -> None:
    """What the ranks read, into the run folder. Raises UserError."""
    path = Path(plan.folder, PLAN_NAME)
    with writing(path, "give a folder with enough space with --runs-dir"):
        path.write_bytes(msgspec.json.format(msgspec.json.encode(plan)))


def _watch(plan: Plan, run: SuiteRun, metrics: TrainingMetrics, *, quiet: bool) -> tuple[str, bool]:
    """Start, follow to the end; a sentence when it failed, and whether the user stopped it."""
    agent = start(plan)
    try:
        with TrainingView(plan, quiet=quiet) as view, _stopping(run.folder, view) as signals:
            failure = Follower(plan, run, agent, [metrics.hear, view.hear]).follow(lambda: len(signals) > 1)
    finally:
        stop(agent, KILL_PATIENCE_S)
    if len(signals) > 1:
        raise Interrupted(signals[-1], f"resume with: bmp train resume {run.folder}")
    return failure, bool(signals)


@contextmanager
def _stopping(folder: Path, view: TrainingView) -> Iterator[list[int]]:
    """The first signal lets the ranks end after the step that they are in, the second ends them."""
    received: list[int] = []

    def hear(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        if number == signal.SIGHUP:
            leave_lost_terminal()
        if len(received) == 1:
            (folder / STOP_FILE).touch()
            view.note("stopping after this step; once more to end at once")

    before = {number: signal.signal(number, hear) for number in stopping()}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        (folder / STOP_FILE).unlink(missing_ok=True)
        terminate_like_interrupt()


def _with_peak(plan: Plan, device: Device) -> Plan:
    """The peak that MFU is of: the user's, else the spec card's of a known GPU, else none: the ranks measure one."""
    if plan.peak_tflops is not None:
        return msgspec.structs.replace(plan, peak_source="given with --peak-tflops")

    card = cards.match_name(device.name)
    precision = str(plan.workload["training"]["precision"])
    peak = cards.peak_flops(card, precision) if card else None
    if card is None or peak is None:
        return plan
    return msgspec.structs.replace(plan, peak_tflops=peak / 1e12, peak_source=f"dense {precision} of the spec card {card.name}")


def choose_device(wish: str, ranks_here: int) -> Device:
    """What the ranks will run on. Raises UserError."""
    gpus = [] if wish == "cpu" else nvidia_gpus()
    if not gpus:
        if wish == "cuda":
            raise UserError("no CUDA device found", "use --device cpu, or check: nvidia-smi")
        return Device("cpu")
    if len(gpus) < ranks_here:
        raise UserError(f"{ranks_here} ranks, but {len(gpus)} CUDA devices", f"give --nproc {len(gpus)} or --device cpu")
    sizes = [float(gpu["memory.total"].split()[0]) * (1 << 20) for gpu in gpus if gpu["memory.total"].split()[0].isdigit()]
    return Device("cuda", gpus[0]["name"], int(min(sizes)) if sizes else None)


def check_packages(trainer: str, workload: Workload) -> None:
    needed = {"torch": "train", "transformers": "train", "numpy": "train"}
    if trainer == "megatron":
        needed = {"torch": "megatron", "megatron": "megatron", "numpy": "train"}
    if workload.family == "resnet":
        needed["sklearn"] = "train"
    for extra in dict.fromkeys(needed.values()):
        require("bmp train", extra, *(name for name, brought_by in needed.items() if brought_by == extra))


def run_train(flags: Flags, argv: list[str]) -> int:
    """`bmp train WORKLOAD`."""
    return publish(*train(flags, argv), flags)


def run_dry(flags: Flags) -> int:
    """`--dry-run`: what would be done, and how much memory a rank would need."""
    prepared = prepare(flags)
    layout, needed = prepared.layout, prepared.needed
    console = terminal()
    console.print(
        f"{prepared.workload.name} · {flags.trainer} · {flags.sharding} · {layout.world} rank{'s' * (layout.world > 1)} on "
        f"{prepared.device.kind}",
    )
    console.print(f"dp {layout.dp}, tp {layout.tp}, pp {layout.pp}, ep {layout.ep}; {forward_formula(prepared.workload)}")
    for name, size in msgspec.to_builtins(needed).items():
        console.print(f"  {name.removesuffix('_bytes'):<12} {gib(size):>10}")
    console.print(f"  {'a rank':<12} {gib(needed.total_bytes):>10} (± {ESTIMATE_BAND:.0%})")
    return 0


def run_reference(flags: Flags, out: Path | None, argv: list[str]) -> int:
    """`bmp train reference`: train the reference's steps, keep their losses, and print the file; an invalid run is published
    instead. Raises UserError."""
    path = out or Path(f"{Path(flags.workload).stem}-{flags.trainer}-seed{flags.seed}.json")
    if path.exists():
        raise UserError(f"{path} is there already", "name another file with --out, or move it away")
    folder, summary = train(flags.changed(nproc=1, threads=1, deterministic=True, steps=REFERENCE_STEPS), argv)
    if summary["verdict"] == "invalid":
        return publish(folder, summary, flags)
    keep_reference(folder, path)
    print(path)
    return 0


def print_workloads() -> None:
    """A table."""
    rows = [
        (workload.name, _size(workload), workload.training.global_batch, workload.description)
        for workload in map(workloads.load, workloads.names())
    ]
    print_table(terminal(), Table(title="", columns=("workload", "parameters", "batch", "description"), rows=rows))


def _size(workload: Workload) -> str:
    if workload.family == "resnet":
        return "–"
    return f"{parameters(workload, vocabulary(workload.data.tokenizer)) / 1e6:,.1f} M"
