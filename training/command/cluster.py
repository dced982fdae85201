"""Runs over several machines: torchrun is started by the cluster, we only write the plan and sum up.

    bmp train WORKLOAD … --nnodes N --prepare   checks, makes the run folder with its plan, prints the folder
    torchrun … -m training.rank.worker RUN/plan.json   on every machine, with a rendezvous of its own
    bmp train finish RUN  ends the run: what failed, summary, verdict

The folder must be on a file system that all machines see; rank 0 writes the records.
"""

from __future__ import annotations

from pathlib import Path

from bytemlperf.command.console import sayer
from bytemlperf.command.flags import RunOutput
from bytemlperf.errors import UserError
from bytemlperf.report.terminal import publish
from bytemlperf.runs.suite import SuiteRun
from training.command.run import begin, prepare
from training.plan.flags import Flags
from training.plan.plan import PLAN_NAME, read_plan
from training.results.records import History
from training.watch.follow import hang_sentence, stacks


def run_prepare(flags: Flags, argv: list[str]) -> int:
    """Make the run folder; print it. Raises UserError."""
    run, plan = begin(prepare(flags), argv)
    say = sayer(quiet=False)
    if not flags.quiet:
        command = f"torchrun --nnodes={plan.nnodes} --nproc-per-node={plan.ranks_per_node} --rdzv-backend=c10d --rdzv-endpoint=HOST:29500"
        say(f"on every machine: {command} -m training.rank.worker {run.folder / PLAN_NAME}")
        say(f"afterwards: bmp train finish {run.folder}")
    say("WARNING: torchrun's store listens on every interface and unpickles what any peer writes: trust that network")
    print(run.folder)
    return 0


def run_finish(folder: Path, argv: list[str], *, quiet: bool) -> int:
    """End a prepared run. Raises UserError for a folder that isn't one, or that is still being written."""
    read_plan(folder / PLAN_NAME)
    if (folder / "summary.json").exists():
        raise UserError(f"{folder} has ended already", f"see it with: bmp summarize {folder}")
    run = SuiteRun.open(folder, "training")
    run.go_on(command=argv)
    with run:
        if History(run.records()).end is None:
            hung = stacks(folder)
            run.fail(hang_sentence(folder) if hung else "the ranks ended early; see torchrun's own messages")
        summary = run.end()
    return publish(folder, summary, RunOutput(quiet=quiet))
