"""Files of conversations as chains of requests: ShareGPT with all turns, OpenAI messages, Mooncake with session ids, LMCache's agents.

Messages are sent as they are: roles, calls of tools and their results. Parts of text are joined, and OpenAI's older form of calls
(`function_call`, role `function`) becomes the newer one.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from bytemlperf_llm.workload.data_files import bad, decode, echo, is_text, lines
from bytemlperf_llm.workload.sessions.graph import Draft, Node, answered
from bytemlperf_llm.workload.traces.jsonl import MILLISECOND, Tokens
from bytemlperf_llm.workload.traces.rows import MAX_TIME_S, seconds_ns
from bytemlperf_llm.workload.traces.sharegpt import ANSWERING, ASKING, Conversation, Utterance, objects
from engines.contract import Function, Message, ToolCall

OPENAI_FORM = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'
ROW_FORM = '{"session_id": "a", "delay": 2000, "messages": [{"role": "user", "content": "..."}], "output_length": 16}'
ONE_FIX = "give each row messages or text_input; rows of input_length and hash_ids are read by --dataset-name mooncake"


class _Part(msgspec.Struct, frozen=True):
    type: Literal["text", "input_text", "output_text"]
    text: str


class FileFunction(msgspec.Struct, frozen=True):
    """A function that is called; `arguments` are JSON as text, or the value itself."""

    name: str
    arguments: str | dict[str, Any] = "{}"

    def call(self, id: str) -> ToolCall:
        """Its call, as the contract has it."""
        written = self.arguments if isinstance(self.arguments, str) else msgspec.json.encode(self.arguments).decode()
        return ToolCall(id, Function(self.name, written))


class FileCall(msgspec.Struct, frozen=True, tag_field="type", tag="function"):
    """A call of a tool."""

    id: str
    function: FileFunction


class FileMessage(msgspec.Struct, frozen=True):
    """A message as OpenAI's API takes it."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | tuple[_Part, ...] | None = None
    tool_calls: tuple[FileCall, ...] | None = None
    tool_call_id: str | None = None
    function_call: FileFunction | None = None
    name: str | None = None

    def message(self) -> Message:
        """As the contract has it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or ())
        if self.role == "function":
            return Message("tool", text, tool_call_id=self.name)
        calls = tuple(call.function.call(call.id) for call in self.tool_calls or ())
        if self.function_call is not None:
            calls = (self.function_call.call(self.function_call.name),)
        return Message(self.role, text, calls, self.tool_call_id)


Tools = tuple[dict[str, Any], ...]
"""What a model may call, as OpenAI's API has it."""


def tools_text(tools: Tools | None) -> str:
    """As a Request has them: one text in memory for all turns that have the same."""
    return sys.intern(msgspec.json.encode(tools).decode()) if tools else ""


class _Body(msgspec.Struct, frozen=True):
    messages: tuple[FileMessage, ...]
    tools: Tools | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None


class _OpenAi(msgspec.Struct, frozen=True):
    """A conversation, or a line of a batch file."""

    id: str | None = None
    custom_id: str | None = None
    messages: tuple[FileMessage, ...] | None = None
    tools: Tools | None = None
    body: _Body | None = None


class _Row(msgspec.Struct, frozen=True):
    """A row of Mooncake (`messages` or `text_input`, `delay` and `timestamp` in ms) or of LMCache (`input`, `pre_gap` in s)."""

    session_id: str
    messages: tuple[FileMessage, ...] | None = None
    text_input: str | None = None
    input: tuple[FileMessage, ...] | None = None
    tools: Tools | None = None
    output_length: Tokens | None = None
    delay: Decimal | None = None
    pre_gap: Decimal | None = None
    timestamp: Decimal | None = None


class _Request(NamedTuple):
    """A row that holds its whole prompt."""

    line: int
    messages: tuple[Message, ...]
    tools: str
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
        body = row.body or (None if row.messages is None else _Body(row.messages, row.tools))
        if body is None:
            raise bad(path, number, "messages", "there are none", f"give each line as {OPENAI_FORM}")
        nodes = conversation([message.message() for message in body.messages], tools_text(body.tools))
        most = body.max_completion_tokens or body.max_tokens
        if nodes and most and nodes[-1].answer is None:
            nodes[-1] = msgspec.structs.replace(nodes[-1], max_tokens=most)
        yield Draft(id=row.id or row.custom_id or f"line-{number}", nodes=nodes, where=f"{path}:{number}")


