"""What a turn of a session costs this client, beside single requests of the same length in the same minute.

    BMP_TOOLS=folder python benchmarks/sessions.py [--rounds 5] [--sessions 1000] [--memory 10000]

- cost of a request: sessions of ten turns against single requests, in a closed loop of as many lanes and in an open loop of as many
  requests/s, alternating, client and server on a core each. Prompts are as long on average, answers are eight tokens in one write.
  `loop` is the busy time of the event loop while the load runs; the median of the rounds' ratios is held against 1.3.
- memory: so many sessions in flight at once on one loop, each between two turns. What Python has taken for them (tracemalloc), less the
  characters of their texts, is held against 100 MB.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

from harness import judged, median, mock_server, our_run, say_machine

from bytemlperf_llm.loadgen.pacer import real_pacer
from bytemlperf_llm.loadgen.recorder import monotonic_ns
from bytemlperf_llm.loadgen.sessions import SessionWork, SessionWorker
from bytemlperf_llm.loadgen.worker import WorkerConfig
from bytemlperf_llm.plan.scenario import load
from bytemlperf_llm.record.record import RequestRecord
from bytemlperf_llm.workload.prompts import made_up_texts
from bytemlperf_llm.workload.schedule import Schedule
from engines.contract import Decoded, EngineInfo, Finish, Request, Usage

COST_BOUND, MEMORY_BOUND_MB = 1.3, 100
TURNS, WORDS, TOKENS, LANES, RATE = 10, 20, 8, 64, 2_000
MEAN_PROMPT_WORDS = WORDS + (TURNS - 1) * (WORDS + TOKENS) // 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sessions", type=int, default=1_000)
    parser.add_argument("--memory", type=int, default=10_000)
    arguments = parser.parse_args()
    say_machine()
    cost(arguments.rounds, arguments.sessions)
    asyncio.run(memory(arguments.memory))


# -- cost of a request ----------------------------------------------------------------------


def constant(value: int) -> dict[str, Any]:
    return {"distribution": "constant", "value": value}


def scenario(folder: Path, name: str, prompts: dict[str, Any], arrival: dict[str, Any], **bounds: int) -> str:
    """A file of one; JSON is YAML."""
    keys = {"output_tokens": constant(TOKENS), "arrival": arrival, "warmup_requests": 0, **bounds}
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({"name": name, "description": "benchmark", "prompts": prompts, **keys}))
    return str(path)


def write_texts(folder: Path, sessions: int) -> None:
    """As many single prompts as turns, as long on average."""
    with (folder / "single.jsonl").open("w") as file:
        for text in made_up_texts(0, "single", [MEAN_PROMPT_WORDS] * sessions * TURNS):
            file.write(json.dumps({"messages": [{"role": "user", "content": text}]}) + "\n")
    with (folder / "sessions.jsonl").open("w") as file:
        texts = iter(made_up_texts(0, "sessions", [WORDS, TOKENS] * sessions * TURNS))
        for _ in range(sessions):
            messages = [{"role": role, "content": next(texts)} for role in ("user", "assistant") * TURNS]
            file.write(json.dumps({"messages": messages}) + "\n")


def cost(rounds: int, sessions: int) -> None:
    """Alternating, so that a machine that slows down slows both. Texts come from files: none is made up meanwhile."""
    closed = {"process": "closed", "max_concurrency": LANES}
    loops = {"closed loop": (closed, closed), "open loop": tuple({"process": "poisson", "rate": rate} for rate in (RATE, RATE / TURNS))}
    with tempfile.TemporaryDirectory() as place, mock_server(1, 0, 1000) as server:
        folder = Path(place)
        write_texts(folder, sessions)
        for loop, (of_single, of_sessions) in loops.items():
            files = {"files": [str(folder / "single.jsonl")]}
            single = scenario(folder, "single", files, of_single, num_requests=sessions * TURNS)
            talks = {"sessions": {"format": "openai_messages", "file": str(folder / "sessions.jsonl")}}
            turns = scenario(folder, "turns", talks, of_sessions, num_sessions=sessions)
            ratios = []
            for _ in range(rounds):
                alone, chained = (our_run(server.url, "--scenario", name) for name in (single, turns))
                costs = [run.loop_cpu_s / run.ok * 1e6 for run in (alone, chained)]
                ratios.append(costs[1] / costs[0])
                print(f"{loop}, loop µs a request: single {costs[0]:.1f}, in sessions {costs[1]:.1f}, ratio {ratios[-1]:.2f}")
            print(f"{loop}, cost of a request in sessions over single: {median(ratios):.2f} {judged(median(ratios), COST_BOUND)}")


# -- memory ----------------------------------------------------------------------------------


class _Engine:
    """Answers at once."""

    async def generate(self, _request: Request, recorder: Any) -> Finish:
        recorder.sent()
        recorder.chunk(TOKENS)
        return Finish(reason="length", usage=Usage(prompt_tokens=1, output_tokens=TOKENS))

    def decode(self, payloads: list[int]) -> Decoded:
        return Decoded(tokens_per_chunk=payloads, text="x")

    async def start(self, *_: Any) -> EngineInfo:
        return EngineInfo(name="at once")

    async def close(self) -> None:
        return None


class _Counted:
    """A sink that keeps nothing."""

    def __init__(self, stop_at: int) -> None:
        self.count, self._stop_at, self.reached = 0, stop_at, asyncio.Event()

    def started(self) -> None:
        return None

    def ended(self, _record: RequestRecord) -> None:
        self.count += 1
        if self.count == self._stop_at:
            self.reached.set()


async def memory(count: int) -> None:
    """All have had their first turn and wait for the next one."""
    think = constant(600_000)
    prompts = {"sessions": {"synthetic": {"turns": constant(TURNS), "words": constant(WORDS)}, "think_ms": think}}
    arrival = {"process": "closed", "max_concurrency": count}
    schedule = Schedule(load("chat-multiturn").override({"prompts": prompts, "arrival": arrival, "num_sessions": count}), 0)
    workload = schedule.workload()
    sink = _Counted(count)
    worker = SessionWorker(_Engine(), sink, real_pacer(), WorkerConfig())  # type: ignore[arg-type]
    gc.collect()
    tracemalloc.start()
    work = SessionWork(schedule.sessions(workload=workload), workload.turn, "recorded")
    running = asyncio.ensure_future(worker.run_sessions(work, monotonic_ns(), count))
    await sink.reached.wait()
    gc.collect()
    taken_mb = tracemalloc.get_traced_memory()[0] / 1e6
    tracemalloc.stop()
    worker.stop()
    await running
    turns = [turn for planned in schedule.sessions() for turn in planned.session.turns]
    text_mb = sum(len(turn.answer) + sum(len(message.content) for message in turn.messages) for turn in turns) / 1e6
    own_mb = taken_mb - text_mb
    print(f"{count} sessions of {TURNS} turns in flight: {own_mb:.1f} MB beside {text_mb:.1f} MB of text {judged(own_mb, MEMORY_BOUND_MB)}")


if __name__ == "__main__":
    main()
