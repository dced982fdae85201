"""AIPerf's `dag_jsonl`: a conversation a line, whose turns fork and spawn other lines.

A fork continues the turn's history; named alone it ends the parent, as `{"child": ..., "background": true}` the parent goes on. A spawn
begins afresh; the parent's turn `join_at` (default: the next one, where there is one) waits for the last turn of each child.
`pre_session_spawns` start with the session. A line that no other names is a session, with everything below it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec

from bytemlperf.units import NS_PER_MS
from bytemlperf_llm.workload.data_files import bad, decode, echo, lines
from bytemlperf_llm.workload.sessions.conversations import FileMessage, Tools, tools_text
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
    """`model` and `extra` aren't sent: the run has one model and one sampling."""

    messages: tuple[FileMessage, ...]
    tools: Tools | None = None
    max_tokens: Tokens | None = None
    forks: tuple[str | _Fork, ...] = ()
    spawns: tuple[str | _Spawn, ...] = ()
    delay: Annotated[float, msgspec.Meta(ge=0, le=1e12)] = 0.0


class _Line(msgspec.Struct, frozen=True):
    session_id: Annotated[str, msgspec.Meta(min_length=1)]
    turns: Annotated[tuple[_Turn, ...], msgspec.Meta(min_length=1)]
    pre_session_spawns: tuple[str, ...] = ()

    def node(self, place: int) -> str:
        """The name of a turn; −1 is the last one."""
        return f"{self.session_id}/{place % len(self.turns)}"


class _Child(NamedTuple):
    """A line that another names: the node that starts it (None: with the session), and the one that waits for its end."""

    name: str
    parent: str | None
    forked: bool = False
    joins: str | None = None


def dag_jsonl(path: Path) -> Iterator[Draft | None]:
    """The sessions of a file, in the order of their lines. Raises UserError."""
    rows: dict[str, tuple[int, _Line]] = {}
    decoder = msgspec.json.Decoder(_Line, strict=False)
    for number, raw in lines(path):
        line: _Line = decode(decoder, raw, path, number, FORM)
        if line.session_id in rows:
            problem = f"{echo(line.session_id)} is in line {rows[line.session_id][0]} already"
            raise bad(path, number, "session_id", problem, "give each line an id of its own")
        rows[line.session_id] = number, line
    return _drafts(path, rows)


def _drafts(path: Path, rows: dict[str, tuple[int, _Line]]) -> Iterator[Draft]:
    named: dict[str, _Child] = {}
    below: defaultdict[str, list[str]] = defaultdict(list)
    joined: defaultdict[str | None, list[str]] = defaultdict(list)
    for name, (number, line) in rows.items():
        for child in _children(path, number, line):
            if child.name not in rows:
                raise bad(path, number, "turns", f"there is no session {echo(child.name)}", "add its line, or remove the fork or spawn")
            if child.name in named:
                raise bad(path, number, "turns", f"{echo(child.name)} is named twice", "name a line once")
            named[child.name] = child
            below[name].append(child.name)
            joined[child.joins].append(rows[child.name][1].node(-1))
    left = dict(rows)
    for root in [name for name in rows if name not in named]:
        tree, number = [root], rows[root][0]
        for name in tree:
            tree += below[name]
            del left[name]
        yield Draft(
            id=root, where=f"{path}:{number}", nodes=[node for name in tree for node in _nodes(rows[name][1], named.get(name), joined)]
        )
    for name, (number, _) in left.items():
        raise bad(path, number, "session_id", f"{echo(name)} is below itself", "remove a fork or spawn of the circle")


def _children(path: Path, number: int, line: _Line) -> Iterator[_Child]:
    """The lines that a line names."""
    yield from (_Child(name, None) for name in line.pre_session_spawns)
    for place, turn in enumerate(line.turns):
        last = place == len(line.turns) - 1
        for entry in turn.forks:
            fork = _Fork(entry) if isinstance(entry, str) else entry
            if not (fork.background or last):
                problem = f"{echo(fork.child)} ends the parent, which has more turns"
                raise bad(path, number, f"turns[{place}].forks", problem, 'give {"child": ..., "background": true}')
            yield _Child(fork.child, line.node(place), forked=True)
        for item in turn.spawns:
            spawn = _Spawn((item,)) if isinstance(item, str) else item
            joins = place + 1 if spawn.join_at is None else spawn.join_at
            if spawn.join_at is not None and not place < joins < len(line.turns):
                problem = f"{joins} is no later turn of the {len(line.turns)}"
                raise bad(path, number, f"turns[{place}].spawns.join_at", problem, "name a later turn, from 0")
            waits = line.node(joins) if joins < len(line.turns) else None
            yield from (_Child(child, line.node(place), joins=waits) for child in spawn.children)


def _nodes(line: _Line, named: _Child | None, joined: dict[str | None, list[str]]) -> Iterator[Node]:
    """The turns of a line; of one that another names, behind that one's turn."""
    for place, turn in enumerate(line.turns):
        before = line.node(place - 1) if place else named and named.parent
        parents: Sequence[str] = (before, *joined[line.node(place)]) if before else joined[line.node(place)]
        yield Node(
            name=line.node(place),
            messages=tuple(message.message() for message in turn.messages),
            parents=tuple(parents),
            continues=before if place or (named and named.forked) else None,
            delay_ns=round(turn.delay * NS_PER_MS),
            max_tokens=turn.max_tokens,
            tools=tools_text(turn.tools),
        )
