"""What the reference server says on the wire: OpenAI-compatible bodies and events, as pure functions.

A request body becomes an `Ask`; an `Ask` becomes a `StreamFormat`, which has the bytes of every event
ready but for the word, or a whole JSON answer. One event is one HTTP chunk, as real servers have it.
The role rides on the first event; finish reason, usage, `[DONE]` and the end of the body ride with
the last token, so that the last token is the last thing a client waits for.
"""

from __future__ import annotations

import time
from http import HTTPStatus

import msgspec

from engines.contract import Message, ToolCall
from engines.reference.engine import WORDS, count_prompt_tokens, words
from engines.untrusted import UntrustedJson, decode_json

DEFAULT_MAX_TOKENS = 16


class _Message(msgspec.Struct):
    role: str
    content: str | list[dict[str, object]] | None = None
    tool_calls: tuple[ToolCall, ...] | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _Body(msgspec.Struct):
    """The fields that matter here; every other one, such as ignore_eos, is taken and ignored."""

    model: str = "reference"
    messages: list[_Message] | None = None
    tools: msgspec.Raw = msgspec.Raw(b"")
    prompt: str | list[object] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream: bool = False
    stream_options: _StreamOptions | None = None


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A checked completion request."""

    chat: bool
    model: str
    prompt_tokens: int
    tokens: int
    stream: bool
    include_usage: bool


class WireError(Exception):
    """A request that gets an error answer: HTTP status, OpenAI error code and message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


_to_json = msgspec.json.encode


def parse_ask(body: bytes, chat: bool, max_model_len: int) -> Ask:
    """Read a completion request. Raises WireError (400) when it can't be answered."""
    try:
        request = decode_json(body, _Body)
    except UntrustedJson as error:
        raise WireError(400, "invalid_request", f"the body is not a completion request: {error}") from None
    if chat and not request.messages:
        raise WireError(400, "invalid_request", "messages is missing or empty")
    if not chat and request.prompt is None:
        raise WireError(400, "invalid_request", "prompt is missing")
    prompt_tokens = sum(map(_count_message, request.messages or ())) if chat else _count_prompt(request.prompt)
    prompt_tokens += len(bytes(request.tools).split())
    limit = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    tokens = DEFAULT_MAX_TOKENS if limit is None else limit
    if tokens < 1:
        raise WireError(400, "invalid_request", f"max_tokens must be at least 1, not {tokens}")
    if prompt_tokens + tokens > max_model_len:
        detail = f"maximum context length is {max_model_len} tokens; asked for {prompt_tokens} in the prompt and {tokens} in the answer"
        raise WireError(400, "context_length_exceeded", detail)
    include_usage = request.stream_options is not None and request.stream_options.include_usage
    return Ask(
        chat=chat, model=request.model, prompt_tokens=prompt_tokens, tokens=tokens, stream=request.stream, include_usage=include_usage
    )


def _count_message(message: _Message) -> int:
    if isinstance(message.content, list):
        return sum(count_prompt_tokens(str(part.get("text", ""))) for part in message.content)
    return count_prompt_tokens(Message("assistant", message.content or "", message.tool_calls or ()).text())


def _count_prompt(prompt: str | list[object] | None) -> int:
    if isinstance(prompt, list):  # token ids, or several prompts
        return sum(_count_prompt(part) if isinstance(part, str | list) else 1 for part in prompt)
    return count_prompt_tokens(prompt or "")


def response_head(status: int, fields: str, request_id: str, keep_alive: bool) -> bytes:
    """Status line and header. `fields` are whole header lines, each with its CRLF."""
    close = "" if keep_alive else "connection: close\r\n"
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{fields}x-request-id: {request_id}\r\n{close}\r\n".encode("latin-1")


def json_response(status: int, body: bytes, request_id: str = "none", keep_alive: bool = True) -> bytes:
    """A whole response with a JSON body."""
    fields = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return response_head(status, fields, request_id, keep_alive) + body


