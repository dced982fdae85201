"""Files of conversations as chains of requests: ShareGPT with all turns, OpenAI messages, Mooncake with session ids, LMCache's agents.

The contract's messages are text of system, user and assistant: `developer` becomes system, `tool` and `function` become user, parts of text
are joined, and calls of tools follow the assistant's text as JSON.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from bytemlperf.errors import UserError
from bytemlperf_llm.workload.data_files import bad, decode, echo, is_text, lines
from bytemlperf_llm.workload.sessions.graph import Draft, Node, answered
from bytemlperf_llm.workload.traces.jsonl import MILLISECOND, Tokens
from bytemlperf_llm.workload.traces.rows import MAX_TIME_S, seconds_ns
from bytemlperf_llm.workload.traces.sharegpt import ANSWERING, ASKING, Conversation, Utterance, objects
from engines.contract import Message

OPENAI_FORM = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'
MOONCAKE_FORM = '{"session_id": "a", "delay": 2000, "messages": [{"role": "user", "content": "..."}], "output_length": 16}'
LMCACHE_FORM = '{"session_id": "a", "pre_gap": 2.0, "input": [{"role": "user", "content": "..."}], "output_length": 16}'
ONE_FIX = "give each row messages or text_input; rows of input_length and hash_ids are read by --dataset-name mooncake"


class _Part(msgspec.Struct, frozen=True):
    type: Literal["text", "input_text", "output_text"]
    text: str


class FileMessage(msgspec.Struct, frozen=True):
    """A message as OpenAI's API takes it."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | tuple[_Part, ...] | None = None
    tool_calls: tuple[dict[str, Any], ...] | None = None

    def message(self) -> Message:
        """As the contract has it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or ())
        if self.tool_calls:
            text = "\n".join(filter(None, (text, msgspec.json.encode(self.tool_calls).decode())))
        role: Literal["system", "user", "assistant"] = "user"
        if self.role in ("system", "developer"):
            role = "system"
        elif self.role == "assistant":
            role = "assistant"
        return Message(role=role, content=text)


class _Body(msgspec.Struct, frozen=True):
    messages: tuple[FileMessage, ...]
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None


class _OpenAi(msgspec.Struct, frozen=True):
    """A conversation, or a line of a batch file."""

    id: str | None = None
    custom_id: str | None = None
    messages: tuple[FileMessage, ...] | None = None
    body: _Body | None = None


class _Mooncake(msgspec.Struct, frozen=True):
    session_id: str
    delay: Decimal | None = None
    timestamp: Decimal | None = None
    messages: tuple[FileMessage, ...] | None = None
    text_input: str | None = None
    output_length: Tokens | None = None


class _LmCache(msgspec.Struct, frozen=True):
    session_id: str
    input: tuple[FileMessage, ...]
    output_length: Tokens | None = None
    pre_gap: Decimal = Decimal(0)


class _Request(NamedTuple):
    """A row that holds its whole prompt."""

    line: int
    messages: tuple[Message, ...]
    output_tokens: int | None
    delay_ns: int | None
    at_ns: int | None = None


def sharegpt(path: Path) -> Iterator[Draft | None]:
    """Every question of a conversation with its answer; None for a conversation without both, or of another form."""
    for number, (line, value) in enumerate(objects(path), start=1):
        try:
            spoken = [msgspec.convert(item, Utterance) for item in msgspec.convert(value, Conversation).conversations]
        except msgspec.ValidationError:
            yield None
            continue
        pairs = [
            (asked.value, said.value)
            for asked, said in pairwise(spoken)
            if asked.source in ASKING and said.source in ANSWERING and asked.value.strip() and said.value.strip()
        ]
        nodes = conversation([message for asked, said in pairs for message in (Message(role="user", content=asked), answered(said))])
        name = str(value.get("id") or number)
        texts = [text for pair in pairs for text in pair]
        yield Draft(id=f"{number}-{name}", nodes=nodes, where=f"{path}:{line}") if pairs and is_text(name, *texts) else None


def openai(path: Path) -> Iterator[Draft | None]:
    """A conversation a line; an assistant's message is the recorded answer to what is before it. A line of a batch file is one, too."""
    decoder = msgspec.json.Decoder(_OpenAi, strict=False)
    for number, raw in lines(path):
        row: _OpenAi = decode(decoder, raw, path, number, OPENAI_FORM)
        body = row.body or (None if row.messages is None else _Body(row.messages))
        if body is None:
            raise bad(path, number, "messages", "there are none", f"give each line as {OPENAI_FORM}")
        nodes = conversation([message.message() for message in body.messages])
        most = body.max_completion_tokens or body.max_tokens
        if nodes and most and nodes[-1].answer is None:
            nodes[-1] = msgspec.structs.replace(nodes[-1], max_tokens=most)
        yield Draft(id=row.id or row.custom_id or f"line-{number}", nodes=nodes, where=f"{path}:{number}")


