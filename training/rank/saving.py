"""Saving and loading a checkpoint with all ranks, timed and recorded."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bytemlperf.errors import UserError
from training.plan.plan import Plan
from training.rank import checkpoint
from training.results.records import CheckpointRecord
from training.trainers.contract import Trainer

GatherNumbers = Callable[[list[float]], list[list[float]]]
Write = Callable[[Any], None]


def save_checkpoint(plan: Plan, trainer: Trainer, attempt: int, step: int, gather: GatherNumbers, write: Write) -> None:
    """Save what has been learned before `step`. A checkpoint that can't be written is a failed record, not the run's end."""
    import torch.distributed as dist

    folder = checkpoint.folder_of(Path(plan.folder), step)
    started = time.perf_counter_ns()
    reason = ""
    try:
        checkpoint.save(folder, trainer.state())
    except Exception as error:  # on every rank what any rank met
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    taken = [int(row[0]) for row in gather([float(time.perf_counter_ns() - started)])]
    size = 0
    if dist.get_rank() == 0:
        if not reason:
            try:
                size = checkpoint.seal(folder, step, {"trainer": plan.trainer, "layout": _layout(plan), "workload": plan.workload["name"]})
            except OSError as error:
                reason = f"the list of sums can't be written: {error.strerror}"
        write(
            CheckpointRecord(
                action="save", status="failed" if reason else "ok", step=step, attempt=attempt, ns=taken, bytes=size, reason=reason
            )
        )
    dist.barrier()


def restore_checkpoint(plan: Plan, trainer: Trainer, attempt: int, gather: GatherNumbers, write: Write) -> int:
    """The first step to do: after the newest whole checkpoint of the run, else the one to resume from, else 0."""
    folder, damages = checkpoint.latest_whole(Path(plan.folder)) if attempt else (None, [])
    for damage in damages:
        write(CheckpointRecord(action="load", status="failed", step=0, attempt=attempt, ns=[], bytes=0, reason=damage))
    if folder is None:
        folder = Path(plan.resume_from) if plan.resume_from else None
    if folder is None:
        return 0
    started = time.perf_counter_ns()
    manifest = checkpoint.examine(folder)
    _check_fits(plan, manifest)
    trainer.restore(checkpoint.load(folder, trainer.state()))
    taken = [int(row[0]) for row in gather([float(time.perf_counter_ns() - started)])]
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    write(CheckpointRecord(action="load", status="ok", step=int(manifest["step"]), attempt=attempt, ns=taken, bytes=size))
    return int(manifest["step"])


def _layout(plan: Plan) -> dict[str, int]:
    return {"world": plan.layout.world, "dp": plan.layout.dp, "tp": plan.layout.tp, "pp": plan.layout.pp, "ep": plan.layout.ep}


def _check_fits(plan: Plan, manifest: dict[str, Any]) -> None:
    """Raises UserError for a checkpoint of another trainer, or of another layout where that matters."""
    if manifest.get("trainer") != plan.trainer:
        raise UserError(f"the checkpoint is of trainer {manifest.get('trainer')}", f"use --trainer {manifest.get('trainer')}")
    if plan.trainer == "megatron" and manifest.get("layout") != _layout(plan):
        raise UserError("a megatron checkpoint resumes in its own layout only", f"it was saved with {manifest.get('layout')}")
