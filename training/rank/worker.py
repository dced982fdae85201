"""One rank, as torchrun starts it: `python -m training.rank.worker PLAN.json`.

Sets the process up (threads, determinism, group, watchdog), builds the trainer, then hands over to the
step loop. What goes wrong here goes to standard error, which torchrun keeps a rank; what was measured
before is in the record log already.
"""

from __future__ import annotations

import time

STARTED_NS = time.perf_counter_ns()

import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
import warnings  # noqa: E402
from datetime import timedelta  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

from bytemlperf.child.inside import die_with_parent  # noqa: E402
from bytemlperf.child.ranks import join_group  # noqa: E402
from bytemlperf.extensions import TRAINERS  # noqa: E402
from training.plan.plan import START_TIMEOUT_S, Plan, read_plan  # noqa: E402
from training.rank.watchdog import Watchdog  # noqa: E402

if TYPE_CHECKING:
    import torch

GROUP_PATIENCE_S = 120
"""The process group's own limit lies so far beyond the watchdog's, so that it's the watchdog that speaks."""


def main(plan_path: str) -> None:
    """Train this rank's part."""
    plan = read_plan(Path(plan_path))
    die_with_parent(signal.SIGTERM)
    number, attempt = int(os.environ["RANK"]), plan.first_attempt + int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    watchdog = Watchdog(Path(plan.folder), number, plan.step_timeout_s)
    watchdog.expect(START_TIMEOUT_S)
    warnings.filterwarnings("ignore")  # libraries' advice; errors still end on standard error
    device = _prepare(plan)
    import torch.distributed as dist

    from training.rank.loop import Loop  # under the watchdog, like all that is large
    from training.rank.rank import Rank

    Loop(Rank(plan, TRAINERS.load(plan.trainer)(plan, device), device, attempt), watchdog).run(STARTED_NS)
    watchdog.rest()
    dist.destroy_process_group()


def _prepare(plan: Plan) -> torch.device:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(plan.threads)
    if plan.deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        torch.use_deterministic_algorithms(True)
    device = torch.device("cpu")
    if plan.device == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    limit = timedelta(seconds=max(plan.step_timeout_s, START_TIMEOUT_S) + GROUP_PATIENCE_S)
    join_group("nccl" if plan.device == "cuda" else "gloo", limit)
    if dist.get_world_size() != plan.layout.world:
        raise SystemExit(f"torchrun started {dist.get_world_size()} ranks, the plan is for {plan.layout.world}")
    return device


if __name__ == "__main__":
    main(sys.argv[1])
