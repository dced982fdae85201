"""Stored loss curves: what a run of the same workload and seed must follow within 0.2 %.

A reference is made from a run (`bmp train keep-reference RUN FILE`) and found by what decides a loss
curve: model, data, recipe, precision, seed and trainer (their random weights differ). Layout and
micro-batch don't decide it: that's what the check is for.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from bytemlperf_llm.errors import UserError
from training.checks import REFERENCE_STEPS
from training.corpus import TokenFile
from training.workload import Workload

BUILTIN_FOLDER = Path(__file__).parent / "references"
DECIDING = ("global_batch", "learning_rate", "warmup_steps", "weight_decay", "clip", "precision")


def recipe_hash(workload: Workload, tokens: TokenFile | None, trainer: str, seed: int) -> str:
    """SHA-256 over what decides the loss curve."""
    deciding = {
        "family": workload.family,
        "model": workload.model.model_dump(),
        "text": tokens.text_sha256 if tokens else workload.data.corpus,
        "tokenizer": tokens.tokenizer if tokens else None,
        "recipe": {key: getattr(workload.training, key) for key in DECIDING},
        "trainer": trainer,
        "seed": seed,
    }
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def find_reference(path: Path | None, workload: Workload, tokens: TokenFile | None, trainer: str, seed: int) -> dict[str, Any] | None:
    """The stored curve that fits, `{why_not}` when the one that was asked for doesn't, None when there is none.
    Raises UserError for a file that is no reference."""
    wanted = recipe_hash(workload, tokens, trainer, seed)
    for each in [path] if path else sorted(BUILTIN_FOLDER.glob("*.json")):
        reference = _read(each)
        if reference["recipe_sha256"] == wanted:
            return {"name": each.stem, "losses": reference["losses"]}
        if path:
            return {"why_not": f"{path.name} was made with another workload, text, recipe, seed or trainer"}
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        good = len(content["losses"]) >= REFERENCE_STEPS and isinstance(content["recipe_sha256"], str)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"reference {path} can't be read: {error}", "make one with: bmp train keep-reference RUN FILE") from None
    if not good:
        raise UserError(f"reference {path} has fewer than {REFERENCE_STEPS} losses", "make one from a longer run")
    return content


def keep_reference(run_folder: Path, into: Path) -> None:
    """Write a run's losses as a reference. Raises UserError for a run that can't be one."""
    from bytemlperf_llm.runs.folder import write_json
    from bytemlperf_llm.runs.reader import read_run_json
    from bytemlperf_llm.runs.suite import suite_records
    from training.history import History
    from training.plan import PLAN_NAME, read_plan

    run = read_run_json(run_folder)
    plan = read_plan(run_folder / PLAN_NAME)
    history = History(suite_records(run_folder))
    losses = history.losses[:REFERENCE_STEPS]
    if len(losses) < REFERENCE_STEPS or history.end is None:
        raise UserError(
            f"{run_folder} has {len(losses)} losses, a reference needs {REFERENCE_STEPS}", f"run with --steps {REFERENCE_STEPS}"
        )
    content = {
        "recipe_sha256": recipe_hash(plan.read_workload(), plan.tokens, plan.trainer, plan.seed),
        "workload": plan.workload["name"],
        "trainer": plan.trainer,
        "seed": plan.seed,
        "text_sha256": plan.tokens.text_sha256 if plan.tokens else None,
        "made_with": {"command": run["command"], "packages": history.starts[0].packages, "layout": run["config"]["layout"]},
        "losses": losses,
    }
    try:
        write_json(into, content)
    except OSError as error:
        raise UserError(f"{into} can't be written: {error.strerror}", "name a file in a writable folder") from None
