"""Session `number` of a scenario, and the place of its requests in the schedule: the same for the same seed on every machine.

Sessions come from a file, read forward, or are made up. Their turns are numbered through: session 0 has the first ones, session 1 the
next. So each worker can build its own sessions and knows the places of their requests.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.units import NS_PER_MS
from bytemlperf_llm.plan.scenario import Scenario
from bytemlperf_llm.workload.data_files import NOT_TEXT, echo, is_text
from bytemlperf_llm.workload.lengths import LengthSeries
from bytemlperf_llm.workload.prefixes import Prefix, PrefixIndex
from bytemlperf_llm.workload.prompts import Prompt, made_up, made_up_texts
from bytemlperf_llm.workload.sessions import agents, conversations, dag, hashed
from bytemlperf_llm.workload.sessions.graph import Blocks, Draft, Node, Session, Turn, answered, ordered
from bytemlperf_llm.workload.sessions.synthetic import synthetic
from bytemlperf_llm.workload.synthesis import TextMaker, maker_for
from bytemlperf_llm.workload.token_counter import counter_for
from bytemlperf_llm.workload.trace_prompts import Cursor, TraceEnded
from bytemlperf_llm.workload.traces.rows import BLOCK_SIZE_FIX, misfit
from engines.contract import Message

FORMATS: dict[str, Callable[[Path], Iterator[Draft | None]]] = {
    "sharegpt_turns": conversations.sharegpt,
    "openai_messages": conversations.openai,
    "mooncake_sessions": conversations.rows,
    "lmcache_agentic": conversations.rows,
    "dag_jsonl": dag.dag_jsonl,
    "weka": hashed.weka,
    "tracelab": hashed.tracelab,
    "bailian_chains": hashed.bailian,
    "mlperf_agentic": agents.mlperf_agentic,
    "otel_spans": agents.otel_spans,
}

TEMPLATE_TOKENS = 64
"""A message's share of a chat template, and of a default system prompt, at most."""


class SessionReport(msgspec.Struct, kw_only=True):
    """What became of a file's conversations, as far as it was read: `left_out` have no question with an answer, `too_long` don't fit the
    context, `truncated` end before their first turn that doesn't, `capped_delays` were longer than `max_delay_ms`, `waiting_subagents` wait
    for an earlier one by `max_subagents`, of `lengthened` prompts the chat template alone has more tokens than the file says, and
    `without_calls` recorded answers call tools, which the model's chat template leaves out."""

    left_out: int = 0
    too_long: int = 0
    truncated: int = 0
    capped_delays: int = 0
    waiting_subagents: int = 0
    lengthened: int = 0
    without_calls: int = 0

    def sentences(self) -> list[str]:
        """For the terminal."""
        said = (
            (self.left_out, "conversations left out: without a question and an answer"),
            (self.too_long, "sessions left out: longer than the context"),
            (self.truncated, "sessions end before the first turn that is longer than the context"),
            (self.capped_delays, "delays cut to max_delay_ms"),
            (self.waiting_subagents, "subagents wait for the end of an earlier one, by max_subagents"),
            (self.lengthened, "prompts longer than in the file: the chat template alone has more tokens"),
            (self.without_calls, "responses call tools, which the model's chat template leaves out of the prompts that follow"),
        )
        return [f"{count} {what}" for count, what in said if count]


