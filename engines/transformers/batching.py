"""How transformers turns prompts into tokens: all at once, or one at a time.

Both take token ids and a `Stream`, run the model in a thread of their own, and give back a function
that cancels the request. `ContinuousBatching` is transformers' own manager (`init_continuous_batching`),
which delivers every step's tokens by one call onto the event loop. `OneAtATime` is `model.generate`
with a streamer, for models that the manager can't run: requests queue, first come first served.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from engines.contract import EngineError, Finish, Request, Sampling, Stages, Usage
from engines.inprocess import Stream, post

NO_EOS = -1
"""An end-of-sequence id that no token has: how both ways of generating are told to ignore it."""

WARM_UP_TOKENS = 2
WARM_UP_TIMEOUT_S = 120.0
DENIED = "the generation thread has stopped"


class ContinuousBatching:
    """transformers' continuous batching manager. It samples every request alike, as `sampling` says."""

    def __init__(self, model: Any, batching_config: Any, sampling: Sampling) -> None:
        from transformers import GenerationConfig

        self._drawing = _drawing(sampling)
        self._eos_ids = eos_ids_of(model)
        generation_config = GenerationConfig(eos_token_id=sorted(self._eos_ids) or NO_EOS, **self._drawing)
        self._manager = model.init_continuous_batching(generation_config=generation_config, continuous_batching_config=batching_config)
        self._manager.start()
        try:
            self._warm_up()
        except BaseException:
            self.stop()
            raise
        self._count = 0

    def _warm_up(self) -> None:
        """Answer once, so that a model which can't be batched is found out now, and no request pays for the first step."""
        self._manager.add_request([0], request_id="warm-up", max_new_tokens=WARM_UP_TOKENS, eos_token_id=NO_EOS)
        answer = self._manager.get_result(request_id="warm-up", timeout=WARM_UP_TIMEOUT_S)
        if answer is None or answer.error:
            raise RuntimeError(answer.error if answer else DENIED)

    def submit(self, request: Request, token_ids: list[int], stream: Stream) -> Callable[[], None]:
        """Queue a request; call on the event loop. Returns its cancel. Raises EngineError."""
        if _drawing(request.sampling) != self._drawing:
            option = f"temperature={request.sampling.temperature}"
            detail = f"transformers batches only requests with equal sampling settings: give --engine-option {option}, or batching=false"
            raise EngineError("engine_failed", detail)
        self._count += 1
        request_id = f"{self._count}-{request.id}"
        self._manager.register_result_handler(request_id, self._handler(request, stream))
        added = self._manager.add_request(
            token_ids,
            request_id=request_id,
            max_new_tokens=request.max_tokens,
            streaming=True,
            record_timestamps=True,
            eos_token_id=NO_EOS if request.sampling.ignore_eos else None,
        )
        if added is None or not self._manager.is_running():
            self._forget(request_id)
            raise EngineError("engine_failed", DENIED)

        def cancel() -> None:
            self._manager.cancel_request(request_id)
            self._forget(request_id)

        return cancel

    def _handler(self, request: Request, stream: Stream) -> Callable[[Any], None]:
        seen = 0

        def on_output(output: Any) -> None:  # runs on the event loop; outputs carry all tokens so far
            nonlocal seen
            payload = output.generated_tokens[seen:]
            if payload:
                stream.chunk(payload)
                seen += len(payload)
            if output.error:
                stream.fail("engine_failed", output.error)
            elif output.is_finished():
                stream.finish(_finish(request, len(output.prompt_ids), seen, payload, self._eos_ids, _stages_of(output)))

        return on_output

    def _forget(self, request_id: str) -> None:
        self._manager.output_router.result_handlers.pop(request_id, None)

    def stop(self) -> None:
        """End the thread; blocks until it has."""
        self._manager.stop(hard_stop=True)
        self._manager.destroy()


