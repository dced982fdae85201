"""Files of sessions whose prompts are lengths and block hashes: Weka's, Bailian's, TraceLab's."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count, islice
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec

from bytemlperf.units import NS_PER_S, NS_PER_US
from bytemlperf_llm.workload.data_files import bad, converted, decode, files, lines
from bytemlperf_llm.workload.json_values import values
from bytemlperf_llm.workload.sessions.graph import Blocks, Draft, Node, packed
from bytemlperf_llm.workload.traces.jsonl import Timed, Tokens
from bytemlperf_llm.workload.traces.rows import file_ns

WEKA_FORM = '{"id": "a", "block_size": 64, "requests": [{"t": 0.0, "type": "n", "in": 130, "out": 16, "hash_ids": [1, 2]}]}'
TRACELAB_FORM = '{"session_id": "a", "round_index": 0, "input_tokens_total": 900, "prefix_tokens": 0, "output_tokens": 16}'
BAILIAN_FORM = '{"chat_id": 1, "parent_chat_id": -1, "timestamp": 0, "input_length": 32, "output_length": 16, "hash_ids": [0, 1]}'
BAILIAN_TOKENS = TRACELAB_TOKENS = 16
NO_PARENT = -1
INPUT_EVENTS = ("user_message", "tool_result")
OUTPUT_EVENTS = ("text", "reasoning", "tool_call")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e11)]


class _Request(msgspec.Struct, frozen=True, tag_field="type", tag="n"):
    t: Seconds
    prompt_tokens: Tokens = msgspec.field(name="in")
    output_tokens: Tokens = msgspec.field(name="out")
    hash_ids: tuple[int, ...] = ()
    api_time: Seconds | None = None
    think_time: Seconds | None = None


class _Streamed(_Request, frozen=True, tag_field="type", tag="s"):
    pass


class _Subagent(msgspec.Struct, frozen=True, tag_field="type", tag="subagent"):
    """`t` is when it was launched, or, as `duration_ms` tells, when it had ended."""

    t: Seconds
    agent_id: str
    requests: tuple[_Request | _Streamed | _Subagent, ...] = ()
    duration_ms: Seconds | None = None
    status: str = ""

    def end_s(self, next_s: float) -> float:
        """When it had ended, of which the request at `next_s` knew."""
        end_s = self.t + (self.duration_ms or 0.0) / 1000
        return min(next_s, end_s if end_s <= next_s else self.t)


class _Weka(msgspec.Struct, frozen=True):
    id: str
    requests: tuple[_Request | _Streamed | _Subagent, ...]
    block_size: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 64
    hash_id_scope: Literal["local", "global"] = "local"


def weka(path: Path) -> Iterator[Draft]:
    """kv-cache-tester's traces: one of a file, one a line, or those of a folder's files. A request waits `think_time` after the one before;
    without it the time from that one's end, or from its start where the file has no `api_time`."""
    for file in files(path):
        for line, value in values(file, "trace", WEKA_FORM):
            trace = converted(value, _Weka, file, line, WEKA_FORM)
            agents = _Agents(trace.id if trace.hash_id_scope == "local" else "")
            agents.add("", trace.requests, ())
            yield Draft(id=trace.id, nodes=agents.nodes, where=f"{file}:{line}", block_tokens=trace.block_size)


class _Agents:
    """The requests of an agent follow each other. A subagent's begin when the request before it has ended, and the next one of its parent
    waits for its last one, unless it was launched to go on by itself."""

    def __init__(self, scope: str) -> None:
        self.nodes: list[Node] = []
        self._scope = scope

    def add(self, name: str, entries: Sequence[_Request | _Subagent], parents: tuple[str, ...]) -> tuple[str, ...]:
        """What waits for the agent waits for these nodes."""
        joined: list[tuple[_Subagent, tuple[str, ...]]] = []
        ended_s = 0.0
        for place, entry in enumerate(entries):
            if isinstance(entry, _Subagent):
                last = self.add(f"{name}{entry.agent_id}/", entry.requests, parents)
                if last != parents and entry.status != "async_launched":
                    joined.append((entry, last))
                continue
            ended_s = max([ended_s, *(subagent.end_s(entry.t) for subagent, _ in joined)])
            gap_s = max(0.0, entry.t - ended_s) if joined or entry.think_time is None else entry.think_time
            self.nodes.append(
                Node(
                    name=f"{name}{place}",
                    parents=tuple(dict.fromkeys((*parents, *(each for _, last in joined for each in last)))),
                    blocks=Blocks(entry.prompt_tokens, packed(entry.hash_ids), self._scope),
                    delay_ns=round(gap_s * NS_PER_S),
                    max_tokens=max(1, entry.output_tokens),
                )
            )
            parents, joined, ended_s = (f"{name}{place}",), [], entry.t + (entry.api_time or 0.0)
        return parents


class _Chat(Timed, frozen=True, kw_only=True):
    chat_id: int
    parent_chat_id: int = NO_PARENT


