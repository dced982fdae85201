"""What the engines inside this process share: prompts to tokens, engine thread to event loop.

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
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from engines.contract import Availability, Decoded, EngineError, EngineUnavailable, ErrorClass, Finish, Model, Recorder, Request

BuiltT = TypeVar("BuiltT")

INLINE_TEXT_CHARACTERS = 1000
"""Prompts up to this long are tokenised on the event loop: under 1 ms, cheaper than a busy thread hop."""

TELEMETRY_OFF = {"DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


class ChatTokenizer:
    """A Hugging Face tokenizer, with the model's own chat template."""

    def __init__(self, tokenizer: Any) -> None:
        self.raw = tokenizer

    async def encode(self, request: Request) -> list[int]:
        """Token ids of `request`, generation prompt included. Raises EngineError when it can't be templated."""
        try:
            if request.text_length() <= INLINE_TEXT_CHARACTERS:
                return self._encode(request)
            return await asyncio.to_thread(self._encode, request)
        except Exception as error:  # a template is a program of the model's author: it can raise anything
            raise EngineError("engine_failed", f"the prompt can't be tokenised: {type(error).__name__}: {error}") from error

    def _encode(self, request: Request) -> list[int]:
        if request.messages is None:
            return list(self.raw(request.prompt or "")["input_ids"])
        messages = [{"role": message.role, "content": message.content} for message in request.messages]
        text = self.raw.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return list(self.raw(text, add_special_tokens=False)["input_ids"])

    def text(self, token_ids: Sequence[int]) -> str:
        """What the tokens say, special tokens left out."""
        return str(self.raw.decode(list(token_ids), skip_special_tokens=True))


def load_tokenizer(folder: str, *, trust_remote_code: bool = False) -> ChatTokenizer:
    """The tokenizer of a checkpoint folder. Raises EngineUnavailable when chat prompts can't be templated with it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    return ChatTokenizer(tokenizer)


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


def post(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *arguments: Any) -> None:
    """Run `callback` on the loop, from any thread. Nobody is left to listen once the loop is closed."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, *arguments)


def decode_token_ids(payloads: Iterable[Sequence[int]], text_of: Callable[[Sequence[int]], str]) -> Decoded:
    """Decoded of payloads that are lists of token ids."""
    chunks = list(payloads)
    token_ids = [token for chunk in chunks for token in chunk]
    return Decoded(tokens_per_chunk=[len(chunk) for chunk in chunks], text=text_of(token_ids) if token_ids else "")


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
        found = [(name, version) for name in distributions if (version := distribution_version(name))]
        if not found or importlib.util.find_spec(module) is None:
            return Availability(versions=versions, missing=f"{distributions[0]} is not installed", fix=fix)
        versions[found[0][0]] = found[0][1]
    return Availability(versions=versions)


def distribution_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def require(available: Availability, engine: str) -> dict[str, str]:
    """The versions, or EngineUnavailable with the command that mends it."""
    if available.missing:
        raise EngineUnavailable(f"engine '{engine}': {available.missing}", available.fix)
    return available.versions


def need_model(model: Model | None, engine: str) -> Model:
    if model is None:
        raise EngineUnavailable(f"engine '{engine}' runs the model itself and was given none", "give --model smollm2")
    return model