class OneAtATime:
    """`model.generate` in one thread. Every request may sample as it likes."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="generate")
        self._stopping = threading.Event()
        self._eos_ids = eos_ids_of(model)

    def submit(self, request: Request, token_ids: list[int], stream: Stream) -> Callable[[], None]:
        cancelled = threading.Event()
        loop = asyncio.get_running_loop()
        self._thread.submit(self._answer, request, token_ids, stream, cancelled, loop)
        return cancelled.set

    def _answer(
        self, request: Request, token_ids: list[int], stream: Stream, cancelled: threading.Event, loop: asyncio.AbstractEventLoop
    ) -> None:
        if cancelled.is_set() or self._stopping.is_set():
            post(loop, stream.fail, "engine_failed", DENIED)
            return
        try:
            produced = self._generate(request, token_ids, lambda token: post(loop, stream.chunk, [token]), cancelled)
        except Exception as error:  # whatever the model raised belongs to this request
            post(loop, stream.fail, "engine_failed", f"{type(error).__name__}: {error}")
            return
        post(loop, stream.finish, _finish(request, len(token_ids), len(produced), produced, self._eos_ids))

    def _generate(self, request: Request, token_ids: list[int], emit: Callable[[int], None], cancelled: threading.Event) -> list[int]:
        import torch
        from transformers import StoppingCriteriaList

        if request.sampling.seed is not None:
            torch.manual_seed(request.sampling.seed)
        streamer = _TokenStreamer(emit)
        ids = torch.tensor([token_ids], device=self._model.device)
        self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            streamer=streamer,
            stopping_criteria=StoppingCriteriaList([lambda *_a, **_k: cancelled.is_set() or self._stopping.is_set()]),
            max_new_tokens=request.max_tokens,
            eos_token_id=NO_EOS if request.sampling.ignore_eos else sorted(self._eos_ids) or NO_EOS,
            pad_token_id=0,
            **_drawing(request.sampling),
        )
        return streamer.tokens

    def stop(self) -> None:
        self._stopping.set()
        self._thread.shutdown(wait=True)


class _TokenStreamer:
    """transformers' streamer interface: `put` gets the prompt first, then each new token as a tensor."""

    def __init__(self, emit: Callable[[int], None]) -> None:
        self._emit = emit
        self._prompt_seen = False
        self.tokens: list[int] = []

    def put(self, value: Any) -> None:
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        for token in value.flatten().tolist():
            self._emit(token)
            self.tokens.append(token)

    def end(self) -> None:
        return None


Generator = ContinuousBatching | OneAtATime


def eos_ids_of(model: Any) -> frozenset[int]:
    """The token ids that end an answer, by the checkpoint's generation configuration."""
    declared = model.generation_config.eos_token_id
    ids: Sequence[int] = [declared] if isinstance(declared, int) else declared or ()
    return frozenset(ids)


def _finish(
    request: Request, prompt_tokens: int, output_tokens: int, last: list[int], eos_ids: frozenset[int], stages: Stages | None = None
) -> Finish:
    """Of an answer whose last token ids these are."""
    ended = not request.sampling.ignore_eos and bool(last) and last[-1] in eos_ids
    usage = Usage(prompt_tokens=prompt_tokens, output_tokens=output_tokens)
    return Finish(reason="stop" if ended else "length", usage=usage, stages=stages)


def _drawing(sampling: Sampling) -> dict[str, Any]:
    if sampling.temperature == 0:
        return {"do_sample": False}
    given = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    return {"do_sample": True, **{name: value for name, value in given.items() if value is not None}}


def _stages_of(output: Any) -> Stages:
    """Stages from a GenerationOutput: `time.perf_counter` seconds, which on Linux is CLOCK_MONOTONIC."""
    stamps = output.timestamps or []
    scheduled_s = output.lifespan[0]
    return Stages(
        queued_ns=round(output.created_time * 1e9),
        scheduled_ns=round(scheduled_s * 1e9) if scheduled_s > 0 else None,
        first_token_ns=round(stamps[0] * 1e9) if stamps else None,
        last_token_ns=round(stamps[-1] * 1e9) if stamps else None,
    )
