"""A scenario's sessions with single requests of classes between them, each a session of one turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import count

import msgspec

from bytemlperf_llm.workload.classes import ClassSeries
from bytemlperf_llm.workload.lengths import LengthSeries
from bytemlperf_llm.workload.prefixes import Prefix
from bytemlperf_llm.workload.prompts import PromptSource
from bytemlperf_llm.workload.sessions.graph import Session, Turn
from bytemlperf_llm.workload.trace_prompts import Cursor, TraceEnded
from engines.contract import Message


class Singles:
    """The single requests of a class as sessions."""

    def __init__(self, name: str, prompts: PromptSource, lengths: LengthSeries) -> None:
        self._name, self._prompts, self._lengths = name, prompts, lengths
        self._shared: list[Prefix | None] = []

    def session(self, place: int) -> Session:
        """Of the class's request `place`; for the first time in their order."""
        if place == len(self._shared):  # what prompts share is told once, in their order
            self._shared.append(_elsewhere(self._prompts.prefix(place)))
        prompt = self._prompts.at(place)
        messages = prompt.messages or (Message(role="user", content=prompt.prompt or ""),)
        max_tokens = prompt.output_tokens or self._lengths.at(place)
        return Session(
            id=f"{self._name}/{place}", turns=(Turn(messages=messages, max_tokens=max_tokens, answer="", shared=self._shared[place]),)
        )


def mixed(classes: ClassSeries, singles: Mapping[str, Singles], sessions: Cursor[Session]) -> Iterator[Session]:
    """Session 0, 1, … of the classes drawn for them, to the end of the scenario's own."""
    with suppress(TraceEnded):
        for number in count():
            name, place = classes.at(number)
            single = singles.get(name)
            yield _moved(sessions.at(place)) if single is None else single.session(place)


def _moved(session: Session) -> Session:
    """As it is in the mix, where its requests have other places."""
    turns = (msgspec.structs.replace(turn, shared=_elsewhere(turn.shared)) for turn in session.turns)
    return msgspec.structs.replace(session, turns=tuple(turns))


def _elsewhere(prefix: Prefix | None) -> Prefix | None:
    return None if prefix is None else msgspec.structs.replace(prefix, index=None)
