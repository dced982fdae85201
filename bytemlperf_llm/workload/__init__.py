"""What is sent: request i of a scenario, the same for the same seed on every machine.

`Workload.request(i)` needs no other request: prompt order comes from seeded shuffles, answer
lengths from seeded blocks. So a million requests cost no memory, and any worker can make its own.
A trace is read forward, so its requests are best asked for in order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import count
from typing import Any, NamedTuple

import msgspec

from bytemlperf.errors import UserError
from bytemlperf_llm.plan.scenario import ClassKeys, Images, Prompts, Scenario
from bytemlperf_llm.workload.classes import ClassSeries, seed_of_class
from bytemlperf_llm.workload.lengths import LengthSeries
from bytemlperf_llm.workload.prefixes import Prefix
from bytemlperf_llm.workload.prompts import Prompt, PromptSource, made_up, source
from bytemlperf_llm.workload.salt import salted
from bytemlperf_llm.workload.sessions.graph import Session
from bytemlperf_llm.workload.sessions.mixed import Singles, mixed
from bytemlperf_llm.workload.sessions.source import SessionPrompts
from bytemlperf_llm.workload.token_counter import WordCounter, counter_for
from bytemlperf_llm.workload.trace_prompts import TraceEnded, TracePrompts, TraceReport
from engines.contract import Image, Message, Request, Sampling, TrafficClass

QUERY_WORDS = 12
"""Of a rerank's query."""


class Part(NamedTuple):
    """What the requests of a class are made of; of all requests where there are no classes."""

    keys: Prompts
    prompts: PromptSource
    lengths: LengthSeries
    lengths_aside: LengthSeries
    traffic_class: TrafficClass | None = None