def conversation(messages: Sequence[Message]) -> list[Node]:
    """A chain: a turn for each answer, and one for what is left at the end. Of answers in a row the first is a turn's."""
    nodes: list[Node] = []
    pending: list[Message] = []
    for message in messages:
        if message.role == "assistant" and any(each.role == "user" for each in pending):
            nodes.append(following(nodes, tuple(pending), answer=message.content))
            pending = []
        else:
            pending.append(message)
    if any(message.role == "user" for message in pending):
        nodes.append(following(nodes, tuple(pending)))
    return nodes


def following(nodes: Sequence[Node], messages: tuple[Message, ...], *, continues: bool = True, **fields: Any) -> Node:
    """The node that follows the last one."""
    before = nodes[-1].name if nodes else None
    parents = () if before is None else (before,)
    return Node(name=f"{len(nodes)}", messages=messages, parents=parents, continues=before if continues else None, **fields)


def mooncake(path: Path) -> Iterator[Draft | None]:
    """Rows of a session in the file's order. `timestamp` (ms) of its first row starts it, `delay` (ms) is before each other one."""
    decoder = msgspec.json.Decoder(_Mooncake, strict=False)
    sessions: defaultdict[str, list[_Request]] = defaultdict(list)
    for number, raw in lines(path):
        row: _Mooncake = decode(decoder, raw, path, number, MOONCAKE_FORM)
        if (row.messages is None) == (row.text_input is None):
            raise bad(path, number, "messages", "exactly one of messages and text_input is needed", ONE_FIX)
        told = (Message(role="user", content=row.text_input or ""),) if row.messages is None else tuple(m.message() for m in row.messages)
        delay, at = (_ns(path, number, name, getattr(row, name), MILLISECOND) for name in ("delay", "timestamp"))
        sessions[row.session_id].append(_Request(number, told, row.output_length, delay, at))
    first_ns = min((rows[0].at_ns for rows in sessions.values() if rows[0].at_ns is not None), default=0)
    for name, rows in sessions.items():
        at_ns = None if rows[0].at_ns is None else rows[0].at_ns - first_ns
        yield Draft(id=name, nodes=_chain(rows), where=f"{path}:{rows[0].line}", at_ns=at_ns)


def lmcache(path: Path) -> Iterator[Draft | None]:
    """Rows of a session in the file's order, `pre_gap` (s) before each; a row's input extends the one before."""
    decoder = msgspec.json.Decoder(_LmCache, strict=False)
    sessions: defaultdict[str, list[_Request]] = defaultdict(list)
    for number, raw in lines(path):
        row: _LmCache = decode(decoder, raw, path, number, LMCACHE_FORM)
        gap_ns = _ns(path, number, "pre_gap", row.pre_gap, Decimal(1))
        sessions[row.session_id].append(_Request(number, tuple(m.message() for m in row.input), row.output_length, gap_ns))
    for name, rows in sessions.items():
        yield Draft(id=name, nodes=_chain(rows), where=f"{path}:{rows[0].line}")


def _chain(rows: Sequence[_Request]) -> list[Node]:
    """A row whose messages begin with the row before and its answer continues it; any other is sent as it stands, after the one before."""
    nodes: list[Node] = []
    before: tuple[Message, ...] = ()
    for row in rows:
        told, count = row.messages, len(before)
        extends = bool(nodes) and len(told) > count + 1 and told[:count] == before and told[count].role == "assistant"
        if extends:
            nodes[-1] = msgspec.structs.replace(nodes[-1], answer=told[count].content)
        added = told[count + 1 :] if extends else told
        nodes.append(following(nodes, added, continues=extends, max_tokens=row.output_tokens, delay_ns=row.delay_ns))
        before = told
    return nodes


def _ns(path: Path, line: int, field: str, value: Decimal | None, unit_s: Decimal) -> int | None:
    """A time of a row. Raises UserError where it is none."""
    if value is None:
        return None
    if not value.is_finite() or not 0 <= value * unit_s <= MAX_TIME_S:
        raise bad(path, line, field, f"{echo(value)} is not a time", "give 0 or more")
    return seconds_ns(value, unit_s)


def no_session(path: Path) -> UserError:
    """The error for a file that holds none."""
    return UserError(f"{path} has no session with a question and an answer", "give another file with --dataset-path")
