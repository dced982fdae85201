"""A run's plan: everything a rank must know, resolved and checked, in one JSON file beside the records.

`make_plan` takes the flags; nothing starts before it has agreed. The file is what torchrun's workers
get, on this machine or on many.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from bytemlperf.checked import check
from bytemlperf.child.limits import threads_for
from bytemlperf.errors import UserError
from bytemlperf.extensions import TRAINERS
from bytemlperf.runs.files import UNREADABLE, json_of, why
from training.plan.flags import Flags
from training.plan.layout import Layout, TrainerName, check_layout, resolve_layout
from training.workload import workload as workloads
from training.workload.choices import Sharding
from training.workload.corpus import TokenFile
from training.workload.workload import Workload

PLAN_NAME = "plan.json"
PACKAGES = ("torch", "transformers", "megatron-core", "numpy")
"""Whose versions a run keeps."""
START_TIMEOUT_S = 300.0
"""How long the ranks may take to import, meet and build before the first step."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """What goes wrong on purpose: `rank` dies, hangs or gives a NaN loss in `step`, the first time it comes there."""

    kind: Literal["kill", "hang", "nan"]
    rank: int
    step: int


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The resolved run. `measured_from` is the first step that counts; `traced` are the steps under the
    profiler, which don't count either; `peak_tflops` None means that a matrix product is measured."""

    folder: str
    workload: dict[str, Any]
    trainer: TrainerName
    sharding: Sharding
    layout: Layout
    tokens: TokenFile | None
    seed: int
    deterministic: bool
    steps: int
    measured_from: int
    traced: list[int]
    checkpoint_every: int
    resume_from: str | None
    max_restarts: int
    target_loss: float | None
    step_timeout_s: float
    loader_workers: int
    threads: int
    device: Literal["cpu", "cuda"]
    nnodes: int
    check_operators: bool
    peak_tflops: float | None = None
    peak_source: str = ""
    fault: Fault | None = None
    first_attempt: int = 0  # of this part of the run: the parts before had those below it

    def read_workload(self) -> Workload:
        """The workload as its checked model."""
        return msgspec.convert(self.workload, Workload)

    @property
    def ranks_per_node(self) -> int:
        return self.layout.world // self.nnodes

    @property
    def vocabulary(self) -> int:
        return self.tokens.vocabulary if self.tokens else 0


def read_plan(path: Path) -> Plan:
    """The plan that `write_plan` wrote. Raises UserError."""
    try:
        return json_of(path, Plan)
    except UNREADABLE as error:
        raise UserError(f"{path} is not a training plan: {why(error)}", "write one with: bmp train WORKLOAD --prepare") from None


def resolve_workload(flags: Flags) -> Workload:
    """The workload with the flags' changes, checked again. Raises UserError."""
    workload = workloads.load(flags.workload)
    content = msgspec.to_builtins(workload)
    content["training"] |= {name: value for name, value in flags.shared_with(workloads.Recipe).items() if value is not None}
    if flags.seq_len is not None:
        content["model"]["seq_len"] = flags.seq_len
    return check(
        content, Workload, lambda location: ", ".join([f"workload {workload.name}", *([".".join(map(str, location))] if location else [])])
    )


def check_flags(flags: Flags, workload: Workload) -> Layout:
    """The layout, once it and the rest fit. Raises UserError."""
    TRAINERS.check([flags.trainer])
    layout = resolve_layout(flags.nproc * flags.nnodes, flags.dp, flags.tp, flags.pp, flags.ep)
    check_layout(workload, layout, flags.trainer, flags.sharding)
    unmeasured = flags.warmup + flags.trace_steps
    if workload.training.steps <= unmeasured:
        raise UserError(
            f"{workload.training.steps} steps leave none to measure after {flags.warmup} of warm-up and {flags.trace_steps} traced",
            f"give --steps {unmeasured + 10}, or lower --warmup and --trace-steps",
        )
    return layout


def make_plan(flags: Flags, workload: Workload, layout: Layout, tokens: TokenFile | None, folder: Path, device: str) -> Plan:
    """Everything resolved. Raises UserError for a fault that can't happen."""
    resolved = {
        "folder": str(folder.absolute()),
        "workload": msgspec.to_builtins(workload),
        "layout": layout,
        "tokens": tokens,
        "steps": workload.training.steps,
        "measured_from": flags.warmup + flags.trace_steps,
        "traced": list(range(flags.warmup, flags.warmup + flags.trace_steps)),
        "resume_from": str(flags.resume_from.absolute()) if flags.resume_from else None,
        "threads": flags.threads or threads_for(flags.nproc),
        "device": "cuda" if device == "cuda" else "cpu",
        "fault": parse_fault(flags.fault, layout, workload.training.steps),
    }
    return Plan(**flags.shared_with(Plan) | resolved)


def parse_fault(text: str | None, layout: Layout, steps: int) -> Fault | None:
    """ "kill:RANK:STEP". Raises UserError."""
    if text is None:
        return None
    kind, _, rest = text.partition(":")
    rank, _, step = rest.partition(":")
    if kind not in ("kill", "hang", "nan") or not rank.isdigit() or not step.isdigit():
        raise UserError(f"fault '{text}' can't be read", "give kill, hang or nan with rank and step, as kill:1:12")
    if int(rank) >= layout.world or int(step) >= steps:
        raise UserError(f"fault '{text}' never happens: there are {layout.world} ranks and {steps} steps, from 0", "name a rank and a step")
    return Fault(kind=kind, rank=int(rank), step=int(step))  # type: ignore[arg-type]
