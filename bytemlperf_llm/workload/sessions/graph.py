"""A session as a graph of requests, with no I/O and no clock.

A node is due at `max(session start + at_ns, end of its last parent + delay_ns)`. An edge *forks* where the child continues the parent's
history (`continues`), *spawns* where it waits for the parent and begins afresh, and *joins* where a node has several parents. A compiler
makes a `Draft` whose nodes know each other by name; `ordered` checks it, and `Session` has the same by place, parents before children.
"""

from __future__ import annotations

import heapq
import json
from array import array
from collections.abc import Collection, Iterable, Sequence

import msgspec

from bytemlperf.errors import UserError
from bytemlperf_llm.workload.data_files import echo
from bytemlperf_llm.workload.prefixes import Prefix
from bytemlperf_llm.workload.synthesis import TextMaker
from engines.contract import Message, ToolCall


class Blocks(msgspec.Struct, frozen=True):
    """A whole prompt of so many tokens, to be made up: equal `ids` of one `scope` are equal text, what they don't cover is its own."""

    tokens: int
    ids: Sequence[int] = ()
    scope: str = ""

    def names(self) -> Sequence[object]:
        """What tells the text of its blocks apart in a run."""
        return [f"{self.scope}/{each}" for each in self.ids] if self.scope else self.ids


