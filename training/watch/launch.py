"""Starting torchrun on this machine, and what it says of ranks that died.

torchrun is `python -m torch.distributed.run`: it starts one worker a rank, watches them, and starts all
of them again when one dies and `--max-restarts` allows it. Its messages and each rank's own output are
kept in the run folder under `ranks/`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from bytemlperf.child.offline import OFFLINE, last_line, own_modules
from training.plan.plan import PLAN_NAME, Plan
from training.rank.watchdog import EXIT_HUNG, RANKS_FOLDER, stacks

AGENT_LOG = "torchrun.log"
KILL_PATIENCE_S = 10.0
MONITOR_S = 0.2
_DEATH = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+)")
_FRAME = re.compile(r'File "([^"]+)", line (\d+) in (\S+)')


class Death(NamedTuple):
    """A rank's end that torchrun noticed first."""

    rank: int
    exit_code: int


def torchrun_arguments(plan: Plan) -> list[str]:
    """torchrun's own arguments for one machine."""
    return [
        f"--nproc-per-node={plan.ranks_per_node}",
        f"--max-restarts={plan.max_restarts}",
        f"--monitor-interval={MONITOR_S}",
        f"--log-dir={Path(plan.folder) / RANKS_FOLDER}",
        "--redirects=3",
        "-m",
        "training.rank.worker",
        str(Path(plan.folder) / PLAN_NAME),
    ]


def start(plan: Plan) -> subprocess.Popen[bytes]:
    """The agent, in a session of its own: a terminal's interrupt reaches only us."""
    folder = Path(plan.folder) / RANKS_FOLDER
    folder.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        **OFFLINE,
        **own_modules(),
        "OMP_NUM_THREADS": str(plan.threads),
        "MKL_NUM_THREADS": str(plan.threads),
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "PYTHONUNBUFFERED": "1",
    }
    with (folder / AGENT_LOG).open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "bytemlperf.child.ranks", *torchrun_arguments(plan)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def stop(agent: subprocess.Popen[bytes]) -> None:
    """End the agent and its ranks, politely first."""
    if agent.poll() is None:
        agent.terminate()
        try:
            agent.wait(KILL_PATIENCE_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(agent.pid, signal.SIGKILL)
            agent.wait()


def deaths(run_folder: Path) -> list[Death]:
    """The ranks that died first in each attempt, in order."""
    try:
        text = (run_folder / RANKS_FOLDER / AGENT_LOG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [Death(int(rank), int(code)) for code, rank in _DEATH.findall(text)]


def why(run_folder: Path, death: Death, attempt: int) -> str:
    """One sentence about a rank's end."""
    if death.exit_code == EXIT_HUNG:
        return hang_sentence(run_folder)
    if death.exit_code < 0:
        return f"rank {death.rank} was killed by {signal.Signals(-death.exit_code).name}"
    found = sorted((run_folder / RANKS_FOLDER).glob(f"*/attempt_{attempt}/{death.rank}/stderr.log"))
    said = last_line(_errors(found[-1].read_text(encoding="utf-8", errors="replace"))) if found else "it left no message"
    return f"rank {death.rank} failed: {said}"


def _errors(text: str) -> str:
    """torchrun prefixes nothing, but libraries print advice after the traceback: take the last raised error."""
    raised = [line for line in text.splitlines() if re.match(r"^(\[rank\d+\]: )?[A-Za-z_.]+(Error|Exception|Exit|Interrupt)\b", line)]
    return re.sub(r"^\[rank\d+\]: ", "", raised[-1]) if raised else text


def hang_sentence(run_folder: Path) -> str:
    """Where each rank was when it hung."""
    places = [
        f"rank {rank} in {place}" for rank, path in stacks(run_folder).items() if (place := innermost(path.read_text("utf-8", "replace")))
    ]
    return f"the ranks hung: {'; '.join(places) or 'no stack was written'}; all stacks: {run_folder / RANKS_FOLDER}/stacks-*.txt"


def innermost(dump: str) -> str:
    """The innermost frame of the main thread, which faulthandler writes last."""
    main = dump.rpartition("(most recent call first):")[2]
    frame = _FRAME.search(main)
    if frame is None:
        return ""
    path = Path(frame[1])
    return f"{path.parent.name}/{path.name}:{frame[2]} ({frame[3]})"
