"""Ranks on this machine, with nothing open to the network: of torchrun, tied to the process that started it, or children of our own.

`python -m bytemlperf.child.ranks` takes torchrun's arguments. torchrun's own rendezvous and the process
group's store listen on every interface, and unpickle what any peer writes there; here both are files in
a folder of this user's alone, and gloo and NCCL listen on loopback. On clusters torchrun itself is
started instead, with the ports that it needs. When the starting process is killed, the kernel ends
the agent, and the agent's end ends its ranks: nobody is left behind.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from bytemlperf.child.inside import die_with_parent
from bytemlperf.child.process import environment, last_line, spawn

AGENT_LOG = "torchrun.log"
STORE_FOLDER = "BMP_STORE_FOLDER"
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME")


MONITOR_S = 0.1
_DEATH = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+)")
_FRAME = re.compile(r'File "([^"]+)", line (\d+) in (\S+)')
_RAISED = re.compile(r"^(?:\[rank\d+\]: )?([A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt)\b.*)", re.MULTILINE)


class Death(NamedTuple):
    """A rank's end that torchrun noticed first."""

    rank: int
    exit_code: int


class Frame(NamedTuple):
    """A line of a stack."""

    path: Path
    line: int
    function: str


def start(
    count: int, module: str, *arguments: str, folder: Path, threads: int, more: Mapping[str, str] | None = None, restarts: int = 0
) -> subprocess.Popen[bytes]:
    """The agent of `count` ranks that run the module. Its messages and the ranks' own output are kept in the folder."""
    folder.mkdir(exist_ok=True)
    numbers = [f"--nproc-per-node={count}", f"--max-restarts={restarts}", f"--monitor-interval={MONITOR_S}"]
    command = ["-m", "bytemlperf.child.ranks", *numbers, f"--log-dir={folder}", "--redirects=3", "-m", module, *arguments]
    variables = environment({"TORCH_CPP_LOG_LEVEL": "ERROR", "PYTHONUNBUFFERED": "1", **(more or {})}, threads)
    with (folder / AGENT_LOG).open("wb") as log:
        return spawn(command, variables, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)


def deaths(folder: Path) -> list[Death]:
    """The ranks that died first in each attempt, in order."""
    return [Death(int(rank), int(code)) for code, rank in _DEATH.findall(agent_log(folder))]


def agent_log(folder: Path) -> str:
    """What torchrun said; empty before it said anything."""
    try:
        return (folder / AGENT_LOG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def last_words(folder: Path, rank: int, attempt: int = 0) -> str:
    """The last error that a rank raised, else its last line; empty where it left none."""
    found = sorted(folder.glob(f"*/attempt_{attempt}/{rank}/stderr.log"))
    return last_error(found[-1].read_text(encoding="utf-8", errors="replace")) if found else ""


def last_error(text: str) -> str:
    """Libraries print advice after the traceback: the last raised error, else the last line."""
    return last_line("\n".join(_RAISED.findall(text)) or text)


def innermost(dump: str) -> Frame | None:
    """The innermost frame of the main thread, which faulthandler writes last; None outside Python."""
    found = _FRAME.search(dump.rpartition("(most recent call first):")[2])
    return Frame(Path(found[1]), int(found[2]), found[3]) if found else None


def bus_factor(op: str, count: int) -> float:
    """Bytes on the busiest link over bytes of the full tensor, whatever the algorithm (nccl-tests, doc/PERFORMANCE.md)."""
    if op == "all_reduce":
        return 2 * (count - 1) / count
    return (count - 1) / count if op in ("reduce_scatter", "all_gather", "all_to_all") else 1.0


def variables_of(rank: int, count: int, folder: Path) -> dict[str, str]:
    """With which a child is one of `count` ranks that meet in the folder, without torchrun."""
    meeting = {STORE_FOLDER: str(folder), "TORCH_CPP_LOG_LEVEL": "ERROR", **dict.fromkeys(INTERFACES, LOOPBACK)}
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), **meeting}


def join_group(backend: str, timeout: timedelta) -> None:
    """`init_process_group` for a rank: through a file where we started it, else as its torchrun says."""
    import torch.distributed as dist

    folder = os.environ.get(STORE_FOLDER)
    if folder is None:
        dist.init_process_group(backend, timeout=timeout)
        return
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # a store that outlives an attempt still holds the dead ranks' addresses
    store = dist.FileStore(str(Path(folder, f"group-{attempt}")), world)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout)


def main(arguments: list[str]) -> None:
    """torchrun, in this process. Exits with its status."""
    die_with_parent(signal.SIGTERM)
    from torch.distributed.run import main as torchrun

    with tempfile.TemporaryDirectory(prefix="bmp-ranks-") as folder:
        os.environ |= dict.fromkeys(INTERFACES, LOOPBACK)
        # Without the second, torchrun opens a store at a port after all, to share it with the ranks.
        os.environ |= {STORE_FOLDER: folder, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        torchrun(["--rdzv-backend=c10d", f"--rdzv-endpoint={folder}/rendezvous", "--rdzv-conf=store_type=file", *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
