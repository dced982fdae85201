"""`bmp-llm serve`: an engine of the contract behind OpenAI's HTTP API (chat and text completions, streamed or not), on loopback.

So what runs inside a process can be measured over HTTP, too: the same engine, with a server and a socket before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from bytemlperf.command.console import sayer
from bytemlperf.command.flags import pairs
from bytemlperf.command.signals import draining
from bytemlperf.errors import UserError
from bytemlperf.redaction import Redactor
from bytemlperf_llm.loadgen.engine_start import engine_class, start_engine
from bytemlperf_llm.loadgen.loops import loop_factory
from bytemlperf_llm.loadgen.recorder import RequestRecorder
from bytemlperf_llm.run.preflight import resolve_model
from engines.contract import Engine, EngineError, EngineInfo, Finish, Message, Request, Sampling
from engines.untrusted import UntrustedJson, decode_json

if TYPE_CHECKING:
    from aiohttp import web

LOOPBACK = "127.0.0.1"
MAX_BODY_BYTES = 1 << 24
DEFAULT_MAX_TOKENS = 16
DRAIN_S = 5.0
HALF_CHARACTER = "\N{REPLACEMENT CHARACTER}"
"""At the end of a text: the next token has the rest of the character."""


class _Body(msgspec.Struct):
    """What is heeded of a request; other fields are taken and ignored. What is sampled is the contract's, and `ignore_eos` off."""

    messages: tuple[Message, ...] | None = None
    prompt: str | tuple[int, ...] | None = None
    tools: msgspec.Raw = msgspec.Raw(b"")
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream: bool = False
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    ignore_eos: bool = False

    def request(self, index: int, *, chat: bool) -> Request:
        """Raises UntrustedJson where it can't be answered."""
        limit, prompt = self.max_completion_tokens or self.max_tokens or DEFAULT_MAX_TOKENS, None if chat else self.prompt
        if (not self.messages if chat else prompt is None) or limit < 1:
            raise UntrustedJson("messages (of a text completion: prompt) is missing, or max_tokens is under 1")
        return Request(
            index=index,
            id=f"served-{index}",
            max_tokens=limit,
            messages=self.messages if chat else None,
            prompt=prompt if isinstance(prompt, str) else None,
            token_ids=prompt if isinstance(prompt, tuple) else None,
            tools=bytes(self.tools).decode(),
            sampling=msgspec.convert(self, Sampling, from_attributes=True),
        )


class _Arrivals(RequestRecorder):
    """A recorder that passes on how many payloads there are, and None at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: asyncio.Queue[int | None] = asyncio.Queue()

    def chunk(self, payload: Any) -> None:
        super().chunk(payload)
        self.counts.put_nowait(len(self.payloads))

    def lists(self) -> None:
        """None: every payload comes through `chunk`."""


class _Answer:
    """One request at the engine, cancelled at the end of the block where it isn't over."""

    def __init__(self, engine: Engine, request: Request) -> None:
        self._engine, self._request, self._arrivals = engine, request, _Arrivals()

    async def __aenter__(self) -> _Answer:
        self._generating = asyncio.ensure_future(self._engine.generate(self._request, self._arrivals))
        self._generating.add_done_callback(lambda _: self._arrivals.counts.put_nowait(None))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._generating.cancel()

    async def texts(self) -> AsyncIterator[str]:
        """What each payload adds to the text. A token may change how the one before it is read, so both are decoded together. Raises
        EngineError."""
        shown = read = 0
        while (count := await self._arrivals.counts.get()) is not None:
            payloads = self._arrivals.payloads
            before, text = (self._engine.decode(payloads[shown:end]).text for end in (read, count))
            if text.endswith(HALF_CHARACTER):
                yield ""
                continue
            yield text[len(before) :]
            shown, read = read, count
        await self._generating

    def ended(self) -> tuple[str, dict[str, int]]:
        """Finish reason, and usage as OpenAI has it, of one that is over."""
        finish: Finish = self._generating.result()
        counted = finish.usage
        output = sum(self._engine.decode(self._arrivals.payloads).tokens_per_chunk)
        prompt = 0 if counted is None else counted.prompt_tokens or 0
        return finish.reason or "length", {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}


