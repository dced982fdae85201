"""Stored loss curves: what a run of the same workload and seed must follow within 0.2 %.

A reference is made by `bmp train reference WORKLOAD` (one rank, one thread, deterministic), or from any run
by `bmp train keep-reference RUN FILE`, and found by what decides a loss curve: model, data, recipe,
precision, seed and trainer (their random weights differ). Layout and micro-batch don't decide it: that's
what the check is for. Two exceptions: batch norm makes a ResNet's loss depend on the micro-batch, and
Megatron-Core draws other weights with another number of pipeline stages or expert parallel ranks.

`earlier_run` is the other comparison: the same run a second time, which in deterministic mode must have the same bits.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from bytemlperf.errors import UserError
from bytemlperf.runs.files import UNREADABLE, json_of, why, writing
from bytemlperf.runs.folder import read_run_json, read_run_of, write_json
from bytemlperf.runs.records import RunRecords
from bytemlperf.units import NS_PER_US
from training.plan.flags import Flags
from training.plan.layout import Layout
from training.plan.plan import PLAN_NAME, read_plan
from training.results.checks import REFERENCE_STEPS
from training.results.records import EarlierRun, History, MicroPoint, Record, Reference
from training.workload.corpus import TokenFile
from training.workload.workload import Workload

BUILTIN_FOLDER = Path(__file__).parents[1] / "references"
LOCAL_FLAGS = ("--runs-dir", "--label", "--out")
DECIDING = ("global_batch", "learning_rate", "warmup_steps", "weight_decay", "clip", "precision")


def recipe_hash(workload: Workload, tokens: TokenFile | None, trainer: str, seed: int, layout: Layout) -> str:
    """SHA-256 over what decides the loss curve."""
    deciding: dict[str, Any] = {
        "family": workload.family,
        "model": msgspec.to_builtins(workload.model),
        "text": tokens.text_sha256 if tokens else workload.data.corpus,
        "tokenizer": tokens.tokenizer if tokens else None,
        "recipe": {key: getattr(workload.training, key) for key in DECIDING},
        "trainer": trainer,
        "seed": seed,
    }
    if workload.family == "resnet":
        deciding["micro_batch"] = workload.training.micro_batch
    if _own_weights(trainer, layout):
        deciding["drawn_for"] = [layout.pp, layout.ep]
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def _own_weights(trainer: str, layout: Layout) -> bool:
    return trainer == "megatron" and (layout.pp > 1 or layout.ep > 1)


def find_reference(
    path: Path | None, workload: Workload, tokens: TokenFile | None, trainer: str, seed: int, layout: Layout
) -> Reference | None:
    """The stored curve that fits, why not when the one that was asked for doesn't, None when there is none.
    Raises UserError for a file that is no reference."""
    recipe = recipe_hash(workload, tokens, trainer, seed, layout)
    for candidate in [path] if path else sorted(BUILTIN_FOLDER.glob("*.json")):
        kept = _read(candidate)
        if kept.recipe_sha256 == recipe:
            return Reference(name=candidate.stem, losses=kept.losses)
        if path:
            return Reference(why_not=f"{path.name} was made with another workload, text, recipe, seed or trainer")
    if workload.family == "resnet":
        why_not = "a ResNet's batch norm carries roundings up to 1 % in 50 steps: make a reference here with bmp train reference"
        return Reference(why_not=why_not)
    if _own_weights(trainer, layout):
        why_not = f"Megatron-Core draws other weights with pp {layout.pp} and ep {layout.ep}, and no reference is stored for them"
        return Reference(why_not=why_not)
    return None


class Kept(msgspec.Struct, frozen=True):
    """What counts of a reference file."""

    recipe_sha256: str
    losses: list[float]


def _read(path: Path) -> Kept:
    try:
        kept = json_of(path, Kept)
    except UNREADABLE as error:
        raise UserError(f"reference {path} can't be read: {why(error)}", "make one with: bmp train keep-reference RUN FILE") from None
    if len(kept.losses) < REFERENCE_STEPS:
        raise UserError(f"reference {path} has fewer than {REFERENCE_STEPS} losses", "make one from a longer run")
    return kept


def _portable(command: list[str]) -> list[str]:
    """A command without the folders of the machine that it ran on."""
    kept, skip = [], False
    for word in command:
        if not skip and word not in LOCAL_FLAGS:
            kept.append(word)
        skip = word in LOCAL_FLAGS
    return kept


def keep_reference(run_folder: Path, into: Path) -> None:
    """Write a run's losses as a reference. Raises UserError for a run that can't be one."""
    run = read_run_json(run_folder)
    plan = read_plan(run_folder / PLAN_NAME)
    history = History(RunRecords(run_folder, Record))
    losses = history.losses[:REFERENCE_STEPS]
    if len(losses) < REFERENCE_STEPS or history.end is None:
        raise UserError(
            f"{run_folder} has {len(losses)} losses, a reference needs {REFERENCE_STEPS}", f"run with --steps {REFERENCE_STEPS}"
        )
    content = {
        "recipe_sha256": recipe_hash(plan.read_workload(), plan.tokens, plan.trainer, plan.seed, plan.layout),
        "workload": plan.workload["name"],
        "trainer": plan.trainer,
        "seed": plan.seed,
        "text_sha256": plan.tokens.text_sha256 if plan.tokens else None,
        "made_with": {"command": _portable(run["command"]), "packages": history.starts[0].packages, "layout": run["config"]["layout"]},
        "losses": losses,
    }
    with writing(into, "name a file in a writable folder"):
        write_json(into, content)


def earlier_run(folder: Path, flags: Flags, workload: Workload, layout: Layout) -> EarlierRun:
    """Losses and parameters' hash of a finished run that this one repeats. Raises UserError for one that can't have the same bits."""
    read_run_of(folder, "training", "give a run folder of: bmp train WORKLOAD --deterministic")
    plan, history = read_plan(folder / PLAN_NAME), History(RunRecords(folder, Record))
    then, now = plan.read_workload(), workload
    differing = [
        name
        for name, same in (
            ("workload", replace(then, description="") == replace(now, description="")),
            ("trainer", plan.trainer == flags.trainer),
            ("sharding", plan.sharding == flags.sharding),
            ("layout", plan.layout == layout),
            ("seed", plan.seed == flags.seed),
            ("deterministic mode", plan.deterministic and flags.deterministic),
        )
        if not same
    ]
    if differing:
        raise UserError(f"{folder.name} differs in {', '.join(differing)}", "repeat it with its own flags and --deterministic")
    if history.end is None:
        raise UserError(f"{folder.name} did not complete", "repeat a whole run")
    return EarlierRun(name=folder.name, threads=plan.threads, losses=history.losses, state_sha256=history.end.state_sha256)


COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "p2p")


def micro_collectives(folder: Path) -> list[MicroPoint]:
    """Every measured collective. Raises UserError for another kind of run, or one that holds none."""
    read_run_of(folder, "micro", "give a run folder of: bmp micro all_reduce")
    points = [point for record in RunRecords[dict[str, Any]](folder) if (point := _point(record)) is not None]
    if not points:
        raise UserError(f"{folder} holds no measured collective", "measure one with: bmp micro all_reduce")
    return points


def _point(record: dict[str, Any]) -> MicroPoint | None:
    if record.get("op") not in COLLECTIVES or record.get("status") != "ok" or not record.get("bus_bw_gbs"):
        return None
    size = record["alg_bw_gbs"] * record["latency_us"]["p50"] * NS_PER_US
    args = record["args"]
    return MicroPoint(op=record["op"], ranks=args["world_size"], dtype=args["dtype"], bytes=round(size), bus_bw_gbs=record["bus_bw_gbs"])
