"""Made-up conversations and agents, without end: the same for the same seed on every machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import count

import msgspec

from bytemlperf.arrivals import seeded
from bytemlperf.units import NS_PER_MS
from bytemlperf_llm.plan.scenario import Documents, Empirical, Lengths, SyntheticAgent, SyntheticSessions
from bytemlperf_llm.workload.lengths import LengthSeries
from bytemlperf_llm.workload.prompts import made_up, made_up_texts
from bytemlperf_llm.workload.sessions.conversations import following
from bytemlperf_llm.workload.sessions.graph import Draft, Node
from engines.contract import Function, Message, ToolCall

CACHED_DOCUMENTS = 1_024


def synthetic(keys: SyntheticSessions, seed: int) -> Iterator[Draft]:
    """Chains of made-up questions; a system prompt of `system_words` is the same in all, and a document follows it. Behind each question
    is an agent's work where `keys` has one."""
    counts, lengths = LengthSeries(keys.turns, seed, "turns"), LengthSeries(keys.words, seed, "words")
    opening, document = made_up(seed, "system", keys.system_words), _documents(keys.documents, seed)
    agent, first = keys.agent and _Agent(keys.agent, seed), 0
    for number in count():
        turns = counts.at(number)
        texts = made_up_texts(seed, f"questions/{number}", (lengths.at(index) for index in range(first, first + turns)))
        told = "\n\n".join(filter(None, (opening, document(number))))
        system = (Message(role="system", content=told),) if told else ()
        nodes: list[Node] = []
        aside: list[Node] = []
        for text in texts:
            nodes.append(following(nodes, (*(() if nodes else system), Message(role="user", content=text))))
            if agent:
                aside += agent.work(nodes, system)
        yield Draft(id=f"{seed}-{number:06d}", nodes=[*nodes, *aside], where="made up")
        first += turns


def _documents(keys: Documents | None, seed: int) -> Callable[[int], str]:
    """The document of a session, by its number."""
    if keys is None:
        return lambda _number: ""
    ranks = tuple(range(1, keys.count + 1))
    popularity = Empirical(values=ranks, weights=tuple(seeded.exp(-keys.zipf * seeded.log(rank)) for rank in ranks))
    chosen, lengths = LengthSeries(popularity, seed, "documents"), LengthSeries(keys.words, seed, "document-words")
    text = lru_cache(maxsize=CACHED_DOCUMENTS)(lambda rank: made_up(seed, f"document/{rank}", lengths.at(rank)))
    return lambda number: text(chosen.at(number))


class _Agent:
    """What is done for a question: calls of tools one after another, whose results are the turns, and an answer. The first call is of
    subagents, where there are any: they begin afresh at the same time, and their answers are its results."""

    def __init__(self, keys: SyntheticAgent, seed: int) -> None:
        self._seed = seed

        def drawn(lengths: Lengths, purpose: str) -> Iterator[int]:
            return map(LengthSeries(lengths, seed, f"agent/{purpose}").at, count())

        self._calls, self._words, self._tool_ms = (
            drawn(keys.calls, "calls"),
            drawn(keys.result_words, "result_words"),
            drawn(keys.tool_ms, "tool_ms"),
        )
        self._subagents = drawn(keys.subagents, "subagents") if keys.subagents else None
        self._texts = count()

    def work(self, nodes: list[Node], system: tuple[Message, ...]) -> list[Node]:
        """Behind the last of `nodes`, which they are added to; those of subagents come back."""
        aside: list[Node] = []
        if self._subagents is not None:
            asked = nodes[-1].name
            chains = [self._subagent(f"{asked}/{place}", asked, system) for place in range(next(self._subagents))]
            aside = [node for chain in chains for node in chain]
            self._call(nodes, "task", parents=(asked, *(chain[-1].name for chain in chains)), calls=len(chains), delay_ns=0)
        self._use_tools(nodes)
        return aside

    def _subagent(self, name: str, parent: str, system: tuple[Message, ...]) -> list[Node]:
        brief = (*system, Message(role="user", content=self._text()))
        chain = [Node(name=f"{name}/0", messages=brief, parents=(parent,), delay_ns=0)]
        self._use_tools(chain)
        return chain

    def _use_tools(self, chain: list[Node]) -> None:
        for _ in range(next(self._calls)):
            self._call(chain, "read", parents=(chain[-1].name,), calls=1, delay_ns=next(self._tool_ms) * NS_PER_MS)

    def _call(self, chain: list[Node], tool: str, *, parents: tuple[str, ...], calls: int, delay_ns: int) -> None:
        """The last node's answer calls so many tools; the next node has their results."""
        before = chain[-1]
        made = tuple(ToolCall(f"call-{before.name}-{place}", Function(tool, f'{{"place": {place}}}')) for place in range(calls))
        results = tuple(Message("tool", self._text(), tool_call_id=call.id) for call in made)
        chain[-1] = msgspec.structs.replace(before, tool_calls=made)
        path, _, last = before.name.rpartition("/")
        name = f"{path}/{int(last) + 1}" if path else f"{int(last) + 1}"
        chain.append(Node(name=name, messages=results, parents=parents, continues=before.name, delay_ns=delay_ns))

    def _text(self) -> str:
        return made_up(self._seed, f"agent/texts/{next(self._texts)}", next(self._words))