def error_response(error: WireError, request_id: str = "none", keep_alive: bool = True) -> bytes:
    """A whole response in OpenAI's error form."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    body = _to_json({"error": {"message": str(error), "type": kind, "code": error.code}})
    return json_response(error.status, body, request_id, keep_alive)


def _usage(ask: Ask) -> dict[str, int]:
    return {"prompt_tokens": ask.prompt_tokens, "completion_tokens": ask.tokens, "total_tokens": ask.prompt_tokens + ask.tokens}


def full_answer(ask: Ask, number: int) -> bytes:
    """The JSON body of an answer that isn't streamed."""
    text = words(0, ask.tokens)
    said = {"message": {"role": "assistant", "content": text}} if ask.chat else {"text": text}
    answer = {
        "id": f"{'chatcmpl' if ask.chat else 'cmpl'}-{number:08x}",
        "object": "chat.completion" if ask.chat else "text_completion",
        "created": int(time.time()),
        "model": ask.model,
        "choices": [{"index": 0, **said, "finish_reason": "length"}],
        "usage": _usage(ask),
    }
    return _to_json(answer)


class StreamFormat:
    """The bytes of one streamed answer. Step i holds `events_per_write` events of `tokens_per_event` tokens."""

    __slots__ = ("_after_word", "_ask", "_before", "_chunked", "_events_per_write", "_single", "_tokens_per_event", "_until_word")

    def __init__(self, ask: Ask, number: int, tokens_per_event: int, events_per_write: int, chunked: bool) -> None:
        self._ask = ask
        self._tokens_per_event = tokens_per_event
        self._events_per_write = events_per_write
        self._chunked = chunked
        kind, name = ("chat.completion.chunk", "chatcmpl") if ask.chat else ("text_completion", "cmpl")
        model = _to_json(ask.model).decode()
        self._before = (
            f'data: {{"id":"{name}-{number:08x}","object":"{kind}","created":{int(time.time())},"model":{model},"choices":['
        ).encode()
        # Nearly every step is one event of one word, and every word has the same length.
        self._single = tokens_per_event == 1 and events_per_write == 1 and ask.tokens > 2
        self._until_word, _, self._after_word = self._event(1, 1).rpartition(WORDS[1].encode()) if self._single else (b"", b"", b"")

    @property
    def tokens_per_step(self) -> int:
        return self._tokens_per_event * self._events_per_write

    def head(self, request_id: str, keep_alive: bool) -> bytes:
        framing = "transfer-encoding: chunked\r\n" if self._chunked else ""
        fields = f"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-store\r\n{framing}"
        return response_head(200, fields, request_id, keep_alive)

    def step(self, index: int) -> bytes:
        """Everything that leaves in write number `index`."""
        if self._single and 0 < index < self._ask.tokens - 1:
            return self._until_word + _WORD_BYTES[index % len(WORDS)] + self._after_word
        first = index * self.tokens_per_step
        last = min(first + self.tokens_per_step, self._ask.tokens)
        starts = range(first, last, self._tokens_per_event)
        out = b"".join(self._event(start, min(self._tokens_per_event, last - start)) for start in starts)
        return out + self._ending() if last == self._ask.tokens else out

    def _event(self, first: int, count: int) -> bytes:
        text = words(first, count)
        reason = '"length"' if first + count == self._ask.tokens else "null"
        if self._ask.chat:
            role = '"role":"assistant",' if first == 0 else ""
            choice = f'{{"index":0,"delta":{{{role}"content":"{text}"}},"finish_reason":{reason}}}'
        else:
            choice = f'{{"index":0,"text":"{text}","finish_reason":{reason}}}'
        return self._frame(self._before + choice.encode() + b"]}\n\n")

    def _ending(self) -> bytes:
        usage = self._frame(self._before + b'],"usage":' + _to_json(_usage(self._ask)) + b"}\n\n") if self._ask.include_usage else b""
        return usage + self._frame(b"data: [DONE]\n\n") + (b"0\r\n\r\n" if self._chunked else b"")

    def _frame(self, event: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(event), event) if self._chunked else event


_WORD_BYTES = tuple(word.encode() for word in WORDS)
