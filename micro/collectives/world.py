"""Ranks that stay up between cases, from the sweep's side: one torchrun, a socket to each rank.

A case is over when every rank has answered. It also ends when a rank dies (its socket ends), when one
fails while others still work (they wait for it inside a collective), and at the time limit; then
torchrun and all ranks are ended, and the next case gets new ones.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from bytemlperf.child import ranks
from bytemlperf.child.process import END_TIMEOUT_S, signal_name, stop
from bytemlperf.errors import UserError
from bytemlperf.lazy import psutil
from micro.collectives.messages import RankDone, RankHello, RankMessage
from micro.measure.messages import Job, Stage
from micro.peaks.machine import KEPT_BLOCKS

START_TIMEOUT_S = 180.0
GRACE_S = 3.0
"""Between a rank's failure and the end of those who wait for it."""

STACK_S = 0.5


class Ending(NamedTuple):
    """How a case went on every rank. `lost` is the sentence where the ranks had to be ended."""

    done: dict[int, RankDone]
    lost: str = ""


class Whereabouts(NamedTuple):
    """Where a silent rank is; `text` goes on from "rank 1". `waits` where it is inside torch.distributed: it waits for others."""

    text: str
    waits: bool = False


class World:
    """`ranks` ranks of one backend on this machine."""

    def __init__(self, ranks: int, backend: str, device: str, threads: int) -> None:
        self.ranks, self.backend, self.threads = ranks, backend, threads
        self._device = device
        self._links: dict[int, socket.socket] = {}
        self._rest: dict[int, bytes] = {}
        self._stage: dict[int, str] = {}
        self.hellos: dict[int, RankHello] = {}
        self._selector = selectors.DefaultSelector()
        self._folder = Path(tempfile.mkdtemp(prefix="bmp-ranks-"))
        self._ranks_folder = self._folder / "ranks"
        self._agent: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Bring torchrun and its ranks up. Raises UserError when they don't come."""
        path = self._folder / "link"
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as door:
            door.bind(str(path))
            door.listen(self.ranks)
            self._agent = self._torchrun(path)
            try:
                self._greet(door, time.monotonic() + START_TIMEOUT_S)
            except UserError:
                self.close()
                raise

    def _torchrun(self, path: Path) -> subprocess.Popen[bytes]:
        arguments = (str(path), self._device, self.backend, str(self.threads), str(self._folder))
        return ranks.start(
            self.ranks, "micro.collectives.rank", *arguments, folder=self._ranks_folder, threads=self.threads, more=KEPT_BLOCKS
        )

    def _greet(self, door: socket.socket, deadline: float) -> None:
        door.settimeout(0.2)
        newcomers: list[socket.socket] = []
        while len(self.hellos) < self.ranks:
            if self._agent is not None and self._agent.poll() is not None:
                raise UserError(f"the ranks did not start: {self._last_words()}", "check with: bmp llm doctor; or give another backend")
            if time.monotonic() > deadline:
                raise UserError(f"{self.ranks} ranks did not start within {START_TIMEOUT_S:g} s", "give fewer, or check the machine's load")
            with suppress(TimeoutError):
                newcomers.append(door.accept()[0])
            for link in list(newcomers):
                hello = self._hello(link)
                if hello is not None:
                    newcomers.remove(link)
                    self.hellos[hello.rank], self._links[hello.rank], self._rest[hello.rank] = hello, link, b""
                    self._selector.register(link, selectors.EVENT_READ, hello.rank)

    def _hello(self, link: socket.socket) -> RankHello | None:
        """A rank's first message, once it is there whole (it is sent in one piece, and nothing follows it)."""
        link.settimeout(0.01)
        try:
            peeked = link.recv(1 << 16, socket.MSG_PEEK)
        except TimeoutError:
            return None
        if not peeked.endswith(b"\n"):
            return None
        link.recv(len(peeked))
        link.settimeout(None)
        return msgspec.json.decode(peeked, type=RankHello)

    def run(self, job: Job, limit_s: float) -> Ending:
        """One case on all ranks, within a time. After a sentence in `lost` this world is of no more use."""
        line, deadline = msgspec.json.encode(job) + b"\n", time.monotonic() + limit_s
        self._stage = {}
        for link in self._links.values():
            with suppress(OSError):
                link.sendall(line)
        done: dict[int, RankDone] = {}
        waiting_ends = float("inf")
        while len(done) < self.ranks:
            until = min(deadline, waiting_ends)
            for rank, message in self._next(until - time.monotonic()):
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
                return Ending(done, f"timeout: {self._hang(set(self._links) - set(done))}")
        return Ending(done, "" if all(part.agreed for part in done.values()) else _failure(done))

    def _next(self, timeout_s: float) -> list[tuple[int, RankMessage | None]]:
        """What has come; None for a rank whose socket has ended. Deaths come first: others fail because of them."""
        messages: list[tuple[int, RankMessage | None]] = []
        for key, _ in self._selector.select(max(0.0, timeout_s)):
            rank = int(key.data)
            try:
                part = self._links[rank].recv(1 << 20)
            except OSError:
                part = b""
            if not part:
                self._selector.unregister(key.fileobj)
                messages.insert(0, (rank, None))
                continue
            *lines, self._rest[rank] = (self._rest[rank] + part).split(b"\n")
            messages += [(rank, msgspec.json.decode(line, type=RankMessage)) for line in lines]
        return messages

    def _death(self, rank: int) -> str:
        """Which rank died first, and how; torchrun knows."""
        while_what = f" while {self._stage[rank]}" if rank in self._stage else ""
        if self._agent is not None:
            with suppress(subprocess.TimeoutExpired):
                self._agent.wait(END_TIMEOUT_S)  # it ends the others
        deaths = ranks.deaths(self._ranks_folder)
        if not deaths:
            return f"rank {rank} closed its connection{while_what}; the others were ended"
        first, code = deaths[0]
        while_what = f" while {self._stage[first]}" if first in self._stage else ""
        how = f"exit status {code}" if code >= 0 else f"killed by {signal_name(-code)}"
        words = ranks.last_words(self._ranks_folder, first) if code > 0 else ""
        memory = " (memory ran out?)" if code == -signal.SIGKILL else ""
        return f"rank {first} crashed{while_what}: {how}{memory}" + (f"; {words}" if words else "") + "; the others were ended"

    def _hang(self, silent: set[int]) -> str:
        """Who hangs and who waits: every silent rank writes where it is."""
        for rank in silent:
            with suppress(ProcessLookupError):
                os.kill(self.hellos[rank].pid, signal.SIGUSR1)
        time.sleep(STACK_S)
        where = {rank: whereabouts(self.hellos[rank].pid, self._folder / f"{rank}.txt") for rank in sorted(silent)}
        return hang_sentence(where, self._stage)

    def _last_words(self) -> str:
        deaths = ranks.deaths(self._ranks_folder)
        if not deaths:
            return ranks.last_error(ranks.agent_log(self._ranks_folder)) or "no message"
        rank = deaths[0].rank
        return f"rank {rank}: {ranks.last_words(self._ranks_folder, rank)}"

    def close(self) -> None:
        """End torchrun and every rank, whatever they are doing."""
        for link in self._links.values():
            link.close()
        self._links = {}
        for hello in self.hellos.values():
            if _is_rank(hello.pid):
                with suppress(ProcessLookupError):
                    os.kill(hello.pid, signal.SIGKILL)
        self.hellos = {}
        agent, self._agent = self._agent, None
        if agent is not None:
            stop(agent)  # it ends ranks that never said hello
        self._selector.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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


def _is_rank(pid: int) -> bool:
    """A pid may have been given to somebody else since."""
    with suppress(psutil.Error):
        return "micro.collectives.rank" in psutil.Process(pid).cmdline()
    return False