def conversation(messages: Sequence[Message], tools: str = "") -> list[Node]:
    """A chain: a turn for each answer, and one for what is left at the end. Of answers in a row the first is a turn's."""
    nodes: list[Node] = []
    pending: list[Message] = []
    asked = False
    for message in messages:
        if message.role == "assistant" and asked:
            nodes.append(following(nodes, tuple(pending), answer=message.content, tool_calls=message.tool_calls, tools=tools))
            pending, asked = [], False
        else:
            pending.append(message)
            asked = asked or message.role in ("user", "tool")
    if asked:
        nodes.append(following(nodes, tuple(pending), tools=tools))
    return nodes


def following(nodes: Sequence[Node], messages: tuple[Message, ...], *, continues: bool = True, **fields: Any) -> Node:
    """The node that follows the last one."""
    before = nodes[-1].name if nodes else None
    parents = () if before is None else (before,)
    return Node(name=f"{len(nodes)}", messages=messages, parents=parents, continues=before if continues else None, **fields)


def rows(path: Path) -> Iterator[Draft | None]:
    """Mooncake's and LMCache's rows of a session, in the file's order. The `timestamp` of its first row starts it."""
    decoder = msgspec.json.Decoder(_Row, strict=False)
    sessions: defaultdict[str, list[_Request]] = defaultdict(list)
    for number, raw in lines(path):
        row: _Row = decode(decoder, raw, path, number, ROW_FORM)
        text = None if row.text_input is None else (FileMessage("user", row.text_input),)
        prompts = [prompt for prompt in (row.messages, row.input, text) if prompt is not None]
        if len(prompts) != 1:
            raise bad(path, number, "messages", "exactly one of messages, input and text_input is needed", ONE_FIX)
        gap_ns = _ns(path, number, "pre_gap", row.pre_gap, Decimal(1))
        delay_ns = _ns(path, number, "delay", row.delay, MILLISECOND)
        told = tuple(message.message() for message in prompts[0])
        at_ns = _ns(path, number, "timestamp", row.timestamp, MILLISECOND)
        gap_ns = gap_ns if delay_ns is None else delay_ns
        sessions[row.session_id].append(_Request(number, told, tools_text(row.tools), row.output_length, gap_ns, at_ns))
    first_ns = min((requests[0].at_ns for requests in sessions.values() if requests[0].at_ns is not None), default=0)
    for name, requests in sorted(sessions.items(), key=lambda item: item[1][0].at_ns or 0):
        at_ns = None if requests[0].at_ns is None else requests[0].at_ns - first_ns
        yield Draft(id=name, nodes=_chain(requests), where=f"{path}:{requests[0].line}", at_ns=at_ns)


def _chain(rows: Sequence[_Request]) -> list[Node]:
    """A row whose messages begin with the row before and its answer continues it; any other is sent as it stands, after the one before."""
    nodes: list[Node] = []
    before: tuple[Message, ...] = ()
    for row in rows:
        told, count = row.messages, len(before)
        extends = bool(nodes) and len(told) > count + 1 and told[:count] == before and told[count].role == "assistant"
        if extends:
            nodes[-1] = msgspec.structs.replace(nodes[-1], answer=told[count].content, tool_calls=told[count].tool_calls)
        added = told[count + 1 :] if extends else told
        nodes.append(following(nodes, added, continues=extends, max_tokens=row.output_tokens, delay_ns=row.delay_ns, tools=row.tools))
        before = told
    return nodes


def _ns(path: Path, line: int, field: str, value: Decimal | None, unit_s: Decimal) -> int | None:
    """A time of a row. Raises UserError where it is none."""
    if value is None:
        return None
    if not value.is_finite() or not 0 <= value * unit_s <= MAX_TIME_S:
        raise bad(path, line, field, f"{echo(value)} is not a time", "give 0 or more")
    return seconds_ns(value, unit_s)
