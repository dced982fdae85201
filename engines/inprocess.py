"""What the engines inside this process share: start, prompts to tokens, engine thread to event loop, end.

Prompts. Templating and tokenising are part of serving, so they happen after `recorder.sent()`,
on the clock. A short prompt is tokenised on the event loop (0.15 ms for 45 characters, 0.8 ms for
900, with SmolLM2's tokenizer on a 2.6 GHz EPYC core); a longer one goes to a thread, where the
tokenizer releases the GIL, so that no other stream's stamp waits for it.

Threads. An engine that computes in a thread hands over what it made by one
`call_soon_threadsafe` per step, whatever the number of streams; the stamp is taken by the callback,
on the event loop, without waking a task first. That hop costs 0.03 to 0.04 ms at the median, and up
to 1 ms at p99 where the engine's threads keep every core busy (measured on two cores).
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec

from engines.chat import templated
from engines.contract import (
    Availability,
    Decoded,
    EngineError,
    EngineInfo,
    EngineUnavailable,
    ErrorClass,
    Finish,
    Model,
    Recorder,
    Request,
    WeightsKind,
    parse_options,
)

BuiltT = TypeVar("BuiltT")
Count = Annotated[int, msgspec.Meta(ge=1)]

INLINE_TEXT_CHARACTERS = 1000
"""Prompts up to this long are tokenised on the event loop: under 1 ms, cheaper than a busy thread hop."""

TELEMETRY_OFF = {"DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


class ChatTokenizer:
    """A Hugging Face tokenizer, with the model's own chat template."""

    def __init__(self, tokenizer: Any) -> None:
        self.raw = tokenizer

    async def encode(self, request: Request) -> Any:
        """Token ids of `request`, generation prompt included. Raises EngineError when it can't be templated."""
        try:
            if request.token_ids is not None or request.text_length() <= INLINE_TEXT_CHARACTERS:
                return self._encode(request)
            return await asyncio.to_thread(self._encode, request)
        except Exception as error:  # a template is a program of the model's author: it can raise anything
            raise EngineError("engine_failed", f"the prompt can't be tokenised: {type(error).__name__}: {error}") from error

    def _encode(self, request: Request) -> Any:
        if request.token_ids is not None:
            return list(request.token_ids)
        if request.messages is None:
            return list(self.raw(request.prompt or "")["input_ids"])
        text = templated(self._render, getattr(self.raw, "chat_template", ""), request.messages, request.tools)
        return list(self.raw(text, add_special_tokens=False)["input_ids"])

    def _render(self, messages: Sequence[dict[str, Any]], tools: list[Any] | None) -> str:
        return str(self.raw.apply_chat_template(messages, tools=tools, add_generation_prompt=True, tokenize=False))

    def count(self, prompt: Any) -> int:
        """Tokens of what `encode` gave."""
        return len(prompt)

    def text(self, token_ids: Sequence[int]) -> str:
        """What the tokens say, special tokens left out."""
        return str(self.raw.decode(list(token_ids), skip_special_tokens=True))


def load_tokenizer(folder: str, *, trust_remote_code: bool = False) -> ChatTokenizer:
    """The tokenizer of a checkpoint folder."""
    from transformers import AutoTokenizer

    return ChatTokenizer(AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code))


def check_context(prompt_tokens: int, max_tokens: int, max_model_len: int | None) -> None:
    """Raise EngineError("context_length") when prompt and answer don't fit together.

    The rule of OpenAI-compatible servers: an answer cut short would look like a fast one.
    """
    if max_model_len is not None and prompt_tokens + max_tokens > max_model_len:
        detail = f"{prompt_tokens} prompt tokens and {max_tokens} to generate exceed the context of {max_model_len}"
        raise EngineError("context_length", detail)