def bailian(path: Path) -> Iterator[Draft]:
    """Bailian's chats: a request waits for its parent, and is due at its timestamp, counted from its root's. All rows are held."""
    decoder = msgspec.json.Decoder(_Chat, strict=False)
    chats: defaultdict[int, list[Node]] = defaultdict(list)
    roots: dict[int, tuple[int, int, int]] = {}
    for number, raw in lines(path):
        row: _Chat = decode(decoder, raw, path, number, BAILIAN_FORM)
        at_ns = file_ns(path, number, "timestamp", row.timestamp, Decimal(1))
        parent = row.parent_chat_id
        if row.chat_id in roots:
            raise bad(path, number, "chat_id", f"{row.chat_id} is there twice", "give each row an id of its own")
        if parent != NO_PARENT and parent not in roots:
            problem = f"there is no row {parent} before it"
            raise bad(path, number, "parent_chat_id", problem, "give the file from its start, or its rows alone: --dataset-name bailian")
        root, line, start_ns = roots.get(parent, (row.chat_id, number, at_ns))
        if at_ns < start_ns:
            raise bad(path, number, "timestamp", f"earlier than that of its root in line {line}", "sort the trace by time")
        roots[row.chat_id] = root, line, start_ns
        chats[root].append(
            Node(
                name=str(row.chat_id),
                parents=() if parent == NO_PARENT else (str(parent),),
                blocks=Blocks(row.input_length, packed(row.hash_ids or ())),
                at_ns=at_ns - start_ns,
                delay_ns=0,
                max_tokens=max(1, row.output_length),
            )
        )
    first_ns = min((start_ns for _, _, start_ns in roots.values()), default=0)
    for root, nodes in chats.items():
        _, line, start_ns = roots[root]
        yield Draft(id=str(root), nodes=nodes, where=f"{path}:{line}", at_ns=start_ns - first_ns, block_tokens=BAILIAN_TOKENS)


class _Event(msgspec.Struct, frozen=True):
    event_type: str = ""
    timestamp: datetime | None = None


class _Round(msgspec.Struct, frozen=True):
    session_id: str
    input_tokens_total: Tokens | None = None
    prefix_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    round_index: int | None = None
    timing_events: tuple[_Event, ...] = ()

    def ns(self, kinds: Sequence[str]) -> int | None:
        """When the last event of these kinds was."""
        times = [event.timestamp for event in self.timing_events if event.event_type in kinds and event.timestamp is not None]
        return max((instant_ns(time) for time in times), default=None)


class _Sent(NamedTuple):
    """A round: when it was sent and had ended, and its tokens."""

    sent_ns: int
    number: int
    end_ns: int
    line: int
    prompt: int
    prefix: int
    output: int


def tracelab(path: Path) -> Iterator[Draft]:
    """TraceLab's rounds of a session by the time of their last input; the next is due as long after a round's last output. All are held.

    There are no hashes: of a prompt the first `prefix_tokens` are the blocks that the one before begins with, and others are its own."""
    decoder = msgspec.json.Decoder(_Round, strict=False)
    sessions: defaultdict[str, list[_Sent]] = defaultdict(list)
    for number, raw in lines(path):
        row: _Round = decode(decoder, raw, path, number, TRACELAB_FORM)
        rounds, output_ns = sessions[row.session_id], row.ns(OUTPUT_EVENTS)
        sent_ns = row.ns(INPUT_EVENTS)
        sent_ns = sent_ns if sent_ns is not None else output_ns if output_ns is not None else rounds[-1].end_ns if rounds else 0
        prompt, prefix, output = (max(0, tokens or 0) for tokens in (row.input_tokens_total, row.prefix_tokens, row.output_tokens))
        rounds.append(_Sent(sent_ns, row.round_index or 0, max(sent_ns, output_ns or 0), number, prompt, prefix, output))
    for rounds in sessions.values():
        rounds.sort()
    first_ns = min((rounds[0].sent_ns for rounds in sessions.values()), default=0)
    for name, rounds in sorted(sessions.items(), key=lambda item: item[1][0]):
        nodes = list(_rounds(rounds, name))
        where, at_ns = f"{path}:{rounds[0].line}", rounds[0].sent_ns - first_ns
        yield Draft(id=name, nodes=nodes, where=where, at_ns=at_ns, block_tokens=TRACELAB_TOKENS)


def _rounds(rounds: Sequence[_Sent], scope: str) -> Iterator[Node]:
    ids, fresh, before = array("q"), count(), None
    for place, sent in enumerate(rounds):
        blocks = sent.prompt // TRACELAB_TOKENS
        kept = min(sent.prefix // TRACELAB_TOKENS, len(ids), blocks)
        ids = ids[:kept] + array("q", islice(fresh, blocks - kept))
        yield Node(
            name=f"{place}",
            parents=(f"{place - 1}",) if place else (),
            blocks=Blocks(sent.prompt, ids, scope),
            delay_ns=max(0, sent.sent_ns - before.end_ns) if before else 0,
            max_tokens=max(1, sent.output),
        )
        before = sent


def instant_ns(time: datetime) -> int:
    """Nanoseconds since 1970; a time without an offset is UTC."""
    since = (time if time.tzinfo else time.replace(tzinfo=UTC)) - EPOCH
    return (since // timedelta(microseconds=1)) * NS_PER_US
