"""Files of agents whose messages are there: MLPerf's agentic conversations, a message a row, and OpenTelemetry's spans of GenAI calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from bytemlperf.units import NS_PER_S
from bytemlperf_llm.workload.data_files import NOT_TEXT, bad, converted, decode, echo, files, lines
from bytemlperf_llm.workload.json_values import values
from bytemlperf_llm.workload.sessions.conversations import Chain, FileCall, FileFunction, FileMessage, Tools, following, tools_text
from bytemlperf_llm.workload.sessions.graph import Draft, Node
from bytemlperf_llm.workload.sessions.hashed import Seconds, instant_ns
from bytemlperf_llm.workload.traces.jsonl import Tokens
from engines.contract import Message

MLPERF_FORM = '{"conversation_id": "a", "turn": 1, "role": "user", "content": "..."}'
OTEL_FORM = '{"session_id": "a", "spans": [{"start_time": "...", "end_time": "...", "attributes": {"gen_ai.input.messages": [...]}}]}'
METADATA = "dataset_metadata"
FAILED = (2, "ERROR", "STATUS_CODE_ERROR")
"""OpenTelemetry's status code of an error, as exporters write it."""
CALLS = (None, "llm_call", "chat", "text_completion", "generate_content")
"""What a span of a model's call says of its type or operation; spans of agents around them have messages, too."""


class _Result(msgspec.Struct, frozen=True):
    tool_call_id: str
    content: Any


class _Row(msgspec.Struct, frozen=True):
    """`reasoning_content` isn't sent: reasoning is no part of a history."""

    kind: str = msgspec.field(name="_type", default="")
    conversation_id: str | int = ""
    turn: int | None = None
    role: Literal["user", "tool", "assistant", ""] = ""
    system: str | None = None
    content: Any = None
    tools: Tools | None = None
    tool_calls: tuple[FileCall, ...] | None = None
    tool_results: tuple[_Result, ...] | None = None
    delay_seconds: Seconds | None = None
    max_new_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None

    def messages(self) -> Iterator[Message]:
        """What the row adds to the conversation; each result of a tool is a message of its own."""
        results = self.tool_results if self.role != "assistant" else None
        for result in results or ():
            yield Message("tool", _text(result.content), tool_call_id=result.tool_call_id)
        if not results:
            yield FileMessage(self.role or "user", _text(self.content), self.tool_calls).message()


def mlperf_agentic(path: Path) -> Iterator[Draft]:
    """A turn for what users and tools say before an assistant's row, the recorded answer. Rows of a conversation stand together."""
    for name, rows in groupby(_rows(path), key=lambda item: str(item[1].conversation_id)):
        nodes: list[Node] = []
        pending: list[Message] = []
        delay_s, most, asked, first, before, tools = 0.0, None, False, 0, None, ""
        for number, row in rows:
            if row.turn is not None and before is not None and row.turn <= before:
                raise bad(path, number, "turn", f"{row.turn} comes after {before}", "order the rows of a conversation by turn")
            first, before, tools = first or number, row.turn, tools_text(row.tools) or tools
            if row.system and not nodes and not pending:
                pending.append(Message(role="system", content=row.system))
            if row.role == "assistant" and asked:
                (answer,) = row.messages()
                said = {"answer": answer.content, "tool_calls": answer.tool_calls}
                nodes.append(_turn(nodes, pending, delay_s, most, tools=tools, **said))
                pending, delay_s, most, asked = [], 0.0, None, False
                continue
            pending += row.messages()
            asked = asked or row.role != "assistant"
            delay_s += row.delay_seconds or 0.0
            most = row.max_completion_tokens or row.max_new_tokens or most
        if asked:
            nodes.append(_turn(nodes, pending, delay_s, most, tools=tools))
        yield Draft(id=name, nodes=nodes, where=f"{path}:{first}")


def _turn(nodes: Sequence[Node], messages: Sequence[Message], delay_s: float, most: int | None, **fields: Any) -> Node:
    return following(nodes, tuple(messages), delay_ns=round(delay_s * NS_PER_S), max_tokens=most, **fields)


def _rows(path: Path) -> Iterator[tuple[int, _Row]]:
    decoder = msgspec.json.Decoder(_Row, strict=False)
    for number, raw in lines(path):
        row: _Row = decode(decoder, raw, path, number, MLPERF_FORM)
        if row.kind == METADATA:
            continue
        for field in ("conversation_id", "role"):
            if getattr(row, field) == "":
                raise bad(path, number, field, "it is missing", f"give each line as {MLPERF_FORM}")
        yield number, row


class _Status(msgspec.Struct, frozen=True):
    code: Any = None


class _Attributes(msgspec.Struct, frozen=True):
    messages: Any = msgspec.field(name="gen_ai.input.messages", default=None)
    tools: Any = msgspec.field(name="gen_ai.tool.definitions", default=None)
    operation: str | None = msgspec.field(name="gen_ai.operation.name", default=None)
    most: Tokens | None = msgspec.field(name="gen_ai.request.max_tokens", default=None)
    output_tokens: Tokens | None = msgspec.field(name="gen_ai.usage.output_tokens", default=None)