class EngineServer:
    """Answers at `port` of 127.0.0.1 (0: any free one) with a started engine."""

    def __init__(self, engine: Engine, info: EngineInfo, port: int) -> None:
        self._engine, self._info, self.port, self._served = engine, info, port, 0

    async def start(self) -> None:
        """Raises OSError when the port is taken."""
        from aiohttp import web

        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.add_routes([web.get("/health", self._models), web.get("/v1/models", self._models)])
        app.add_routes([web.post(f"/v1/{path}", self._complete) for path in ("chat/completions", "completions")])
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=DRAIN_S)
        await self._runner.setup()
        await web.TCPSite(self._runner, LOOPBACK, self.port).start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Requests under way have `DRAIN_S`."""
        await self._runner.cleanup()

    async def _models(self, _: web.Request) -> web.Response:
        model = {"id": self._info.model or self._info.name, "object": "model", "created": 0, "owned_by": self._info.name}
        return _json({"object": "list", "data": [model | {"max_model_len": self._info.max_model_len}]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        self._served += 1
        chat = request.path.endswith("/chat/completions")
        head = {"id": f"served-{self._served}", "object": "chat.completion" if chat else "text_completion", "created": 0}
        head["model"] = self._info.model or self._info.name
        try:
            body = decode_json(await request.read(), _Body)
            async with _Answer(self._engine, body.request(self._served, chat=chat)) as answer:
                if body.stream:
                    return await _streamed(request, answer, head, "delta" if chat else "")
                text = "".join([text async for text in answer.texts()])
                reason, usage = answer.ended()
                return _json(head | {"choices": [_choice("message" if chat else "", text, reason)], "usage": usage})
        except UntrustedJson as error:
            return _failure(400, "invalid_request", str(error))
        except EngineError as error:
            return _failure(400 if error.error_class == "context_length" else 500, error.error_class, error.detail)


async def _streamed(request: web.Request, answer: _Answer, head: dict[str, Any], key: str) -> web.StreamResponse:
    """An event a payload, and one with finish reason and usage. A failure before the first raises EngineError, later it is an event."""
    from aiohttp import web

    response = web.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-store"})
    head = head | {"object": f"{head['object']}.chunk" if key else head["object"]}
    try:
        async for text in answer.texts():
            if not response.prepared:
                await response.prepare(request)
            await response.write(_event(head | {"choices": [_choice(key, text, None)]}))
    except EngineError as error:
        if not response.prepared:
            raise
        await response.write(_event({"error": {"message": error.detail, "code": error.error_class}}))
        return response
    reason, usage = answer.ended()
    await response.write(_event(head | {"choices": [_choice(key, "", reason)], "usage": usage}) + b"data: [DONE]\n\n")
    return response


def _choice(key: str, text: str, reason: str | None) -> dict[str, Any]:
    said = {key: {"role": "assistant", "content": text}} if key else {"text": text}
    return {"index": 0, **said, "finish_reason": reason}


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(content) + b"\n\n"


def _json(content: dict[str, Any], status: int = 200) -> web.Response:
    from aiohttp import web

    return web.Response(body=msgspec.json.encode(content), status=status, content_type="application/json")


def _failure(status: int, code: str, message: str) -> web.Response:
    return _json({"error": {"message": message, "type": code, "code": code}}, status)


def serve(name: str, model_name: str | None, options: Iterable[str], port: int) -> int:
    """Serve until interrupted; the first line on standard output is the URL. Raises UserError."""
    engine_type = engine_class(name)
    if engine_type.weights == "remote":
        raise UserError(f"engine '{name}' asks a server already", "measure that with --base-url")
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(engine_type(), name, model_name, pairs("--engine-option", options), port))
    return 0


async def _serve(engine: Engine, name: str, model_name: str | None, options: dict[str, str], port: int) -> None:
    say, stop = sayer(quiet=False), asyncio.Event()
    server: EngineServer | None = None
    try:
        with draining(stop.set, stop.is_set, say):
            model = resolve_model(type(engine), model_name, options, say)
            info = await start_engine(engine, model, options, Redactor())
            server = EngineServer(engine, info, port)
            await server.start()
            print(f"http://{LOOPBACK}:{server.port}", flush=True)
            say(f"serving {name}; Ctrl-C ends it")
            await stop.wait()
    except OSError as error:
        fix = "give another port with --port, 0 for any free one"
        raise UserError(f"can't listen on {LOOPBACK}:{port}: {error.strerror}", fix) from None
    finally:
        if server is not None:
            await server.close()
        await engine.close()
