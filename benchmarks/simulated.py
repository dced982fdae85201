"""Runs of a server that never was: records as a client would write them, from a model of continuous batching on a virtual clock.

Every figure's interval and every verdict of a comparison can be held against the truth here, which no real server
allows: one run is a few hundredths of a second, and thousands of them are the same server. What real runs have is in it:
a queue, steps that all requests in flight share (so that neighbours are alike), a speed that drifts, rare stalls, jitter,
bursts of several tokens, and reads that split a burst as luck will have it.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, replace

from bytemlperf_llm.record.record import RequestRecord

US, MS, S = 1_000, 1_000_000, 1_000_000_000


@dataclass(frozen=True)
class Served:
    """One server and its load; times in ms. `rate` is requests/s (Poisson), None for a closed loop of `concurrency`."""

    requests: int = 300
    rate: float | None = 15.0
    concurrency: int = 16
    slots: int = 32
    tokens: float = 48.0  # median of lognormal lengths
    spread: float = 0.6  # sigma of their logarithm
    step_ms: float = 6.0  # with an empty batch
    request_step_ms: float = 0.12  # more for each request in the batch
    prefill_ms: float = 12.0  # mean of what a request's prompt adds to the step that takes it in
    jitter: float = 0.08  # share of a step, exponential
    drift: float = 0.03  # standard deviation of the speed, which wanders
    drift_s: float = 1.0  # time after which it has forgotten where it was
    stall: float = 0.002  # steps that take ten times as long
    burst: int = 1  # most tokens a step
    slower: float = 1.0  # of everything the server does

    def but(self, **changes: float | int | None) -> Served:
        return replace(self, **changes)  # type: ignore[arg-type]


def run_of(served: Served, seed: int, schedule_seed: int | None = None) -> list[RequestRecord]:
    """The records of one run. Lengths and arrivals come from `schedule_seed`, all else from `seed`."""
    plan, chance = random.Random(f"plan {schedule_seed if schedule_seed is not None else seed}"), random.Random(f"run {seed}")
    lengths = [max(2, round(plan.lognormvariate(0, served.spread) * served.tokens)) for _ in range(served.requests)]
    prompts = [plan.expovariate(1.0) for _ in range(served.requests)]
    due, now = [], 0.0
    for _ in range(served.requests):
        now += plan.expovariate(served.rate) * S if served.rate else 0.0
        due.append(round(now))
    return _Run(served, chance, lengths, prompts, due).records()


class _Run:
    """A server that takes one step after the other."""

    def __init__(self, served: Served, chance: random.Random, lengths: list[int], prompts: list[float], due: list[int]) -> None:
        self._served, self._chance, self._lengths, self._prompts, self._due = served, chance, lengths, prompts, due
        self._sent: list[int] = list(due) if served.rate else [0] * min(served.concurrency, len(due))
        self._stamps: list[list[int]] = [[] for _ in due]
        self._tokens: list[list[int]] = [[] for _ in due]
        self._left = list(lengths)
        self._level = chance.gauss(0, 1)

    def records(self) -> list[RequestRecord]:
        served, active, waiting, now, begun = self._served, [], deque[int](), 0, 0
        while begun < len(self._due) or waiting or active:
            arrived = bisect_right(self._sent, now)
            waiting.extend(range(begun, arrived))
            begun = max(begun, arrived)
            if not waiting and not active:
                now = self._sent[begun]
                continue
            fresh = [waiting.popleft() for _ in range(min(len(waiting), served.slots - len(active)))]
            active += fresh
            now += self._step_ns(len(active), sum(self._prompts[index] for index in fresh))
            active = [index for index in active if self._receive(index, now)]
        return [self._record(index) for index in range(len(self._due))]

    def _step_ns(self, batch: int, prompts: float) -> int:
        served, chance = self._served, self._chance
        plain_ms = served.step_ms + served.request_step_ms * batch + served.prefill_ms * prompts
        keep = 1 - min(1.0, plain_ms / 1e3 / served.drift_s)
        self._level = keep * self._level + (1 - keep * keep) ** 0.5 * chance.gauss(0, 1)
        factor = (1 + served.drift * self._level) * (1 + served.jitter * chance.expovariate(1.0))
        return round(plain_ms * max(0.2, factor) * (10 if chance.random() < served.stall else 1) * served.slower * MS)

    def _receive(self, index: int, now: int) -> bool:
        """Whether the request goes on. Tokens of a step leave together and are read in one or two reads."""
        chance, first = self._chance, not self._stamps[index]
        many = min(self._left[index], 1 if first else chance.randint(1, self._served.burst))
        stamp = now + round(chance.expovariate(1.0) * 40 * US)
        early = chance.randrange(many) if many > 1 and chance.random() < 0.5 else 0
        for part in (early, many - early):
            if part:
                self._stamps[index].append(max(stamp, self._stamps[index][-1] + 1 if self._stamps[index] else 0))
                self._tokens[index].append(part)
                stamp += round(chance.uniform(10, 110) * US)
        self._left[index] -= many
        if not self._left[index] and not self._served.rate and len(self._sent) < len(self._due):
            self._sent.append(max(self._stamps[index][-1] + 200 * US, self._sent[-1]))
        return self._left[index] > 0

    def _record(self, index: int) -> RequestRecord:
        sent = self._sent[index]
        return RequestRecord(
            id=f"r{index}",
            index=index,
            planned_ns=self._due[index] if self._served.rate else None,
            sent_ns=sent,
            first_byte_ns=self._stamps[index][0],
            chunk_ns=self._stamps[index],
            tokens_per_chunk=self._tokens[index],
            end_ns=self._stamps[index][-1],
            outcome="ok",
            prompt_tokens=10,
            output_tokens=self._lengths[index],
            max_tokens=self._lengths[index],
            token_source="usage",
            finish_reason="length",
        )