class _Span(msgspec.Struct, frozen=True):
    start_time: datetime | None = None
    end_time: datetime | None = None
    attributes: _Attributes = _Attributes()
    status: _Status | None = None
    type: str | None = None

    @property
    def answered(self) -> bool:
        """Whether it is a model's call that went well, with its messages."""
        failed = self.status is not None and self.status.code in FAILED
        return self.attributes.messages is not None and not failed and self.type in CALLS and self.attributes.operation in CALLS


class _Trace(msgspec.Struct, frozen=True):
    spans: tuple[_Span, ...]
    session_id: str | None = None


class _Part(msgspec.Struct, frozen=True):
    """Of a message: text, a call of a tool or its result; reasoning isn't sent."""

    type: str
    content: Any = None
    text: str | None = None
    id: str | None = None
    name: str = ""
    arguments: Any = None
    result: Any = None
    response: Any = None


class _SpanMessage(msgspec.Struct, frozen=True):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Any = None
    parts: tuple[_Part, ...] | None = None
    tool_calls: tuple[FileCall, ...] | None = None
    tool_call_id: str | None = None

    def messages(self) -> Iterator[Message]:
        """As chat APIs take it: each result of a tool is a message of its own."""
        text, calls, results = _text(self.content), list(self.tool_calls or ()), list[Message]()
        for part in self.parts or ():
            if part.type == "text":
                text += _text(part.text if part.content is None else part.content)
            elif part.type == "tool_call":
                calls.append(FileCall(part.id or part.name, FileFunction(part.name, _text(part.arguments) or "{}")))
            elif part.type == "tool_call_response":
                result = next((each for each in (part.result, part.response, part.content) if each is not None), "")
                results.append(Message("tool", _text(result), tool_call_id=part.id))
        yield from results
        if text or calls or not results:
            yield FileMessage(self.role, text, tuple(calls), self.tool_call_id).message()


class _Call(NamedTuple):
    """A span: when it began and ended, its prompt, and how long its answer was."""

    start_ns: int
    place: int
    end_ns: int
    messages: tuple[Message, ...]
    tools: str
    max_tokens: int | None


def otel_spans(path: Path) -> Iterator[Draft | None]:
    """A session of each trace in a file, or in the files of a folder. A call waits for those that had ended when it began, and is due as
    long after the last of them. None for a trace without a call that has its messages; calls that failed are passed over."""
    for file in files(path):
        for line, value in values(file, "trace", OTEL_FORM):
            trace = converted(value, _Trace, file, line, OTEL_FORM)
            name = trace.session_id or f"{file.name}-{line}"
            calls = sorted(_calls(trace, file, line, name))
            chain = Chain(f"{file}:{line}")
            for place, call in enumerate(calls):
                ended = [other for other in range(place) if calls[other].end_ns <= call.start_ns]
                waited = {parent for other in ended for parent in chain.nodes[other].parents}
                parents = tuple(f"{other}" for other in ended if f"{other}" not in waited)
                end_ns = max((calls[other].end_ns for other in ended), default=call.start_ns)
                at_ns = 0 if ended else call.start_ns - calls[0].start_ns
                delay_ns, most = call.start_ns - end_ns, call.max_tokens
                chain.add(call.messages, parents, at_ns=at_ns, delay_ns=delay_ns, max_tokens=most, tools=call.tools)
            yield Draft(id=name, nodes=chain.nodes, where=chain.where) if calls else None


def _calls(trace: _Trace, path: Path, line: int, name: str) -> Iterator[_Call]:
    for place, span in enumerate(trace.spans):
        if not span.answered:
            continue
        where = f"session {echo(name)}: spans[{place}]"
        start_ns, end_ns = (-1 if time is None else instant_ns(time) for time in (span.start_time, span.end_time))
        if not 0 <= start_ns <= end_ns:
            raise bad(path, line, where, "it has no time from start to end", "give start_time and end_time")
        messages = converted(_decoded(span.attributes.messages, path, line, where), tuple[_SpanMessage, ...], path, line, OTEL_FORM)
        tools = converted(_decoded(span.attributes.tools, path, line, where) or (), Tools, path, line, OTEL_FORM)
        try:
            prompt, defined = tuple(each for message in messages for each in message.messages()), tools_text(_functions(tools))
            "".join(each.text() for each in prompt).encode()
        except UnicodeEncodeError:
            raise bad(path, line, where, NOT_TEXT, "save the file as UTF-8") from None
        yield _Call(start_ns, place, end_ns, prompt, defined, span.attributes.output_tokens or span.attributes.most)


def _decoded(told: Any, path: Path, line: int, where: str) -> Any:
    """Messages or tools, which exporters give as text."""
    try:
        return msgspec.json.decode(told) if isinstance(told, str) else told
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
        raise bad(path, line, f"{where}: messages or tools", f"not JSON: {error}", "give a JSON list") from None


def _functions(tools: Tools) -> Tools:
    """As chat APIs have them; spans may leave out the layer `function`."""
    flat = ({"type": "function", "function": {key: tool[key] for key in tool if key != "type"}} for tool in tools if "function" not in tool)
    return (*(tool for tool in tools if "function" in tool), *flat)


def _text(content: Any) -> str:
    """Content as text: parts of text are joined, anything else is given as JSON."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
        return "".join(part["text"] for part in content)
    return msgspec.json.encode(content).decode()
