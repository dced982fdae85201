"""A run's ranks from outside: started, followed through rank 0's log as it grows, torchrun's end, hangs and restarts.

torchrun starts one worker a rank, watches them, and starts all of them again when one dies and
`--max-restarts` allows it. Its messages and each rank's own output are kept in the run folder under `ranks/`.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.child import ranks
from bytemlperf.child.process import OFFLINE, signal_name, stop
from bytemlperf.child.ranks import Death, deaths
from bytemlperf.runs.suite import SuiteRun
from training.plan.plan import PLAN_NAME, START_TIMEOUT_S, Plan
from training.results.records import EXIT_HUNG, GRACE_S, RANK_LOG, RANKS_FOLDER, EndRecord, EventRecord, Record, StartRecord, StepRecord

KILL_PATIENCE_S = 10.0


def start(plan: Plan) -> subprocess.Popen[bytes]:
    """The agent, in a session of its own: a terminal's interrupt reaches only us."""
    folder = Path(plan.folder)
    return ranks.start(
        plan.ranks_per_node,
        "training.rank.worker",
        str(folder / PLAN_NAME),
        folder=folder / RANKS_FOLDER,
        threads=plan.threads,
        more=OFFLINE,
        restarts=plan.max_restarts,
    )


def hang_sentence(run_folder: Path) -> str:
    """Where each rank was when it hung."""
    frames = {rank: ranks.innermost(path.read_text("utf-8", "replace")) for rank, path in stacks(run_folder).items()}
    places = [
        f"rank {rank} in {frame.path.parent.name}/{frame.path.name}:{frame.line} ({frame.function})"
        for rank, frame in frames.items()
        if frame
    ]
    return f"the ranks hung: {'; '.join(places) or 'no stack was written'}; all stacks: {run_folder / RANKS_FOLDER}/stacks-*.txt"


def stacks(run_folder: Path) -> dict[int, Path]:
    """The ranks that wrote their stacks, and where."""
    paths = {int(path.stem.partition("-")[2]): path for path in sorted((run_folder / RANKS_FOLDER).glob("stacks-*.txt"))}
    return {rank: path for rank, path in sorted(paths.items()) if path.stat().st_size}


POLL_S = 0.1
HANG_PATIENCE_S = 15.0
"""The ranks' own watchdogs come first; this is for those that can't even end themselves."""

Listener = Callable[[Record], None]


class Tail:
    """Whole records that are added to a file from now on, each once."""

    def __init__(self, path: Path) -> None:
        self._decode: Callable[[bytes], Record] = msgspec.json.Decoder(Record).decode
        self._path, self._offset = path, path.stat().st_size if path.exists() else 0

    def new(self) -> Iterator[Record]:
        """Those that came since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                grown = file.read()
        except FileNotFoundError:
            return
        whole = grown[: grown.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            try:
                yield self._decode(line)
            except msgspec.DecodeError:
                continue  # torn by a rank's death; the log's own reader names it


class Follower:
    """Waits for the agent's end and writes the events; `failure` is empty when all went well."""

    def __init__(self, plan: Plan, run: SuiteRun, agent: subprocess.Popen[bytes], listeners: list[Listener]) -> None:
        self._plan, self._run, self._agent, self._listeners = plan, run, agent, listeners
        self._folder = Path(plan.folder)
        self._tail = Tail(self._folder / RANK_LOG)
        self._last_ns = time.perf_counter_ns()
        self._limit_s = START_TIMEOUT_S
        self._attempt = plan.first_attempt
        self._ended = False

    def follow(self, stopping: Callable[[], bool]) -> str:
        """Until the agent has ended; a sentence when it failed. `stopping` True ends it at once."""
        while self._agent.poll() is None:
            if stopping():
                stop(self._agent, KILL_PATIENCE_S)
                break
            self._pass_on()
            if self._hangs():
                stop(self._agent, KILL_PATIENCE_S)
                self._pass_on()
                return self._event("hang", hang_sentence(self._folder), list(stacks(self._folder)))
            time.sleep(POLL_S)
        self._pass_on()
        return "" if self._agent.returncode == 0 or self._ended or stopping() else self._failure()

    def _pass_on(self) -> None:
        for record in self._tail.new():
            self._last_ns = time.perf_counter_ns()
            stepping = isinstance(record, StepRecord | StartRecord)
            self._limit_s = self._plan.step_timeout_s if stepping else max(self._plan.step_timeout_s, self._limit_s)
            self._ended = isinstance(record, EndRecord)
            if isinstance(record, StartRecord) and record.attempt > self._attempt:
                self._restarted(record.attempt)
            for listener in self._listeners:
                listener(record)

    def _restarted(self, attempt: int) -> None:
        for death in self._deaths()[: attempt - self._attempt]:
            self._event("failure", self._why(death), [death.rank])
        self._attempt = attempt
        self._event("restart", f"torchrun restarted the ranks, attempt {attempt}", [])

    def _hangs(self) -> bool:
        silent_s = (time.perf_counter_ns() - self._last_ns) / 1e9
        restarting = self._plan.max_restarts and START_TIMEOUT_S
        return silent_s > max(self._limit_s, restarting) + GRACE_S + HANG_PATIENCE_S

    def _failure(self) -> str:
        dead = self._deaths()
        if not dead:
            return self._event("failure", f"torchrun ended with status {self._agent.returncode}; its messages: {self._folder}/ranks", [])
        for death in dead[:-1]:
            self._event("failure", self._why(death), [death.rank])
            self._attempt += 1
        kind = "hang" if dead[-1].exit_code == EXIT_HUNG else "failure"
        return self._event(kind, self._why(dead[-1]), [dead[-1].rank])

    def _deaths(self) -> list[Death]:
        """From this attempt on; torchrun counts those of this part of the run."""
        return deaths(self._folder / RANKS_FOLDER)[self._attempt - self._plan.first_attempt :]

    def _why(self, death: Death) -> str:
        """One sentence about a rank's end."""
        if death.exit_code == EXIT_HUNG:
            return hang_sentence(self._folder)
        if death.exit_code < 0:
            return f"rank {death.rank} was killed by {signal_name(-death.exit_code)}"
        words = ranks.last_words(self._folder / RANKS_FOLDER, death.rank, self._attempt - self._plan.first_attempt)
        return f"rank {death.rank} failed: {words or 'it left no message'}"

    def _event(self, event: Any, detail: str, ranks: list[int]) -> str:
        self._run.append(EventRecord(event=event, attempt=self._attempt, at_ns=time.perf_counter_ns(), detail=detail, ranks=ranks))
        return detail
