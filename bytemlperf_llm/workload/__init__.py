"""What is sent: request i of a scenario, the same for the same seed on every machine.

`Workload.request(i)` needs no other request: prompt order comes from seeded shuffles, answer
lengths from seeded blocks. So a million requests cost no memory, and any worker can make its own.
A trace is read forward, so its requests are best asked for in order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from itertools import count
from typing import Any

from bytemlperf_llm.plan.scenario import Scenario
from bytemlperf_llm.workload.lengths import LengthSeries
from bytemlperf_llm.workload.prompts import Prompt, PromptSource, source
from bytemlperf_llm.workload.sessions.graph import Session
from bytemlperf_llm.workload.sessions.source import SessionPrompts
from bytemlperf_llm.workload.trace_prompts import TraceEnded, TracePrompts, TraceReport
from engines.contract import Message, Request, Sampling


class Workload:
    """The requests of one run. Building it reads the prompt files and may raise UserError."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        keys = scenario.sampling
        self._sampling = Sampling(
            temperature=keys.temperature, top_p=keys.top_p, top_k=keys.top_k, seed=keys.seed, ignore_eos=keys.ignore_eos
        )
        self._seed = seed
        self._lengths = LengthSeries(scenario.output_tokens, seed, "output")
        traced = scenario.prompts.trace is not None
        self._trace = TracePrompts(scenario.prompts, scenario.folder, seed, self._lengths) if traced else None
        self.sessions = SessionPrompts(scenario, seed, self._lengths) if scenario.prompts.sessions is not None else None
        self._prompts: PromptSource = self._trace or self.sessions or source(scenario, seed)
        self._lengths_aside = LengthSeries(scenario.output_tokens, seed, "output-aside")

    @property
    def prompt_count(self) -> int | None:
        """Different prompts there are; None where there is no end of them (synthetic)."""
        return self._prompts.count

    @property
    def trace_report(self) -> TraceReport | None:
        """What became of the trace's rows up to the last request made; None without a trace."""
        return None if self._trace is None else self._trace.report

    @property
    def prompt_lengths(self) -> str | None:
        """Where prompts are made to a number of tokens: whether that is exact or estimated, and how."""
        return getattr(self._prompts, "lengths", None)

    def trace_offset_ns(self, index: int) -> int:
        """When the trace has request `index` due (of sessions: when session `index` starts), ns from the start of its window, scaled.
        Raises TraceEnded."""
        if self.sessions is not None:
            return self.sessions.start_ns(index)
        assert self._trace is not None
        return self._trace.offset_ns(index)

    def request(self, index: int) -> Request:
        """Request `index` of the schedule, from 0. Its id is unique in the run. Raises TraceEnded
        where a trace has no such request, and UserError for a line of it that can't be used."""
        if self.sessions is not None:
            session, turn = self.sessions.place(index)
            return self.turn(session, turn, index, session.prompt(turn))
        return self._made(self._prompts.at(index), index, f"{self._seed}-{index:08d}", self._lengths)

    def turn(self, session: Session, turn: int, index: int, messages: tuple[Message, ...]) -> Request:
        """Request `index`, a turn of a session, with the history that it really has."""
        return Request(
            index=index,
            id=f"{self._seed}-{index:08d}",
            max_tokens=session.turns[turn].max_tokens,
            messages=messages,
            sampling=self._sampling,
            session=session.id,
            turn=turn,
            tools=session.turns[turn].tools,
        )

    def aside(self, index: int, purpose: str = "warmup") -> Request:
        """An unmeasured request, for warm-up and probe: like the measured ones, from the other end
        of the shuffled prompt set. Requests of one run use different indices."""
        return self._made(self._prompts.aside(index), index, f"{self._seed}-{purpose}-{index:08d}", self._lengths_aside)

    def __iter__(self) -> Iterator[Request]:
        """Requests 0, 1, 2, ... without end, or to the trace's."""
        for index in count():
            try:
                yield self.request(index)
            except TraceEnded:
                return

    def _made(self, prompt: Prompt, index: int, request_id: str, lengths: LengthSeries) -> Request:
        return Request(
            index=index,
            id=request_id,
            max_tokens=prompt.output_tokens or lengths.at(index),
            messages=prompt.messages,
            prompt=prompt.prompt,
            sampling=self._sampling,
            session=prompt.session,
        )


@lru_cache(maxsize=8)
def _sampling_text(sampling: Sampling) -> str:
    return json.dumps([sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed, sampling.ignore_eos])


def schedule_line(request: Request, planned_ns: int | None) -> bytes:
    """What the schedule hash covers of one request: a JSON line of index, planned offset (ns from
    the start; "-" in closed loop), max_tokens, sampling, the prompt with its roles and calls of tools, and tools where it has some."""
    text = request.prompt if request.messages is None else [_told(message) for message in request.messages]
    planned = "-" if planned_ns is None else planned_ns
    head = f"[{request.index},{json.dumps(planned)},{request.max_tokens},{_sampling_text(request.sampling)},"
    tools = f",{json.dumps(request.tools)}" if request.tools else ""
    return (head + json.dumps(text) + tools + "]\n").encode("ascii")


def _told(message: Message) -> list[Any]:
    calls = [[call.id, call.function.name, call.function.arguments] for call in message.tool_calls]
    return [message.role, message.content, *filter(None, (calls, message.tool_call_id))]