class Workload:
    """The requests of one run. Building it reads the prompt files and may raise UserError."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        keys, classes = scenario.sampling, scenario.classes
        self._sampling = Sampling(
            temperature=keys.temperature, top_p=keys.top_p, top_k=keys.top_k, seed=keys.seed, ignore_eos=keys.ignore_eos
        )
        self._scenario, self._seed, self._salt = scenario, seed, scenario.prompts.salt
        lengths = LengthSeries(scenario.output_tokens, seed, "output")
        self.sessions = SessionPrompts(scenario, seed, lengths) if scenario.prompts.sessions is not None else None
        prompts = self.sessions or self._source(scenario.prompts, seed, lengths)
        self._part = Part(scenario.prompts, prompts, lengths, LengthSeries(scenario.output_tokens, seed, "output-aside"))
        self._parts = {name: self._part_of(name, own) for name, own in classes.items()}
        self._classes, self._classes_aside = (ClassSeries(classes, seed, purpose) for purpose in ("class", "class-aside"))
        if self.sessions is not None and scenario.mixes_prompts:
            own = {name: part for name, part in self._parts.items() if classes[name].prompts is not None}
            singles = {name: Singles(name, part.prompts, part.lengths) for name, part in own.items()}
            self.sessions.mix(partial(mixed, self._classes, singles))

    def _source(self, prompts: Prompts, seed: int, lengths: LengthSeries) -> PromptSource:
        folder, mixed = self._scenario.folder, self._scenario.mixes_prompts
        prompts = msgspec.structs.replace(prompts, salt=self._salt)
        return source(prompts, folder, seed) if prompts.trace is None else TracePrompts(prompts, folder, seed, lengths, rounds=mixed)

    def _part_of(self, name: str, keys: ClassKeys) -> Part:
        part, seed = self._part._replace(traffic_class=keys.traffic_class(name)), seed_of_class(self._seed, name)
        if keys.output_tokens is not None:
            lengths, aside = (LengthSeries(keys.output_tokens, seed, purpose) for purpose in ("output", "output-aside"))
            part = part._replace(lengths=lengths, lengths_aside=aside)
        if keys.prompts is None:
            return part
        return part._replace(keys=keys.prompts, prompts=self._source(keys.prompts, seed, part.lengths))

    @property
    def prompt_count(self) -> int | None:
        """Requests with different prompts; None where there is no end of them (synthetic), or where classes have their own."""
        count = None if self._scenario.mixes_prompts else self._part.prompts.count
        return None if count is None else max(1, count // self._part.keys.batch_size)

    @property
    def trace_report(self) -> TraceReport | None:
        """What became of the trace's rows up to the last request made, of the first class that has one; None without a trace."""
        traces = (part.prompts for part in (self._part, *self._parts.values()) if isinstance(part.prompts, TracePrompts))
        return next((trace.report for trace in traces), None)

    @property
    def prompt_lengths(self) -> str | None:
        """Where prompts are made to a number of tokens: whether that is exact or estimated, and how."""
        said = (getattr(part.prompts, "lengths", None) for part in (*self._parts.values(), self._part))
        return next((lengths for lengths in said if lengths), None)

    def trace_offset_ns(self, index: int) -> int:
        """When the trace has request `index` due (of sessions: when session `index` starts), ns from the start of its window, scaled.
        Raises TraceEnded."""
        if self.sessions is not None:
            return self.sessions.start_ns(index)
        assert isinstance(self._part.prompts, TracePrompts)
        return self._part.prompts.offset_ns(index)

    def request_id(self, index: int) -> str:
        """Of a measured request."""
        return f"{self._seed}-{index:08d}"

    def request(self, index: int) -> Request:
        """Request `index` of the schedule, from 0. Its id is unique in the run. Raises TraceEnded
        where a trace has no such request, and UserError for a line of it that can't be used."""
        if self.sessions is not None:
            session, turn = self.sessions.place(index)
            return self.turn(session, turn, index, session.prompt(turn))
        part, place = self._place(self._classes, index)
        return self._salted(self._made(part, part.prompts.at, place, index, self.request_id(index), part.lengths))

    def _place(self, classes: ClassSeries, index: int) -> tuple[Part, int]:
        """What request `index` of a series is made of, and its place there."""
        if not self._parts:
            return self._part, index
        name, place = classes.at(index)
        return self._parts[name], place

    def turn(self, session: Session, turn: int, index: int, messages: tuple[Message, ...]) -> Request:
        """Request `index`, a turn of a session, with the history that it really has. A class is one of whole sessions."""
        assert self.sessions is not None
        part = self._place(self._classes, self.sessions.number(index))[0] if self._parts else self._part
        request = Request(
            index=index,
            id=self.request_id(index),
            max_tokens=session.turns[turn].max_tokens,
            messages=messages,
            sampling=self._sampling,
            session=session.id,
            turn=turn,
            tools=session.turns[turn].tools,
            traffic_class=part.traffic_class,
        )
        return self._salted(request)

    def prefix(self, index: int) -> Prefix | None:
        """What of request `index` was in an earlier one of the schedule, of single requests; asked for in its order. Where there are
        classes, it isn't said in which one."""
        part, place = self._place(self._classes, index)
        if part.keys.task != "generate" or part.keys.images is not None:  # what stands before each request's own picture isn't known
            return Prefix(None)
        prefix = part.prompts.prefix(place)
        return prefix if prefix is None or not self._parts else msgspec.structs.replace(prefix, index=None)

    def aside(self, index: int, purpose: str = "warmup") -> Request:
        """An unmeasured request, for warm-up and probe: like the measured ones, from the other end
        of the shuffled prompt set. Requests of one run use different indices."""
        part, place = self._place(self._classes_aside, index)
        return self._made(part, part.prompts.aside, place, index, f"{self._seed}-{purpose}-{index:08d}", part.lengths_aside)

    def unmeasured(self, request: Request) -> Request:
        """As long as this one, and of its class; of a trace or sessions with other words, so that no prefix is cached before it is
        measured."""
        part, place = (self._part, request.index) if self.sessions is not None else self._place(self._classes, request.index)
        if not isinstance(part.prompts, TracePrompts | SessionPrompts):
            return request
        request_id = f"{self._seed}-ready-{request.index:08d}"
        made = self._made(part, part.prompts.aside, place, request.index, request_id, part.lengths_aside)
        return msgspec.structs.replace(made, traffic_class=request.traffic_class)

    def __iter__(self) -> Iterator[Request]:
        """Requests 0, 1, 2, ... without end, or to the trace's."""
        for index in count():
            try:
                yield self.request(index)
            except TraceEnded:
                return

    def _salted(self, request: Request) -> Request:
        return request if self._salt is None else salted(request, self._salt)

    def _made(
        self, part: Part, prompt_at: Callable[[int], Prompt], place: int, index: int, request_id: str, lengths: LengthSeries
    ) -> Request:
        if part.keys.task != "generate":
            return self._of_inputs(part, prompt_at, place, index, request_id)
        prompt = _encoded(part.keys, prompt_at(place))
        if part.keys.images is not None:
            prompt = _shown(part.keys.images, prompt, request_id)
        return Request(
            index=index,
            id=request_id,
            max_tokens=prompt.output_tokens or lengths.at(index),
            messages=prompt.messages,
            prompt=prompt.prompt,
            token_ids=prompt.token_ids,
            sampling=self._sampling,
            session=prompt.session,
            traffic_class=part.traffic_class,
        )

    def _of_inputs(self, part: Part, prompt_at: Callable[[int], Prompt], place: int, index: int, request_id: str) -> Request:
        """Each prompt is an input, with a made-up query before them in a rerank."""
        keys, first = part.keys, place * part.keys.batch_size
        inputs = [_input(_encoded(keys, prompt_at(number))) for number in range(first, first + keys.batch_size)]
        query = made_up(self._seed, f"query/{request_id}", QUERY_WORDS) if keys.task == "rerank" else None
        return Request(index=index, id=request_id, max_tokens=0, inputs=tuple(inputs), query=query, traffic_class=part.traffic_class)


