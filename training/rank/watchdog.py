"""A rank that hangs: stacks of all its threads in `ranks/stacks-<rank>.txt`, then its end.

`expect` is called before each step. When it isn't called again in time, a thread in C writes the
stacks (it needs nothing of the interpreter), and some seconds later, when the other ranks have
written theirs too, another ends the process, so that torchrun notices on every machine.
"""

from __future__ import annotations

import faulthandler
import os
import threading
from pathlib import Path

from training.results.records import EXIT_HUNG, GRACE_S, RANKS_FOLDER


class Watchdog:
    """One for each rank."""

    def __init__(self, run_folder: Path, rank: int, limit_s: float) -> None:
        self._limit_s = limit_s
        folder = run_folder / RANKS_FOLDER
        folder.mkdir(exist_ok=True)
        self._file = (folder / f"stacks-{rank}.txt").open("w", encoding="utf-8")
        self._timer: threading.Timer | None = None

    def expect(self, within_s: float | None = None) -> None:
        """Something must happen within the limit, from now on."""
        limit = self._limit_s if within_s is None else within_s
        self.rest()
        faulthandler.dump_traceback_later(limit, file=self._file)
        self._timer = threading.Timer(limit + GRACE_S, os._exit, (EXIT_HUNG,))
        self._timer.daemon = True
        self._timer.start()

    def rest(self) -> None:
        """Nothing is expected."""
        faulthandler.cancel_dump_traceback_later()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
