"""A run of any suite while it goes on: in a terminal a bar with what is known now, elsewhere a plain line now and then.

All of it goes to standard error. With `own_thread` the bar moves by itself; without, it is drawn by the run's own loop alone, never
from a thread that could hold the interpreter at a moment that nobody chose.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from bytemlperf.command.console import terminal
from bytemlperf.command.exits import one_line

if TYPE_CHECKING:
    from rich.console import Group

PLAIN_EVERY_S = 10.0
ENOUGH_DONE = 3
"""From so many on, the rest's time can be told."""


class LiveView:
    """Shows how much of `total` is done, and what is known by name; `unit` is what is counted."""

    def __init__(self, title: str, unit: str, *, quiet: bool, total: int | None = None, own_thread: bool = True) -> None:
        self._title, self._unit, self._quiet, self._own_thread = title, unit, quiet, own_thread
        self._began_s = self._said_s = time.monotonic()
        self._done, self._total = 0, total
        self._now, self._facts = "starting", dict[str, str]()
        self._live: Any = None

    def __enter__(self) -> Self:
        console = terminal(stderr=True)
        if not self._quiet and console.is_terminal:
            from rich.live import Live

            self._live = Live(console=console, get_renderable=self._drawn, auto_refresh=self._own_thread, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def begin(self, total: int | None) -> None:
        """So many come now; the time counts from here."""
        self._total, self._began_s = total, time.monotonic()
        self.update()

    def update(self, now: str | None = None, done: int | None = None, facts: Mapping[str, str] | None = None) -> None:
        """What is new of: what goes on, how many are done, what is known by name."""
        self._now = self._now if now is None else one_line(now)
        self._done = self._done if done is None else done
        self._facts |= facts or {}
        if self._live is not None:
            self._live.refresh()
        elif not self._quiet and time.monotonic() - self._said_s >= PLAIN_EVERY_S:
            self._said_s = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """A line that stays."""
        if self._live is not None:
            self._live.console.print(one_line(text), markup=False, highlight=False)
        elif not self._quiet:
            print(one_line(text), file=sys.stderr, flush=True)

    def line(self) -> str:
        """The plain form."""
        facts = [f"{name} {value}" for name, value in self._facts.items() if value]
        return f"[{self._elapsed_s():5.0f} s] " + "; ".join(filter(None, [self._count(), self._now, *facts, self._left()]))

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began_s

    def _count(self) -> str:
        return f"{self._done:,}" + (f"/{self._total:,}" if self._total else "") + f" {self._unit}"

    def _left(self) -> str:
        """How long the rest will take, once some have told how long one does."""
        if self._done < ENOUGH_DONE or not self._total:
            return ""
        return f"about {self._elapsed_s() / self._done * max(0, self._total - self._done):.0f} s left"

    def _drawn(self) -> Group:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        head = Table.grid(padding=(0, 1))
        count = Text(", ".join(filter(None, [self._count(), f"{self._elapsed_s():.0f} s", self._left()])))
        head.add_row(Text(self._title, "bold"), ProgressBar(total=self._total or None, completed=self._done, width=24), count)
        facts = Table.grid(padding=(0, 2))
        known = {name: value for name, value in self._facts.items() if value}
        for name, value in known.items():
            facts.add_row(Text(name, "dim"), Text(value))
        return Group(head, *([facts] if known else []), *([Text(self._now)] if self._now else []))
