"""torchrun, tied to the process that started it: `python -m training.agent` takes torchrun's arguments.

When the starting process is killed, the kernel ends the agent, and the agent's end ends its ranks: a
killed benchmark leaves nothing running. On clusters torchrun itself is started instead.
"""

from __future__ import annotations

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1
"""linux/prctl.h"""


def die_with_parent() -> None:
    """Ask Linux for SIGTERM at the parent's death; elsewhere nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    die_with_parent()
    from torch.distributed.run import main

    main(sys.argv[1:])