def _encoded(keys: Prompts, prompt: Prompt) -> Prompt:
    """As token ids, where prompts are sent so. Raises UserError where no tokenizer is known."""
    if not keys.token_ids or prompt.token_ids is not None:
        return prompt
    messages = prompt.messages or (Message(role="user", content=prompt.prompt or ""),)
    counter = counter_for(keys.tokenizer, keys.template)
    if isinstance(counter, WordCounter):
        raise UserError("token ids of recorded text need the model's tokenizer", "give its folder with --tokenizer, or --input-len")
    return msgspec.structs.replace(prompt, messages=None, prompt=None, token_ids=tuple(counter.tokens(messages)))


def _shown(images: Images, prompt: Prompt, request_id: str) -> Prompt:
    """With its pictures, in the last message."""
    *before, last = prompt.messages or (Message(role="user", content=prompt.prompt or ""),)
    drawn = tuple([Image(images.width, images.height, f"{request_id}/{number}") for number in range(images.count)])
    return msgspec.structs.replace(prompt, messages=(*before, msgspec.structs.replace(last, images=drawn)), prompt=None)


def _input(prompt: Prompt) -> str | tuple[int, ...]:
    return prompt.token_ids or prompt.prompt or "\n\n".join([message.content for message in prompt.messages or ()])


@lru_cache(maxsize=8)
def _sampling_text(sampling: Sampling) -> str:
    return json.dumps([sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed, sampling.ignore_eos])


def schedule_line(request: Request, planned_ns: int | None) -> bytes:
    """What the schedule hash covers of one request: a JSON line of index, planned offset (ns from
    the start; "-" in closed loop), max_tokens, sampling, the prompt (with its roles and calls of tools; its token ids; the inputs), and
    tools and class where it has some."""
    text: Any = request.token_ids or request.prompt
    if request.messages is not None:
        text = [_told(message) for message in request.messages]
    elif request.inputs is not None:
        text = {"query": request.query, "inputs": request.inputs}
    planned = "-" if planned_ns is None else planned_ns
    head = f"[{request.index},{json.dumps(planned)},{request.max_tokens},{_sampling_text(request.sampling)},"
    tools = f",{json.dumps(request.tools)}" if request.tools else ""
    of_class = f",{json.dumps(msgspec.structs.astuple(request.traffic_class))}" if request.traffic_class else ""
    return (head + json.dumps(text) + tools + of_class + "]\n").encode("ascii")


def _told(message: Message) -> list[Any]:
    calls = [[call.id, call.function.name, call.function.arguments] for call in message.tool_calls]
    images = [image if isinstance(image, str) else [image.width, image.height, image.seed] for image in message.images]
    return [message.role, message.content, *filter(None, (calls, message.tool_call_id, images))]
