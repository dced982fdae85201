"""Ranks that stay up between cases, from the sweep's side: a child process each, which meet in a file and talk on loopback.

A case is over when every rank has answered. It also ends when a rank dies (its output ends), when one
fails while others still work (they wait for it inside a collective), and at the time limit; then
all ranks are ended, and the next case gets new ones.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from bytemlperf.child import ranks
from bytemlperf.child.process import Child, environment
from bytemlperf.errors import UserError
from bytemlperf.lazy import psutil
from micro.measure.messages import Hello, Job, RankDone, RankMessage, Stage
from micro.peaks.machine import KEPT_BLOCKS
from micro.sweep.child import START_TIMEOUT_S, how_it_ended

GRACE_S = 3.0
"""Between a rank's failure and the end of those who wait for it."""

STACK_S = 0.5
LOOK_S = 0.5


class Ending(NamedTuple):
    """How a case went on every rank. `lost` is the sentence where the ranks had to be ended."""

    done: dict[int, RankDone]
    lost: str = ""


class Whereabouts(NamedTuple):
    """Where a silent rank is; `text` goes on from "rank 1". `waits` where it is inside torch.distributed: it waits for others."""

    text: str
    waits: bool = False


class World:
    """`ranks` ranks of one backend on this machine. `hello` is rank 0's once they are up."""

    hello: Hello

    def __init__(self, ranks: int, backend: str, device: str, threads: int) -> None:
        self.ranks, self.backend, self.threads = ranks, backend, threads
        self._device = device
        self._stage: dict[int, str] = {}
        self._children: dict[int, Child] = {}
        self._output = select.poll()
        self._folder = Path(tempfile.mkdtemp(prefix="bmp-ranks-"))
        self._open = ExitStack()

    def start(self) -> None:
        """Bring the ranks up. Raises UserError when they don't come."""
        arguments = ["-m", "micro.collectives.rank", self._device, self.backend, str(self.threads), str(self._folder)]
        for rank in range(self.ranks):
            variables = environment(KEPT_BLOCKS | ranks.variables_of(rank, self.ranks, self._folder), self.threads)
            log = self._open.enter_context((self._folder / f"{rank}.log").open("w+b"))
            child = self._children[rank] = self._open.enter_context(Child(arguments, variables, log))
            self._output.register(child.pipe, select.POLLIN)
        try:
            self._greet(time.monotonic() + START_TIMEOUT_S)
        except UserError:
            self.close()
            raise

    def _greet(self, deadline: float) -> None:
        hellos: dict[int, Hello] = {}
        while len(hellos) < self.ranks:
            if time.monotonic() > deadline:
                raise UserError(f"{self.ranks} ranks did not start within {START_TIMEOUT_S:g} s", "give fewer, or check the machine's load")
            for rank, message in self._next(deadline):
                if message is None:
                    words = f"rank {rank}: {self._last_words(rank) or 'no message'}"
                    raise UserError(f"the ranks did not start: {words}", "check with: bmp llm doctor; or give another backend")
                if isinstance(message, Hello):
                    hellos[rank] = message
        self.hello = hellos[0]

    def run(self, job: Job, limit_s: float) -> Ending:
        """One case on all ranks, within a time. After a sentence in `lost` this world is of no more use."""
        line, deadline = msgspec.json.encode(job), time.monotonic() + limit_s
        self._stage = {}
        for child in self._children.values():
            child.send(line)
        done: dict[int, RankDone] = {}
        waiting_ends = float("inf")
        while len(done) < self.ranks:
            until = min(deadline, waiting_ends)
            for rank, message in self._next(until):
                if message is None:
                    return Ending(done, self._death(rank))
                if isinstance(message, Stage):
                    self._stage[rank] = message.name
                elif isinstance(message, RankDone):
                    done[rank] = message
                    if not message.agreed and message.status == "failed":
                        waiting_ends = min(waiting_ends, time.monotonic() + GRACE_S)
            if time.monotonic() >= until and waiting_ends < float("inf"):
                return Ending(done, _failure(done))
            if time.monotonic() >= deadline:
                return Ending(done, f"timeout: {self._hang(set(self._children) - set(done))}")
        return Ending(done, "" if all(part.agreed for part in done.values()) else _failure(done))

    def _next(self, deadline: float) -> list[tuple[int, RankMessage | None]]:
        """What has come; None for a rank that has ended. Deaths come first: others fail because of them."""
        self._output.poll(1000 * max(0.0, min(deadline - time.monotonic(), LOOK_S)))
        messages: list[tuple[int, RankMessage | None]] = []
        for rank, child in self._children.items():
            with suppress(TimeoutError):
                while (line := child.line(0.0)) is not None:
                    messages.append((rank, msgspec.json.decode(line, type=RankMessage)))
                messages.insert(0, (rank, None))
        return messages

    def _death(self, rank: int) -> str:
        status = self._children[rank].status()
        during = f" while {self._stage[rank]}" if rank in self._stage else ""
        if status is None:
            return f"rank {rank} closed its output{during}; the others were ended"
        words = self._last_words(rank) if status > 0 else ""
        return f"rank {rank} crashed{during}: {how_it_ended(status)}" + (f"; {words}" if words else "") + "; the others were ended"

    def _hang(self, silent: set[int]) -> str:
        """Who hangs and who waits: every silent rank writes where it is."""
        for rank in silent:
            with suppress(ProcessLookupError):
                os.kill(self._children[rank].pid, signal.SIGUSR1)
        time.sleep(STACK_S)
        where = {rank: whereabouts(self._children[rank].pid, self._folder / f"{rank}.txt") for rank in sorted(silent)}
        return hang_sentence(where, self._stage)

    def _last_words(self, rank: int) -> str:
        return ranks.last_error((self._folder / f"{rank}.log").read_text(encoding="utf-8", errors="replace"))

    def close(self) -> None:
        """End every rank, whatever it is doing."""
        self._children = {}
        self._open.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def whereabouts(pid: int, dump: Path) -> Whereabouts:
    """From the process's state and the stack that faulthandler wrote."""
    with suppress(psutil.Error):
        if psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP):
            return Whereabouts("is stopped (SIGSTOP)")
    try:
        frame = ranks.innermost(dump.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return Whereabouts("hangs")
    if frame is None:
        return Whereabouts("hangs outside Python")
    if "torch/distributed/" in frame.path.as_posix():
        return Whereabouts(f"waits in {frame.function}", waits=True)
    return Whereabouts(f"hangs in {frame.path.name}:{frame.line} ({frame.function})")


def hang_sentence(where: dict[int, Whereabouts], stage: dict[int, str]) -> str:
    """ "rank 1 hangs in kernels.py:12 (run) while running; rank 0 waits for it": those inside a collective wait."""
    hanging = {rank: here for rank, here in where.items() if not here.waits}
    waiting = [str(rank) for rank, here in where.items() if here.waits]
    if not hanging:
        return f"every rank waits inside a collective, while {', '.join(sorted(set(stage.values())))}"
    parts = [f"rank {rank} {here.text} while {stage.get(rank, 'starting')}" for rank, here in hanging.items()]
    if waiting:
        parts.append(f"rank{'s' if len(waiting) > 1 else ''} {', '.join(waiting)} waited")
    return "; ".join(parts)


def _failure(done: dict[int, RankDone]) -> str:
    failed = {rank: part for rank, part in done.items() if part.status == "failed" and not part.agreed}
    own = {rank: part for rank, part in failed.items() if not _peer_lost(part.reason)} or failed
    rank = min(own)
    return f"rank {rank}: {own[rank].reason}"


def _peer_lost(reason: str) -> bool:
    """What a rank says whose peer failed: not the cause."""
    return any(words in reason.lower() for words in ("closed by peer", "connection reset", "broken pipe", "timed out"))
