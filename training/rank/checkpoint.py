"""Checkpoints: torch.distributed.checkpoint, with a list of sums that is written last; saved and loaded by all ranks, timed.

`step-<n>/` holds what DCP writes and `checkpoint.json` (size and SHA-256 of each file), so that a
checkpoint is there whole or not at all, and a damaged one is found before it is loaded. DCP's own
index is a pickle, and read as data alone (training/rank/dcp.py). `n` is the first step that is not in it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch.distributed as dist
from torch.distributed import checkpoint
from torch.distributed.checkpoint.api import CheckpointException

from bytemlperf.errors import UserError
from bytemlperf.models.cache import sha256_of
from bytemlperf.runs.files import DAMAGED, json_of
from bytemlperf.runs.folder import write_json
from training.rank.dcp import IndexReader, Values, read_index
from training.rank.rank import Rank
from training.results.records import CheckpointRecord

FOLDER = "checkpoints"
MANIFEST = "checkpoint.json"
_OTHER = "give another checkpoint with --resume-from, or leave it out"


class File(msgspec.Struct, frozen=True):
    """A file of a checkpoint, as it was saved."""

    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkpoint is of: the first step that is not in it, and who can load it."""

    step: int
    files: dict[str, File]
    trainer: str = ""
    layout: dict[str, int] = {}
    workload: str = ""

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files.values())


# --- by all ranks -----------------------------------------------------------------------------------


def save_checkpoint(rank: Rank, step: int) -> None:
    """Save what has been learned before `step`. A checkpoint that can't be written is a failed record, not the run's end."""
    plan = rank.plan
    folder = folder_of(rank.folder, step)
    started = time.perf_counter_ns()
    reason = ""
    try:
        save(folder, rank.trainer.state())
    except Exception as error:  # on every rank what any rank met
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    (taken,) = rank.gather_whole(time.perf_counter_ns() - started)
    size = 0
    if rank.number == 0 and not reason:
        try:
            size = seal(folder, step, trainer=plan.trainer, layout=msgspec.to_builtins(plan.layout), workload=plan.workload["name"])
        except OSError as error:
            reason = f"the list of sums can't be written: {error.strerror}"
    status: Literal["ok", "failed"] = "failed" if reason else "ok"
    rank.write(CheckpointRecord(action="save", status=status, step=step, attempt=rank.attempt, ns=taken, bytes=size, reason=reason))
    dist.barrier()


def restore_checkpoint(rank: Rank) -> int:
    """The first step to do: after the newest whole checkpoint of the run, else the one to resume from, else 0. Raises UserError for
    a checkpoint of another trainer, or of another layout where that matters."""
    plan, attempt = rank.plan, rank.attempt
    folder, damages = latest_whole(rank.folder) if attempt else (None, [])
    for damage in damages:
        rank.write(CheckpointRecord(action="load", status="failed", step=0, attempt=attempt, ns=[], bytes=0, reason=damage))
    if folder is None and plan.resume_from:
        folder = Path(plan.resume_from)
    if folder is None:
        return 0
    started = time.perf_counter_ns()
    manifest = examine(folder)
    if manifest.trainer != plan.trainer:
        raise UserError(f"the checkpoint is of trainer {manifest.trainer}", f"use --trainer {manifest.trainer}")
    if plan.trainer == "megatron" and manifest.layout != msgspec.to_builtins(plan.layout):
        raise UserError("a megatron checkpoint resumes in its own layout only", f"it was saved with {manifest.layout}")
    rank.trainer.restore(load(folder, rank.trainer.state()))
    (taken,) = rank.gather_whole(time.perf_counter_ns() - started)
    rank.write(CheckpointRecord(action="load", status="ok", step=manifest.step, attempt=attempt, ns=taken, bytes=manifest.bytes))
    return manifest.step


# --- the folder --------------------------------------------------------------------------------------


def folder_of(run_folder: Path, step: int) -> Path:
    """Where the checkpoint before `step` is kept."""
    return run_folder / FOLDER / f"step-{step:08d}"


@contextmanager
def _said(folder: Path, fix: str) -> Iterator[None]:
    """What any rank met is a UserError on every rank: DCP's own is a BaseException that carries all ranks' stacks."""
    try:
        yield
    except CheckpointException as error:
        rank, (met, _) = next(iter(error.failures.items()))
        reason = " ".join(str(met).split())[:200]
        raise UserError(f"checkpoint {folder}, rank {rank}: {type(met).__name__}: {reason}", fix) from None


def save(folder: Path, state: Mapping[str, Any]) -> None:
    """All ranks together. Raises UserError."""
    with _said(folder, "look at the disk of the run folder"):
        writer = checkpoint.FileSystemWriter(str(folder), single_file_per_rank=True)
        checkpoint.save(state, storage_writer=writer, no_dist=not dist.is_initialized())


def seal(folder: Path, step: int, **about: Any) -> int:
    """One rank, once all have saved: sum up the files; returns their bytes."""
    files = {path.name: File(path.stat().st_size, sha256_of(path)) for path in sorted(folder.iterdir()) if path.is_file()}
    manifest = Manifest(step=step, files=files, **about)
    write_json(folder / MANIFEST, msgspec.to_builtins(manifest))
    return manifest.bytes


def load(folder: Path, state: dict[str, Any]) -> dict[str, Any]:
    """All ranks together: `state` of the right shapes is filled, and returned. Raises UserError."""
    with _said(folder, _OTHER):
        checkpoint.load(state, storage_reader=IndexReader(folder), planner=Values(), no_dist=not dist.is_initialized())
    return state


def examine(folder: Path) -> Manifest:
    """The manifest of a whole checkpoint. Raises UserError that names what is wrong with it."""
    try:
        manifest = json_of(folder / MANIFEST, Manifest)
    except FileNotFoundError:
        raise UserError(f"{folder} is not a checkpoint: it has no {MANIFEST}", _OTHER) from None
    except DAMAGED as error:
        raise UserError(f"checkpoint {folder} is damaged: {MANIFEST} can't be read ({type(error).__name__})", _OTHER) from None
    for name, file in manifest.files.items():
        path = folder / name
        if Path(name).name != name or path.is_symlink() or not path.is_file():
            raise UserError(f"checkpoint {folder} is damaged: {name[:200]} is missing", _OTHER)
        if path.stat().st_size != file.bytes or sha256_of(path) != file.sha256:
            raise UserError(f"checkpoint {folder} is damaged: {name} changed after it was saved", _OTHER)
    read_index(folder)
    return manifest


def latest_whole(run_folder: Path) -> tuple[Path | None, list[str]]:
    """The last checkpoint that is whole, and a sentence for each one after it that is damaged."""
    damages: list[str] = []
    for folder in sorted((run_folder / FOLDER).glob("step-*"), reverse=True):
        if not (folder / MANIFEST).exists():
            continue  # never finished: nobody counted it
        try:
            examine(folder)
        except UserError as error:
            damages.append(error.cause)
            continue
        return folder, damages
    return None, damages
