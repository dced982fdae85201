"""torchrun, tied to the sweep that started it: `python -m micro.collectives.agent` takes torchrun's arguments.

When the sweep is killed, the kernel ends the agent, and with it its ranks: nobody is left behind.
"""

from __future__ import annotations

import ctypes
import signal
import sys
from contextlib import suppress

PR_SET_PDEATHSIG = 1
"""linux/prctl.h"""


def die_with_parent(how: signal.Signals) -> None:
    """Ask Linux for this signal at the parent's death; elsewhere nothing."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, how)


if __name__ == "__main__":
    die_with_parent(signal.SIGTERM)
    from torch.distributed.run import main

    main(sys.argv[1:])