class SessionPrompts:
    """The sessions of a scenario, and their requests as a source of prompts. Opens the file and reads its first session: may raise
    UserError."""

    count = None

    def __init__(self, scenario: Scenario, seed: int, lengths: LengthSeries) -> None:
        assert scenario.prompts.sessions is not None
        self._prompts, self._keys, self._seed, self._lengths = scenario.prompts, scenario.prompts.sessions, seed, lengths
        self._counter = counter_for(scenario.prompts.tokenizer, scenario.prompts.template)
        self._most = scenario.num_sessions
        think = self._keys.think_ms
        self._think = None if think is None else LengthSeries(think, seed, "think")
        file = self._keys.file
        self._path = None if file is None else scenario.folder / file
        self._maker: Callable[[int], TextMaker] = partial(maker_for, scenario.prompts.tokenizer, scenario.prompts.template, seed)
        self._sessions = Cursor(self._compiled)
        self._firsts = array("q", [0])
        self.report = SessionReport()
        maker = self.session(0).maker
        self.lengths = maker and maker.lengths

    def mix(self, mixed: Callable[[Cursor[Session]], Iterator[Session]]) -> None:
        """Let others come between its sessions, from the first on."""
        self._sessions, self._firsts = Cursor(partial(mixed, self._sessions)), array("q", [0])

    def session(self, number: int) -> Session:
        """Raises TraceEnded past the last one, UserError for one that can't be run."""
        if self._most is not None and number >= self._most:
            raise TraceEnded
        return self._sessions.at(number)

    def first_index(self, number: int) -> int:
        """The place in the schedule of a session's first turn."""
        while len(self._firsts) <= number:
            self._firsts.append(self._firsts[-1] + len(self.session(len(self._firsts) - 1).turns))
        return self._firsts[number]

    def place(self, index: int) -> tuple[Session, int]:
        """The session of request `index`, and its turn. Raises TraceEnded."""
        number = self.number(index)
        return self.session(number), index - self._firsts[number]

    def number(self, index: int) -> int:
        """That of the session of request `index`. Raises TraceEnded."""
        while self._firsts[-1] <= index:
            self.first_index(len(self._firsts))
        return bisect_right(self._firsts, index) - 1

    def mean_turns(self, most: int) -> float:
        """Turns of a session, on average over so many of the first."""
        number = 1
        with suppress(TraceEnded):
            while number < most:
                self.session(number)
                number += 1
        return self.first_index(number) / number

    def start_ns(self, number: int) -> int:
        """When the file has a session start, scaled. Raises TraceEnded, and UserError for one without a time."""
        session = self.session(number)
        if session.at_ns is None:
            raise UserError(
                f"{self._path}: session {echo(session.id)} has no timestamp", "give its first row one, or a rate with --request-rate"
            )
        return session.at_ns

    def line(self, index: int) -> bytes:
        """What the schedule hash covers of the graph at request `index`."""
        session, turn = self.place(index)
        return session.line(turn)

    def at(self, index: int) -> Prompt:
        """With the recorded answers before it. Raises TraceEnded."""
        session, turn = self.place(index)
        return Prompt(messages=session.prompt(turn), output_tokens=session.turns[turn].max_tokens, session=session.id)

    def prefix(self, index: int) -> Prefix | None:
        """Besides that of the turn that it continues."""
        session, turn = self.place(index)
        return session.turns[turn].shared

    def aside(self, index: int) -> Prompt:
        """As many words as request `index` has, others, so that no cache is warmed. Begins again at the last session's end."""
        try:
            like = self.at(index)
        except TraceEnded:
            like = self.at(index % self._firsts[-1])
        words = sum(len(message.text().split()) for message in like.messages or ())
        return Prompt(messages=(_user(made_up(self._seed, f"aside/{index}", max(1, words))),), output_tokens=like.output_tokens)

    # -- sessions ----------------------------------------------------------------------

    def _compiled(self) -> Iterator[Session]:
        """From the first on. Ids are unique."""
        self.report, first = SessionReport(), 0
        ids: set[str] = set()
        sent = PrefixIndex(self._prompts)
        for draft in self._drafts():
            if draft is None:
                self.report.left_out += 1
                continue
            if draft.id in ids:
                raise UserError(f"{draft.where}: session id {echo(draft.id)} is there twice", "give each session an id of its own")
            if not is_text(draft.id):
                raise UserError(f"{draft.where}: session id {echo(draft.id)}: {NOT_TEXT}", "give it another id")
            ids.add(draft.id)
            session = self._fitted(draft, self._session(draft, first))
            if session is not None and self._keys.max_subagents is not None:
                session, waiting = session.with_most_subagents(self._keys.max_subagents)
                self.report.waiting_subagents += waiting
            if session is not None:
                yield self._with_shared(session, first, sent)
                first += len(session.turns)
        if not first and self._path is not None:
            raise UserError(f"{self._path} has no session with a question and an answer", "give another file with --dataset-path")

    def _drafts(self) -> Iterator[Draft | None]:
        if self._path is not None and self._keys.format is not None:
            return FORMATS[self._keys.format](self._path)
        assert self._keys.synthetic is not None
        return synthetic(self._keys.synthetic, self._seed)

    def _session(self, draft: Draft, first: int) -> Session:
        """The draft with everything decided that the file doesn't say."""
        nodes = ordered(draft)
        places = {node.name: place for place, node in enumerate(nodes)}
        lengths = [self._max_tokens(node, first + place) for place, node in enumerate(nodes)]
        self.report.without_calls += 0 if self._counter.has_calls else sum(bool(node.tool_calls) for node in nodes)
        unsaid = [length if node.answer is None and node.blocks is None else 0 for node, length in zip(nodes, lengths, strict=True)]
        answers = made_up_texts(self._seed, f"answers/{first}", unsaid) if any(unsaid) else [""] * len(nodes)
        tools: dict[str | None, str] = {None: ""}
        for node in nodes:
            tools[node.name] = node.tools or tools[node.continues]
        turns = (
            Turn(
                messages=node.messages,
                blocks=node.blocks if node.blocks is None else self._long_enough(draft, node, node.blocks),
                max_tokens=lengths[place],
                answer=answers[place] if node.answer is None else node.answer,
                parents=tuple([places[parent] for parent in node.parents]),
                continues=None if node.continues is None else places[node.continues],
                at_ns=self._scaled(node.at_ns),
                delay_ns=self._delay_ns(node, first + place),
                tool_calls=node.tool_calls,
                tools=tools[node.name],
            )
            for place, node in enumerate(nodes)
        )
        at_ns = None if draft.at_ns is None else self._scaled(draft.at_ns)
        return Session(id=draft.id, turns=tuple(turns), at_ns=at_ns, maker=self._maker_of(draft) if draft.block_tokens else None)

    def _maker_of(self, draft: Draft) -> TextMaker:
        return self._maker(self._keys.block_tokens or draft.block_tokens)

    def _long_enough(self, draft: Draft, node: Node, blocks: Blocks) -> Blocks:
        """At least as long as the template around a word. Raises UserError for ids that don't fit the length."""
        size, least = self._keys.block_tokens or draft.block_tokens, self._maker_of(draft).minimum
        problem = misfit(len(blocks.ids), blocks.tokens, size)
        if problem:
            raise UserError(f"{draft.where}: session {echo(draft.id)}: turn {echo(node.name)}: hash_ids: {problem}", BLOCK_SIZE_FIX)
        self.report.lengthened += blocks.tokens < least
        return blocks if blocks.tokens >= least else msgspec.structs.replace(blocks, tokens=least)

    def _fitted(self, draft: Draft, session: Session) -> Session | None:
        """The session as it fits the context; None where it is left out. Raises UserError."""
        most = self._keys.max_model_len
        if most is None or not self._counter.exact:
            return session
        needed = {place: tokens for place in range(len(session.turns)) if (tokens := self._needed_tokens(session, place, most)) > most}
        if needed and self._keys.on_too_long == "fail":
            problem = f"session {echo(draft.id)} needs {max(needed.values())} tokens of context and there are {most}"
            raise UserError(f"{draft.where}: {problem}", "--on-too-long skip leaves such sessions out, truncate ends them earlier")
        kept = session.without(needed)
        if needed and (self._keys.on_too_long == "skip" or not kept.turns):
            self.report.too_long += 1
            return None
        self.report.truncated += bool(needed)
        return kept

    def _needed_tokens(self, session: Session, place: int, most: int) -> int:
        """Prompt and answer; 0 where so few bytes can't be too many tokens: counting costs time."""
        turn = session.turns[place]
        if turn.blocks is not None:
            return turn.blocks.tokens + turn.max_tokens
        messages = session.prompt(place)
        least = turn.max_tokens + len(turn.tools.encode()) + sum(len(message.text().encode()) + TEMPLATE_TOKENS for message in messages)
        return 0 if least <= most else turn.max_tokens + self._counter.prompt(messages, turn.tools)

    def _with_shared(self, session: Session, first: int, sent: PrefixIndex) -> Session:
        """With what prompts share with earlier ones, besides the one that they alone continue. `first` is the place of the first turn."""
        turns = list(session.turns)
        continued = [turn.continues for turn in turns]
        heirs: dict[int | None, int] = Counter(continued) if len(set(continued)) < len(continued) else {}
        for place, turn in enumerate(turns):
            if turn.blocks is not None and session.maker is not None:
                blocks, size = turn.blocks, session.maker.block_tokens
                shared = sent.add_blocks(blocks.ids, first + place, size, blocks.tokens, blocks.scope)
                turns[place] = msgspec.structs.replace(turn, shared=shared)
            elif turn.continues is None or heirs.get(turn.continues, 1) > 1:
                shared = sent.add(session.prompt(place), first + place, turn.tools)
                turns[place] = msgspec.structs.replace(turn, shared=shared)
        return msgspec.structs.replace(session, turns=tuple(turns))

    def _max_tokens(self, node: Node, index: int) -> int:
        if node.max_tokens:
            return node.max_tokens
        if node.answer is None:
            return self._lengths.at(index)
        text = answered(node.answer, node.tool_calls).text() if node.tool_calls else node.answer
        return self._counter.text(text) or self._lengths.at(index)

    def _delay_ns(self, node: Node, index: int) -> int:
        if node.delay_ns is not None:
            delay_ns, most_ms = self._scaled(node.delay_ns), self._keys.max_delay_ms
            capped = most_ms is not None and delay_ns > most_ms * NS_PER_MS
            self.report.capped_delays += capped
            return round((most_ms or 0) * NS_PER_MS) if capped else delay_ns
        return 0 if self._think is None or not node.parents else self._think.at(index) * NS_PER_MS

    def _scaled(self, file_ns: int) -> int:
        return round(file_ns * self._keys.time_scale) if file_ns else 0


def _user(text: str) -> Message:
    return Message(role="user", content=text)
