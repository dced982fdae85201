"""A recording: what a request asked and what its answer said, as a row of the trace.

Lengths are the server's where it says them (`usage`), else counted: prompts by the tokenizer, where one is given, answers by the chunks
of their stream. Without a tokenizer the blocks of a prompt are cut by words, at the tokens per word of the first prompt that the
server counted: an estimate, and said so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import msgspec

from bytemlperf.errors import UserError
from bytemlperf_llm.loadgen.engine_start import engine_class
from bytemlperf_llm.trace.rows import Blocks, Row, RowFile, Sessions, milliseconds
from bytemlperf_llm.workload.sessions.conversations import FileMessage, Tools, tools_text
from bytemlperf_llm.workload.token_counter import TokenCounter, WordCounter, counter_for
from engines.contract import Decoded, Message
from engines.untrusted import UntrustedJson, decode_json

_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


class _Body(msgspec.Struct, frozen=True):
    messages: tuple[FileMessage, ...] | None = None
    tools: Tools | None = None
    prompt: str | list[int] | None = None


class Exchange(NamedTuple):
    """A request that has arrived: the `number`-th, from 0."""

    number: int
    arrived_ns: int
    session: str
    delay_ms: float | None
    body: _Body
    raw: bytes


class Outcomes(msgspec.Struct):
    """Requests that have no row, or half an answer."""

    failed: int = 0
    cut: int = 0
    unreadable: int = 0


class Recording:
    """Rows go to `file` as answers end. `tokenizer` as in a scenario's prompts."""

    def __init__(self, file: BinaryIO, tokenizer: str | None, block_tokens: int, *, keep_text: bool) -> None:
        self.rows, self.sessions, self._blocks = RowFile(file), Sessions(), Blocks(block_tokens)
        self._tokenizer, self._keep_text = tokenizer, keep_text
        self._decode = engine_class("openai")().decode
        self._first_ns: int | None = None
        self._words_per_token: float | None = None
        self._arrived = 0
        self.outcomes = Outcomes()

    @property
    def exact(self) -> bool:
        """Whether prompts are cut into blocks by the server's own tokens."""
        return self._counter(chat=True).exact

    def arrived(self, headers: Mapping[str, str], raw: bytes, now_ns: int) -> Exchange | None:
        """A request; None for one that can't be read: its answer is the server's."""
        try:
            body = decode_json(raw, _Body)
        except UntrustedJson:
            body = _Body()
        if not body.messages and body.prompt is None:
            self.outcomes.unreadable += 1
            return None
        self._first_ns = now_ns if self._first_ns is None else self._first_ns
        session = self.sessions.of(headers, body.messages or ())
        self._arrived += 1
        return Exchange(self._arrived - 1, now_ns, session, self.sessions.delay_ms(session, now_ns), body, raw)

    async def ended(self, exchange: Exchange, chunks: Sequence[bytes], *, stream: bool, cut: bool, now_ns: int) -> None:
        """Its answer has ended, or was `cut` by its client or the end of the recording. One without a token has no row, nor has one that
        says that it failed."""
        self.sessions.ended(exchange.session, now_ns)
        row = None
        try:
            decoded = self._decode([_STREAM_HEAD, *(chunks if stream else _as_stream(chunks))])
            if decoded.error_class is None or cut:
                row = self._row(exchange, decoded, await asyncio.to_thread(self._words, exchange.body))
            self.outcomes.failed += row is None and not cut
        finally:
            self.rows.put(exchange.number, row)

    def failed(self, exchange: Exchange) -> None:
        """The server refused it, or gave it up."""
        self.outcomes.failed += 1
        self.rows.put(exchange.number, None)

    # -- rows ----------------------------------------------------------------------------

    def _counter(self, *, chat: bool) -> TokenCounter:
        return counter_for(self._tokenizer, "chat" if chat else "plain")

    def _words(self, body: _Body) -> Sequence[int | str]:
        """The prompt's tokens; its words where no tokenizer knows them."""
        if isinstance(body.prompt, list):
            return body.prompt
        chat = body.messages is not None
        messages = [message.message() for message in body.messages or ()] or [Message("user", str(body.prompt))]
        tools = tools_text(body.tools)
        try:
            return self._counter(chat=chat).tokens(messages, tools)
        except UserError:  # the template refuses such a chat, and the server took it
            return WordCounter(exact=False).tokens(messages, tools)

    def _row(self, exchange: Exchange, decoded: Decoded, words: Sequence[int | str]) -> Row | None:
        usage, body = decoded.usage, exchange.body
        said = None if usage is None else usage.prompt_tokens
        exact = self.exact or isinstance(body.prompt, list)
        if self._words_per_token is None and said and not exact:
            self._words_per_token = len(words) / said
        per_token = 1.0 if exact else self._words_per_token or 1.0
        prompt_tokens = said or round(len(words) / per_token)
        output_tokens = (usage and usage.output_tokens) or sum(decoded.tokens_per_chunk)
        if not prompt_tokens or not output_tokens:
            return None
        assert self._first_ns is not None
        return Row(
            timestamp=milliseconds(exchange.arrived_ns - self._first_ns),
            session_id=exchange.session,
            delay=exchange.delay_ms,
            input_length=prompt_tokens,
            output_length=output_tokens,
            hash_ids=self._blocks.ids(words, prompt_tokens, per_token),
            **(_texts(exchange) if self._keep_text else {}),
        )


def _as_stream(chunks: Sequence[bytes]) -> list[bytes]:
    """A whole JSON answer as a stream of one event."""
    try:
        value = decode_json(b"".join(chunks), lenient=True)
    except UntrustedJson:
        return []
    return [b"data: " + msgspec.json.encode(value) + b"\n\n", b"data: [DONE]\n\n"]


def _texts(exchange: Exchange) -> dict[str, Any]:
    body = exchange.body
    if body.messages is None:
        return {"text_input": body.prompt} if isinstance(body.prompt, str) else {}
    return {"messages": decode_json(exchange.raw)["messages"], "tools": body.tools}
