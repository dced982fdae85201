"""Ranks on this machine: torchrun, tied to the process that started it, with nothing open to the network.

`python -m bytemlperf.child.ranks` takes torchrun's arguments. torchrun's own rendezvous and the process
group's store listen on every interface, and unpickle what any peer writes there; here both are files in
a folder of this user's alone, and gloo and NCCL listen on loopback. On clusters torchrun itself is
started instead, with the ports that it needs. When the starting process is killed, the kernel ends
the agent, and the agent's end ends its ranks: nobody is left behind.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import tempfile
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

PR_SET_PDEATHSIG = 1
"""linux/prctl.h"""

STORE_FOLDER = "BMP_STORE_FOLDER"
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME")


def die_with_parent(how: signal.Signals = signal.SIGTERM) -> None:
    """Ask Linux for this signal at the parent's death; elsewhere nothing."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, how)


def join_group(backend: str, timeout: timedelta) -> None:
    """`init_process_group` for a rank: through a file where our agent started it, else as its torchrun says."""
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
    die_with_parent()
    from torch.distributed.run import main as torchrun

    with tempfile.TemporaryDirectory(prefix="bmp-ranks-") as folder:
        os.environ |= dict.fromkeys(INTERFACES, LOOPBACK)
        # Without the second, torchrun opens a store at a port after all, to share it with the ranks.
        os.environ |= {STORE_FOLDER: folder, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        torchrun(["--rdzv-backend=c10d", f"--rdzv-endpoint={folder}/rendezvous", "--rdzv-conf=store_type=file", *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