class Stream:
    """One request's way from the engine's thread to the event loop. All methods run on the loop."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._over: asyncio.Future[Finish] = asyncio.get_running_loop().create_future()

    def chunk(self, token_ids: list[int]) -> None:
        """Stamp what arrived, unless the request is over for its caller."""
        if not self._over.done():
            self._recorder.chunk(token_ids)

    def finish(self, finish: Finish) -> None:
        if not self._over.done():
            self._over.set_result(finish)

    def fail(self, error_class: ErrorClass, detail: str) -> None:
        if not self._over.done():
            self._over.set_exception(EngineError(error_class, detail))

    async def wait(self) -> Finish:
        """Until the answer is over. Raises EngineError."""
        return await self._over


class InProcessEngine:
    """What an engine that runs the model in this process needs not say again.

    A subclass builds what generates (`_build`: anything with `stop`, in a thread of its own), describes it (`_describe`, on the event
    loop) and hands it one request (`_submit`). It sets `_tokenizer` and `_max_model_len` in either of the first two.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    weights: ClassVar[WeightsKind] = "local"
    options_type: ClassVar[type[msgspec.Struct]]

    def __init__(self) -> None:
        self._runner: Any = None
        self._tokenizer: ChatTokenizer | None = None
        self._max_model_len: int | None = None
        self._event_loop: asyncio.AbstractEventLoop

    @staticmethod
    def requirements() -> Availability:
        raise NotImplementedError

    def _build(self, model: Model, options: Any) -> Any:
        """What generates; many seconds of work. May raise whatever a library raises."""
        raise NotImplementedError

    async def _describe(self, model: Model, options: Any) -> EngineInfo:
        """All but the versions, the model's name, its context and that its weights are random."""
        raise NotImplementedError

    def _submit(self, request: Request, prompt: Any, stream: Stream) -> Callable[[], None]:
        """Queue an encoded request; returns its cancel. Raises EngineError."""
        cancel: Callable[[], None] = self._runner.submit(request, prompt, stream)
        return cancel

    def _start_fix(self, _error: str) -> str:
        return "check the checkpoint folder and the engine options, or try --model smollm2"

    async def start(self, model: Model | None, options: Mapping[str, str]) -> EngineInfo:
        """As the contract says."""
        chosen = parse_options(options, self.options_type)
        available = self.requirements()
        if available.missing:
            raise EngineUnavailable(f"engine '{self.name}': {available.missing}", available.fix)
        if model is None:
            raise EngineUnavailable(f"engine '{self.name}' runs the model itself and was given none", "give --model smollm2")
        quiet_environment(model)
        self._event_loop = asyncio.get_running_loop()
        try:
            self._runner = await build_in_thread(lambda: self._build(model, chosen), self._stop)
        except EngineUnavailable:
            raise
        except Exception as error:  # loading weights and code of others raises whatever it likes
            cause = f"{self.title} could not load {model.name}: {' '.join(str(error).split())[:300]}"
            raise EngineUnavailable(cause, self._start_fix(str(error))) from error
        info = await self._describe(model, chosen)
        notes = ["random weights: speeds are real, output is meaningless"] if model.random_weights else []
        return msgspec.structs.replace(
            info,
            versions=available.versions,
            model=model.name,
            max_model_len=self._max_model_len,
            accepts=["token_ids"],
            notes=[*info.notes, *notes],
        )

    async def generate(self, request: Request, recorder: Recorder) -> Finish:
        """As the contract says."""
        if self._runner is None or self._tokenizer is None:
            raise EngineError("engine_failed", f"{self.title} is not running")
        recorder.sent()
        prompt = await self._tokenizer.encode(request)
        check_context(self._tokenizer.count(prompt), request.max_tokens, self._max_model_len)
        return await self._answer(request, prompt, recorder)

    async def _answer(self, request: Request, prompt: Any, recorder: Recorder) -> Finish:
        stream = Stream(recorder)
        cancel = self._submit(request, prompt, stream)
        try:
            return await stream.wait()
        except asyncio.CancelledError:
            cancel()
            raise

    def decode(self, payloads: Sequence[Any]) -> Decoded:
        """Payloads are lists of token ids."""
        token_ids = [token for payload in payloads for token in payload]
        text = self._tokenizer.text(token_ids) if self._tokenizer and token_ids else ""
        return Decoded(tokens_per_chunk=[len(payload) for payload in payloads], text=text)

    async def close(self) -> None:
        """As the contract says."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await asyncio.to_thread(self._stop, runner)

    def _stop(self, runner: Any) -> None:
        runner.stop()


def post(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *arguments: object) -> None:
    """Run `callback` on the loop, from any thread. Nobody is left to listen once the loop is closed."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, *arguments)


async def build_in_thread(build: Callable[[], BuiltT], discard: Callable[[BuiltT], object]) -> BuiltT:
    """Run a start-up of many seconds beside the event loop, its chatter on standard error.

    When the caller is cancelled, what is built in the end goes to `discard`.
    """

    def run() -> BuiltT:
        with stdout_to_stderr():
            return build()

    building = asyncio.get_running_loop().run_in_executor(None, run)
    try:
        return await asyncio.shield(building)
    except asyncio.CancelledError:
        building.add_done_callback(lambda done: None if done.cancelled() or done.exception() else discard(done.result()))
        raise


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send file descriptor 1 to standard error, for child processes started within as well.

    Engines' processes and C++ libraries write where they like; our standard output is a result.
    """
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)


def quiet_environment(model: Model) -> None:
    """Telemetry off, no hub where the weights are here. What the user has set stays."""
    settings = TELEMETRY_OFF | ({"HF_HUB_OFFLINE": "1"} if model.path or model.gguf_path else {})
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def availability(modules: dict[str, tuple[str, ...]], extra: str) -> Availability:
    """Whether each module is installed, found without importing it. `modules`: import name -> distribution names."""
    fix = f"pip install 'bytemlperf-llm[{extra}]'"
    versions: dict[str, str] = {}
    for module, distributions in modules.items():
        installed = [(name, version) for name in distributions if (version := distribution_version(name))]
        if not installed or importlib.util.find_spec(module) is None:
            return Availability(versions=versions, missing=f"{distributions[0]} is not installed", fix=fix)
        versions[installed[0][0]] = installed[0][1]
    return Availability(versions=versions)


def distribution_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
