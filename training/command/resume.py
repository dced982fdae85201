"""`bmp train resume RUN`: the rest of an interrupted run, in its own folder, from its last whole checkpoint, else from its start."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.report.terminal import publish
from bytemlperf.runs.files import damage_said, record_logs
from bytemlperf.runs.folder import refuse_unconfirmed
from bytemlperf.runs.log import cut_torn_tail
from bytemlperf.runs.suite import SuiteRun
from training.command.run import check_packages, choose_device, needed_memory, train_to_end, write_plan
from training.plan.flags import Output
from training.plan.plan import Plan
from training.rank.checkpoint import examine, latest_whole
from training.results.records import RANKS_FOLDER, STOP_FILE, History
from training.workload.corpus import prepare_corpus


def resume_train(folder: Path, output: Output, argv: list[str], *, trust: bool) -> int:
    """Train what is missing. Raises UserError for a folder that is no run of this kind, or that has nothing left to do."""
    run = SuiteRun.open(folder, "training")
    with damage_said(folder):
        plan = _rest_of(run, trust=trust)
    workload = plan.read_workload()
    check_packages(plan.trainer, workload)
    device = choose_device(plan.device, plan.ranks_per_node)
    needed_memory(workload, plan.layout, plan.trainer, plan.sharding, device, plan.ranks_per_node, check=not output.skip_memory_check)
    run.go_on(command=argv, more={"first_attempt": plan.first_attempt})
    _set_aside(run)
    write_plan(plan)
    return publish(*train_to_end(run, plan, output), output)


def _rest_of(run: SuiteRun, *, trust: bool) -> Plan:
    """The run's plan, to be gone on with here. Raises UserError."""
    if "study" in run.run["config"]:
        raise UserError(f"{run.folder} is a study", "resume a run in it, or start the study again")
    plan = _plan_of(run)
    history = History(run.records())
    if history.end is not None and history.end.why != "stopped":
        raise UserError(f"{run.folder} is complete: {history.end.why}", f"see it with: bmp summarize {run.folder}")
    if plan.resume_from is not None and latest_whole(run.folder)[0] is None:
        refuse_unconfirmed([f"--resume-from {plan.resume_from}"], trust=trust)
        examine(Path(plan.resume_from))
    return msgspec.structs.replace(plan, first_attempt=1 + max((start.attempt for start in history.starts), default=-1))


def _plan_of(run: SuiteRun) -> Plan:
    """What run.json says of the plan, in this folder and with this machine's copy of the data. Raises UserError."""
    try:
        plan = msgspec.convert({**run.run["config"], "folder": str(run.folder.absolute())}, Plan)
        workload = plan.read_workload()
    except (msgspec.ValidationError, ValueError):
        raise UserError("this run can't be resumed: its plan is of another version", "start a new run") from None
    if plan.nnodes > 1:
        raise UserError(f"the run is over {plan.nnodes} machines", "start its torchrun again on each, then: bmp train finish RUN")
    if plan.tokens is None:
        return plan
    tokens = prepare_corpus(workload.data)
    if (tokens.text_sha256, tokens.tokenizer) != (plan.tokens.text_sha256, plan.tokens.tokenizer):
        raise UserError(f"the run learned {plan.tokens.source}, and here they are others", "start a new run")
    return msgspec.structs.replace(plan, tokens=tokens)


def _set_aside(run: SuiteRun) -> None:
    """What the ranks of the part before left: a torn line, a wish to stop, their own messages (kept as ranks-1, ranks-2, …)."""
    parts: list[Any] = run.run["resumed"]
    with damage_said(run.folder):
        for log in record_logs(run.folder):
            cut_torn_tail(log)
        (run.folder / STOP_FILE).unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            (run.folder / RANKS_FOLDER).rename(run.folder / f"{RANKS_FOLDER}-{len(parts)}")
