"""Files of conversations as chains of requests: ShareGPT with all turns, OpenAI messages, Mooncake with session ids, LMCache's agents.

Messages are sent as they are: roles, calls of tools and their results. Parts of text are joined, images go before them, and OpenAI's
older form of calls (`function_call`, role `function`) becomes the newer one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import msgspec

from bytemlperf_llm.workload.data_files import bad, decode, is_text, lines
from bytemlperf_llm.workload.json_values import values
from bytemlperf_llm.workload.sessions.graph import Blocks, Draft, Node, answered, packed
from bytemlperf_llm.workload.traces.jsonl import MILLISECOND, MOONCAKE_TOKENS, Tokens
from bytemlperf_llm.workload.traces.rows import file_ns
from bytemlperf_llm.workload.traces.sharegpt import ANSWERING, ASKING, FORM, Conversation, Utterance
from engines.contract import Function, Message, ToolCall

OPENAI_FORM = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'
ROW_FORM = '{"session_id": "a", "delay": 2000, "messages": [{"role": "user", "content": "..."}], "output_length": 16}'
ONE_FIX = f"give each row as {ROW_FORM}"


class _Url(msgspec.Struct, frozen=True):
    url: str


class _Part(msgspec.Struct, frozen=True):
    """Text, or an image by its URL."""

    type: Literal["text", "input_text", "output_text", "image_url", "input_image"]
    text: str | None = None
    image_url: str | _Url | None = None

    def __post_init__(self) -> None:
        if self.text is None and self.url is None:
            raise ValueError(f"a part of type {self.type} has no {'text' if self.type.endswith('text') else 'image_url'}")
        if self.url is not None and not self.url.startswith(("data:image/", "http://", "https://")):
            raise ValueError("image_url is neither a data URL of an image nor an http address")

    @property
    def url(self) -> str | None:
        """Of an image."""
        return self.image_url.url if isinstance(self.image_url, _Url) else self.image_url


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
        parts = () if isinstance(self.content, str) else self.content or ()
        text = self.content if isinstance(self.content, str) else "".join(part.text or "" for part in parts)
        images = tuple(part.url for part in parts if part.url is not None)
        if self.role == "function":
            return Message("tool", text, tool_call_id=self.name)
        calls = tuple(call.function.call(call.id) for call in self.tool_calls) if self.tool_calls else ()
        if self.function_call is not None:
            calls = (self.function_call.call(self.function_call.name),)
        return Message(self.role, text, calls, self.tool_call_id, images)


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
    """A row of Mooncake (`messages`, `text_input`, or `input_length` and `hash_ids`; `delay` and `timestamp` in ms) or of LMCache (`input`,
    `pre_gap` in s)."""

    session_id: str
    messages: tuple[FileMessage, ...] | None = None
    text_input: str | None = None
    input: tuple[FileMessage, ...] | None = None
    tools: Tools | None = None
    input_length: Tokens | None = None
    hash_ids: tuple[int, ...] = ()
    output_length: Tokens | None = None
    delay: Decimal | None = None
    pre_gap: Decimal | None = None
    timestamp: Decimal | None = None


def sharegpt(path: Path) -> Iterator[Draft | None]:
    """Every question of a conversation with its answer; None for a conversation without both, or of another form."""
    for number, (line, value) in enumerate(values(path, "conversation", FORM), start=1):
        try:
            spoken = [msgspec.convert(item, Utterance) for item in msgspec.convert(value, Conversation).conversations]
        except ValueError:  # of another form, or not text
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


class Chain:
    """A session from prompts that are given whole. One that begins with an earlier one and an answer continues it; any other is sent as it
    stands."""

    def __init__(self, where: str = "", at_ns: int | None = None) -> None:
        self.where, self.at_ns, self.nodes = where, at_ns, list[Node]()
        self._places: dict[int, int] = {}

    def add(self, messages: tuple[Message, ...], parents: tuple[str, ...] | None = None, **fields: Any) -> None:
        """The next node. It waits for the one before, or for `parents`, and for the one that it continues."""
        key, keys = 0, list[int]()
        for message in messages:
            key = hash((key, message))
            keys.append(key)
        told = next((size for size in range(len(messages) - 2, 0, -1) if self._answers(keys[size - 1], messages[size])), None)
        before = None if told is None else self._places[keys[told - 1]]
        if told is not None and before is not None:
            self.nodes[before] = msgspec.structs.replace(
                self.nodes[before], answer=messages[told].content, tool_calls=messages[told].tool_calls
            )
            messages = messages[told + 1 :]
        continues = None if before is None else self.nodes[before].name
        waits = tuple(node.name for node in self.nodes[-1:]) if parents is None else parents
        if continues is not None and continues not in waits:
            waits = (*waits, continues)
        self._places[key] = len(self.nodes)
        self.nodes.append(Node(name=f"{len(self.nodes)}", messages=messages, parents=waits, continues=continues, **fields))

    def _answers(self, key: int, message: Message) -> bool:
        """Whether this message can be the recorded answer to the prompt of that key."""
        place = self._places.get(key)
        if place is None or message.role != "assistant":
            return False
        told = self.nodes[place]
        return told.answer is None or (told.answer, told.tool_calls) == (message.content, message.tool_calls)


def rows(path: Path) -> Iterator[Draft | None]:
    """Mooncake's and LMCache's rows of a session, in the file's order. The `timestamp` of its first row starts it. All are held, without
    what they repeat."""
    decoder = msgspec.json.Decoder(_Row, strict=False)
    sessions: dict[str, Chain] = {}
    for number, raw in lines(path):
        row: _Row = decode(decoder, raw, path, number, ROW_FORM)
        text = None if row.text_input is None else (FileMessage("user", row.text_input),)
        prompts = [prompt for prompt in (row.messages, row.input, text) if prompt is not None]
        if len(prompts) > 1 or (not prompts and row.input_length is None):
            raise bad(path, number, "messages", "exactly one of messages, input, text_input and input_length is needed", ONE_FIX)
        at_ns = None if row.timestamp is None else file_ns(path, number, "timestamp", row.timestamp, MILLISECOND)
        chain = sessions.setdefault(row.session_id, Chain(f"{path}:{number}", at_ns))
        delay_ns = None if row.pre_gap is None else file_ns(path, number, "pre_gap", row.pre_gap, Decimal(1))
        if row.delay is not None:
            delay_ns = file_ns(path, number, "delay", row.delay, MILLISECOND)
        blocks = None if prompts else Blocks(row.input_length or 0, packed(row.hash_ids))
        messages = tuple(message.message() for message in prompts[0]) if prompts else ()
        chain.add(messages, max_tokens=row.output_length, delay_ns=delay_ns, blocks=blocks, tools=tools_text(row.tools))
    first_ns = min((chain.at_ns for chain in sessions.values() if chain.at_ns is not None), default=0)
    for name, chain in sorted(sessions.items(), key=lambda item: item[1].at_ns or 0):
        at_ns = None if chain.at_ns is None else chain.at_ns - first_ns
        yield Draft(id=name, nodes=chain.nodes, where=chain.where, at_ns=at_ns, block_tokens=MOONCAKE_TOKENS)
