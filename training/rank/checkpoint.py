"""Checkpoints: torch.distributed.checkpoint, with a list of sums that is written last.

`step-<n>/` holds what DCP writes and `checkpoint.json` (size and SHA-256 of each file), so that a
checkpoint is there whole or not at all, and a damaged one is found before it is loaded. DCP's own
index is a pickle, and read as data alone (training/rank/dcp.py). `n` is the first step that is not in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bytemlperf.errors import UserError
from bytemlperf.models.cache import sha256_of
from bytemlperf.runs.files import DAMAGED, json_of
from bytemlperf.runs.folder import write_json

FOLDER = "checkpoints"
MANIFEST = "checkpoint.json"
_OTHER = "give another checkpoint with --resume-from, or leave it out"


def folder_of(run_folder: Path, step: int) -> Path:
    """Where the checkpoint before `step` is kept."""
    return run_folder / FOLDER / f"step-{step:08d}"


@contextmanager
def _said(folder: Path, fix: str) -> Iterator[None]:
    """What any rank met is a UserError on every rank: DCP's own is a BaseException that carries all ranks' stacks."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:
        rank, (met, _) = next(iter(error.failures.items()))
        reason = " ".join(str(met).split())[:200]
        raise UserError(f"checkpoint {folder}, rank {rank}: {type(met).__name__}: {reason}", fix) from None


def save(folder: Path, state: dict[str, Any]) -> None:
    """All ranks together. Raises UserError."""
    import torch.distributed as dist
    from torch.distributed import checkpoint

    with _said(folder, "look at the disk of the run folder"):
        writer = checkpoint.FileSystemWriter(str(folder), single_file_per_rank=True)
        checkpoint.save(state, storage_writer=writer, no_dist=not dist.is_initialized())


def seal(folder: Path, step: int, about: dict[str, Any]) -> int:
    """One rank, once all have saved: sum up the files; returns their bytes."""
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file():
            files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    write_json(folder / MANIFEST, {"step": step, **about, "files": files})
    return sum(int(entry["bytes"]) for entry in files.values())


def load(folder: Path, state: dict[str, Any]) -> dict[str, Any]:
    """All ranks together: `state` of the right shapes is filled, and returned. Raises UserError."""
    import torch.distributed as dist
    from torch.distributed import checkpoint

    from training.rank.dcp import IndexReader, Values

    with _said(folder, _OTHER):
        checkpoint.load(state, storage_reader=IndexReader(folder), planner=Values(), no_dist=not dist.is_initialized())
    return state


def examine(folder: Path) -> dict[str, Any]:
    """The manifest of a whole checkpoint. Raises UserError that names what is wrong with it."""
    from training.rank.dcp import read_index

    try:
        manifest: dict[str, Any] = json_of(folder / MANIFEST)
        files = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in manifest["files"].items()}
        int(manifest["step"])
    except FileNotFoundError:
        raise UserError(f"{folder} is not a checkpoint: it has no {MANIFEST}", _OTHER) from None
    except DAMAGED as error:
        raise UserError(f"checkpoint {folder} is damaged: {MANIFEST} can't be read ({type(error).__name__})", _OTHER) from None
    for name, (size, digest) in files.items():
        path = folder / name
        if Path(name).name != name or path.is_symlink() or not path.is_file():
            raise UserError(f"checkpoint {folder} is damaged: {name[:200]} is missing", _OTHER)
        if path.stat().st_size != size or sha256_of(path) != digest:
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
