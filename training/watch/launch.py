"""Starting the ranks on this machine, and what torchrun says of those that died.

torchrun starts one worker a rank, watches them, and starts all of them again when one dies and
`--max-restarts` allows it. Its messages and each rank's own output are kept in the run folder under `ranks/`.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from bytemlperf.child import ranks
from bytemlperf.child.process import OFFLINE, signal_name
from training.plan.plan import PLAN_NAME, Plan
from training.results.records import EXIT_HUNG, RANKS_FOLDER

KILL_PATIENCE_S = 10.0


def start(plan: Plan) -> subprocess.Popen[bytes]:
    """The agent, in a session of its own: a terminal's interrupt reaches only us."""
    folder = Path(plan.folder)
    return ranks.start(
        plan.ranks_per_node,
        "training.rank.worker",
        str(folder / PLAN_NAME),
        folder=folder / RANKS_FOLDER,
        threads=plan.threads,
        more=OFFLINE,
        restarts=plan.max_restarts,
    )


def why(run_folder: Path, death: ranks.Death, attempt: int) -> str:
    """One sentence about a rank's end."""
    if death.exit_code == EXIT_HUNG:
        return hang_sentence(run_folder)
    if death.exit_code < 0:
        return f"rank {death.rank} was killed by {signal_name(-death.exit_code)}"
    words = ranks.last_words(run_folder / RANKS_FOLDER, death.rank, attempt)
    return f"rank {death.rank} failed: {words or 'it left no message'}"


def hang_sentence(run_folder: Path) -> str:
    """Where each rank was when it hung."""
    frames = {rank: ranks.innermost(path.read_text("utf-8", "replace")) for rank, path in stacks(run_folder).items()}
    places = [
        f"rank {rank} in {frame.path.parent.name}/{frame.path.name}:{frame.line} ({frame.function})"
        for rank, frame in frames.items()
        if frame
    ]
    return f"the ranks hung: {'; '.join(places) or 'no stack was written'}; all stacks: {run_folder / RANKS_FOLDER}/stacks-*.txt"


def stacks(run_folder: Path) -> dict[int, Path]:
    """The ranks that wrote their stacks, and where."""
    paths = {int(path.stem.partition("-")[2]): path for path in sorted((run_folder / RANKS_FOLDER).glob("stacks-*.txt"))}
    return {rank: path for rank, path in sorted(paths.items()) if path.stat().st_size}
