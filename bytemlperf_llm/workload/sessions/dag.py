"""AIPerf's `dag_jsonl`: a conversation a line, whose turns fork and spawn other lines.

A fork continues the turn's history; named alone it ends the parent, as `{"child": ..., "background": true}` the parent goes on. A spawn
begins afresh; the parent's turn `join_at` (default: the next one, where there is one) waits for the last turn of each child.
`pre_session_spawns` start with the session. A line that no other names is a session, with everything below it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec

from bytemlperf.units import NS_PER_MS
from bytemlperf_llm.workload.data_files import bad, decode, echo, lines
from bytemlperf_llm.workload.sessions.conversations import FileMessage
from bytemlperf_llm.workload.sessions.graph import Draft, Node
from bytemlperf_llm.workload.traces.jsonl import Tokens

FORM = '{"session_id": "a", "turns": [{"messages": [{"role": "user", "content": "..."}], "max_tokens": 16}]}'


class _Fork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    child: str
    background: bool = False


class _Spawn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    children: tuple[str, ...]
    join_at: int | None = None


class _Turn(msgspec.Struct, frozen=True):
    """`model`, `tools` and `extra` aren't sent: the run has one model and one sampling."""

    messages: tuple[FileMessage, ...]
    max_tokens: Tokens | None = None
    forks: tuple[Any, ...] = ()
    spawns: tuple[Any, ...] = ()
    delay: Annotated[float, msgspec.Meta(ge=0, le=1e12)] = 0.0


class _Line(msgspec.Struct, frozen=True):
    session_id: Annotated[str, msgspec.Meta(min_length=1)]
    turns: Annotated[tuple[_Turn, ...], msgspec.Meta(min_length=1)]
    pre_session_spawns: tuple[str, ...] = ()


class _File:
    """All lines by their id, with where they stand and who names them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: dict[str, tuple[int, _Line]] = {}
        self._parent: dict[str, str] = {}
        decoder = msgspec.json.Decoder(_Line, strict=False)
        for number, raw in lines(path):
            line: _Line = decode(decoder, raw, path, number, FORM)
            if line.session_id in self._lines:
                first = self._lines[line.session_id][0]
                raise bad(
                    path, number, "session_id", f"{echo(line.session_id)} is in line {first} already", "give each line an id of its own"
                )
            self._lines[line.session_id] = number, line
        for name, (number, line) in self._lines.items():
            for child in self._children(number, line):
                self._name(number, name, child)

    def drafts(self) -> Iterator[Draft]:
        """A session for each line that no other names. Raises UserError for lines that name each other in a circle."""
        left = set(self._lines)
        for name, (number, _) in self._lines.items():
            if name not in self._parent:
                below = self._below(name)
                left.difference_update(below)
                nodes = [node for each in below for node in self._nodes(each)]
                yield Draft(id=name, nodes=nodes, where=f"{self._path}:{number}")
        if left:
            first = min(left, key=lambda name: self._lines[name][0])
            number = self._lines[first][0]
            raise bad(self._path, number, "session_id", f"{echo(first)} is below itself", "remove a fork or spawn of the circle")

    def _children(self, number: int, line: _Line) -> Iterator[str]:
        yield from line.pre_session_spawns
        for place, turn in enumerate(line.turns):
            for fork in self._forks(number, turn):
                if not fork.background and place < len(line.turns) - 1:
                    problem = f"{echo(fork.child)} ends the parent, which has more turns"
                    raise bad(self._path, number, f"turns[{place}].forks", problem, 'give {"child": ..., "background": true}')
                yield fork.child
            for spawn in self._spawns(number, turn):
                if spawn.join_at is not None and not place < spawn.join_at < len(line.turns):
                    problem = f"{spawn.join_at} is no later turn of the {len(line.turns)}"
                    raise bad(self._path, number, f"turns[{place}].spawns.join_at", problem, "name a later turn, from 0")
                yield from spawn.children

    def _name(self, number: int, parent: str, child: str) -> None:
        if child not in self._lines:
            raise bad(self._path, number, "turns", f"there is no session {echo(child)}", "add its line, or remove the fork or spawn")
        if child in self._parent:
            raise bad(self._path, number, "turns", f"{echo(child)} is named by {echo(self._parent[child])} already", "name it once")
        self._parent[child] = parent

    def _below(self, name: str) -> list[str]:
        """A line and all that it names, those of a circle once."""
        found = [name]
        for each in found:
            found += self._children(*self._lines[each])
        return found

    def _nodes(self, name: str) -> Iterator[Node]:
        """The turns of a line; of one that another names, behind that one's turn."""
        number, line = self._lines[name]
        parent, forked = self._named_by(name)
        for place, turn in enumerate(line.turns):
            before = _turn(name, place - 1) if place else parent
            joined = [_turn(child, -1 + len(self._lines[child][1].turns)) for child in self._joined(number, line, place)]
            yield Node(
                name=_turn(name, place),
                messages=tuple(message.message() for message in turn.messages),
                parents=(*([] if before is None else [before]), *joined),
                continues=before if place or forked else None,
                delay_ns=round(turn.delay * NS_PER_MS),
                max_tokens=turn.max_tokens,
            )

    def _named_by(self, name: str) -> tuple[str | None, bool]:
        """The turn that starts a line, and whether by a fork; None where it starts with the session."""
        parent = self._parent.get(name)
        if parent is None:
            return None, False
        number, line = self._lines[parent]
        for place, turn in enumerate(line.turns):
            if any(fork.child == name for fork in self._forks(number, turn)):
                return _turn(parent, place), True
            if any(name in spawn.children for spawn in self._spawns(number, turn)):
                return _turn(parent, place), False
        return None, False

    def _joined(self, number: int, line: _Line, place: int) -> Iterator[str]:
        """The lines that a turn waits for."""
        for earlier, turn in enumerate(line.turns[:place]):
            for spawn in self._spawns(number, turn):
                if (earlier + 1 if spawn.join_at is None else spawn.join_at) == place:
                    yield from spawn.children

    def _forks(self, number: int, turn: _Turn) -> list[_Fork]:
        return [_Fork(entry) if isinstance(entry, str) else self._entry(number, "forks", entry, _Fork) for entry in turn.forks]

    def _spawns(self, number: int, turn: _Turn) -> list[_Spawn]:
        return [_Spawn((entry,)) if isinstance(entry, str) else self._entry(number, "spawns", entry, _Spawn) for entry in turn.spawns]

    def _entry(self, number: int, field: str, entry: object, kind: Any) -> Any:
        try:
            return msgspec.convert(entry, kind)
        except msgspec.ValidationError as error:
            raise bad(self._path, number, f"turns.{field}", str(error), "give a session_id or an object as AIPerf has it") from None


def _turn(name: str, place: int) -> str:
    return f"{name}/{place}"


def dag_jsonl(path: Path) -> Iterator[Draft | None]:
    """The sessions of a file, in the order of their lines. Raises UserError."""
    return iter(_File(path).drafts())