def packed(ids: Sequence[int]) -> Sequence[int]:
    """Ids in eight bytes each, where they fit."""
    try:
        return array("q", ids)
    except OverflowError:
        return ids


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A request as a file has it. `messages` are added to the history of `continues`, which is one of `parents`; `blocks` stand in place of
    both. None: not said (`delay_ns` then is the scenario's think time, `max_tokens` its output length, `answer` made up). `tool_calls` are
    the recorded answer's, `tools` as in a Request; where there are none, those of the turn that it continues."""

    name: str
    messages: tuple[Message, ...] = ()
    blocks: Blocks | None = None
    parents: tuple[str, ...] = ()
    continues: str | None = None
    at_ns: int = 0
    delay_ns: int | None = None
    max_tokens: int | None = None
    answer: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tools: str = ""


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A session as a file has it; `where` is its place there, `at_ns` when it starts, None where the format has no times, `block_tokens`
    what an id of its blocks stands for."""

    id: str
    nodes: Sequence[Node]
    where: str
    at_ns: int | None = None
    block_tokens: int = 0


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """A request of a session. `parents` and `continues` are places of earlier turns, `after` of turns whose end, well or not, it waits for
    besides. `answer` and `tool_calls` are what continues it in the history when recorded answers are fed back. `shared` is what begins the
    prompt and was in an earlier one of the schedule, besides that of `continues`."""

    messages: tuple[Message, ...]
    max_tokens: int
    answer: str
    blocks: Blocks | None = None
    parents: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    continues: int | None = None
    at_ns: int = 0
    delay_ns: int = 0
    shared: Prefix | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tools: str = ""

    @property
    def before(self) -> tuple[int, ...]:
        """All turns that it waits for."""
        return (*self.parents, *self.after) if self.after else self.parents

    def due_ns(self, start_ns: int, ends_ns: Sequence[int]) -> int:
        """When it is due, where the session started then and what is `before` it ended at `ends_ns`."""
        return max(start_ns + self.at_ns, max(ends_ns) + self.delay_ns) if ends_ns else start_ns + self.at_ns


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A checked graph; a parent comes before its children. `maker` makes the text of turns that are given as blocks."""

    id: str
    turns: tuple[Turn, ...]
    at_ns: int | None = None
    maker: TextMaker | None = None

    def own(self, place: int) -> tuple[Message, ...]:
        """What a turn adds to the history before it."""
        turn = self.turns[place]
        if turn.blocks is None or self.maker is None:
            return turn.messages
        text = self.maker.prompt(f"{self.id}/{place}", turn.blocks.tokens, turn.blocks.names())
        return (Message(role="user", content=text),)

    def prompt(self, place: int) -> tuple[Message, ...]:
        """The whole prompt of a turn, with the recorded answers before it."""
        parts = [self.own(place)]
        before = self.turns[place].continues
        while before is not None:
            turn = self.turns[before]
            parts.append((*self.own(before), answered(turn.answer, turn.tool_calls)))
            before = turn.continues
        return tuple(message for part in reversed(parts) for message in part)

    def idle_ns(self) -> int:
        """How long it takes where every answer comes at once: tools and thinking."""
        due_ns: list[int] = []
        for turn in self.turns:
            due_ns.append(turn.due_ns(0, [due_ns[parent] for parent in turn.parents]))
        return max(due_ns) - min(turn.at_ns for turn in self.turns if not turn.parents)

    def children(self) -> list[list[int]]:
        """Of each turn, the turns that wait for it."""
        return _waiting((turn.parents for turn in self.turns), len(self.turns))

    def followers(self) -> list[list[int]]:
        """Of each turn, the turns that wait for its end, well or not; empty where there are none at all."""
        return _waiting((turn.after for turn in self.turns), len(self.turns)) if any(turn.after for turn in self.turns) else []

    def without(self, places: Collection[int]) -> Session:
        """Without these turns and all below them."""
        kept: dict[int, int] = {}
        for place, turn in enumerate(self.turns):
            if place not in places and all(parent in kept for parent in turn.parents):
                kept[place] = len(kept)
        turns = (self.turns[place] for place in kept)
        moved = (
            msgspec.structs.replace(
                turn,
                parents=tuple(kept[parent] for parent in turn.parents),
                after=tuple(kept[before] for before in turn.after if before in kept),
                continues=None if turn.continues is None else kept[turn.continues],
            )
            for turn in turns
        )
        return msgspec.structs.replace(self, turns=tuple(moved))

    def line(self, place: int) -> bytes:
        """What the schedule hash covers of a turn besides its request: a JSON line of session, place, edges, times and recorded answer."""
        turn = self.turns[place]
        edges = [turn.parents, turn.continues, *([turn.after] if turn.after else [])]
        calls = [[[call.id, call.function.name, call.function.arguments] for call in turn.tool_calls]] if turn.tool_calls else []
        return json.dumps([self.id, place, *edges, turn.at_ns, turn.delay_ns, turn.answer, *calls]).encode() + b"\n"

    def with_most_subagents(self, most: int) -> tuple[Session, int]:
        """The session with at most so many subagents of a conversation at once, in the order in which they are spawned, and how many wait
        for that: each for the end of the one so many before it. A subagent is a turn that begins afresh behind another, and what
        continues it."""
        turns, heads = self.turns, list[int]()
        for place, turn in enumerate(turns):
            heads.append(place if turn.continues is None else heads[turn.continues])
        spawned: dict[int, list[int]] = {}
        for place, turn in enumerate(turns):
            if turn.continues is None and turn.parents:
                spawned.setdefault(heads[turn.parents[0]], []).append(place)
        continued, after = {turn.continues for turn in turns}, dict[int, tuple[int, ...]]()
        for siblings in spawned.values():
            for earlier, later in zip(siblings, siblings[most:], strict=False):
                lasts = tuple(place for place, head in enumerate(heads) if head == earlier and place not in continued)
                if not _above([later], turns, after).issuperset(lasts) and later not in _above(lasts, turns, after):
                    after[later] = lasts
        waiting = (msgspec.structs.replace(turn, after=after.get(place, ())) for place, turn in enumerate(turns))
        return msgspec.structs.replace(self, turns=tuple(waiting)), len(after)


def _waiting(before: Iterable[tuple[int, ...]], count: int) -> list[list[int]]:
    """Of each place, those that name it."""
    waiting: list[list[int]] = [[] for _ in range(count)]
    for place, names in enumerate(before):
        for name in names:
            waiting[name].append(place)
    return waiting


def _above(places: Iterable[int], turns: Sequence[Turn], after: dict[int, tuple[int, ...]]) -> set[int]:
    """These and all that they wait for."""
    order = list(places)
    above = set(order)
    for place in order:
        fresh = {*turns[place].parents, *after.get(place, ())} - above
        above |= fresh
        order += fresh
    return above


def answered(text: str, tool_calls: tuple[ToolCall, ...] = ()) -> Message:
    """An answer as a message of the history."""
    return Message(role="assistant", content=text, tool_calls=tool_calls)


def ordered(draft: Draft) -> list[Node]:
    """The nodes, parents first, otherwise as authored. Raises UserError for a graph that can't be run."""
    if not draft.nodes:
        raise _bad(draft, "it has no turn", "give it one, or remove it")
    nodes: dict[str, Node] = {}
    in_order = True
    for node in draft.nodes:
        if node.name in nodes:
            raise _bad(draft, f"turn {echo(node.name)} is there twice", "give each turn a name of its own")
        in_order = in_order and all(parent in nodes for parent in node.parents)
        nodes[node.name] = node
    for node in draft.nodes:
        _check(draft, node, nodes)
    return list(draft.nodes) if in_order else _sorted(draft, nodes)


def _check(draft: Draft, node: Node, nodes: dict[str, Node]) -> None:
    for parent in node.parents:
        if parent not in nodes:
            raise _bad(draft, f"turn {echo(node.name)} waits for {echo(parent)}, which is not there", "name a turn of the session")
    if not node.messages and node.blocks is None and node.continues is None:
        raise _bad(draft, f"turn {echo(node.name)} has no message", "give it one, or remove it")
    if len(set(node.parents)) < len(node.parents):
        raise _bad(draft, f"turn {echo(node.name)} waits for a turn twice", "name each parent once")
    if min(node.delay_ns or 0, node.at_ns) < 0:
        raise _bad(draft, f"turn {echo(node.name)} has a negative delay or time", "give 0 or more")
    if node.continues is not None and node.continues not in node.parents:
        raise _bad(draft, f"turn {echo(node.name)} continues {echo(node.continues)} without waiting for it", "add it to the parents")


def _sorted(draft: Draft, nodes: dict[str, Node]) -> list[Node]:
    """Kahn's algorithm (1962); of the nodes that are ready the first of the file."""
    places = {name: place for place, name in enumerate(nodes)}
    children: dict[str, list[str]] = {name: [] for name in nodes}
    waiting = {name: len(node.parents) for name, node in nodes.items()}
    for node in nodes.values():
        for parent in node.parents:
            children[parent].append(node.name)
    ready = [(places[name], name) for name, count in waiting.items() if not count]
    found: list[Node] = []
    while ready:
        _, name = heapq.heappop(ready)
        found.append(nodes[name])
        for child in children[name]:
            waiting[child] -= 1
            if not waiting[child]:
                heapq.heappush(ready, (places[child], child))
    if len(found) < len(nodes):
        names = ", ".join(echo(name) for name in nodes if waiting[name])
        raise _bad(draft, f"turns wait for each other in a circle: {names}", "remove an edge")
    return found


def _bad(draft: Draft, problem: str, fix: str) -> UserError:
    return UserError(f"{draft.where}: session {echo(draft.id)}: {problem}", fix)
