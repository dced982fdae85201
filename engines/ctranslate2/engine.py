"""CTranslate2 inside this process. It keeps no batch open for requests that come: each of `max_num_seqs` workers serves one at a time.

Loads the checkpoint as CTranslate2's own converter writes it, once, in float32; `compute_type` says what it is turned into while it loads.
The library calls back from its own threads with every token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from engines import inprocess
from engines.contract import Availability, EngineInfo, Finish, Model, Request, Usage
from engines.inprocess import Stream, post
from engines.processor import cores_but_one


class CTranslate2Options(msgspec.Struct, frozen=True, kw_only=True):
    """`--engine-option` keys. `compute_type` is CTranslate2's; `auto` is the fastest that this machine computes in."""

    compute_type: Literal["auto", "float32", "bfloat16", "float16", "int8", "int8_float32", "int8_bfloat16", "int8_float16"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
    max_model_len: inprocess.Count | None = None
    max_num_seqs: inprocess.Count = 4
    threads: inprocess.Count | None = None


class CTranslate2Engine(inprocess.InProcessEngine):
    """The engine `ctranslate2`."""

    name, title, options_type = "ctranslate2", "CTranslate2", CTranslate2Options

    @staticmethod
    def requirements() -> Availability:
        return inprocess.availability({"ctranslate2": ("ctranslate2",), "transformers": ("transformers",)}, "ctranslate2")

    @staticmethod
    def conversion(_options: Mapping[str, str]) -> str:
        """As the contract says."""
        return "ct2"

    def _build(self, model: Model, options: CTranslate2Options) -> Workers:
        import ctranslate2

        self._tokenizer = inprocess.load_tokenizer(model.path or "")
        self._max_model_len = options.max_model_len or model.max_model_len
        threads = options.threads or max(1, cores_but_one() // options.max_num_seqs)
        more = {"compute_type": options.compute_type, "inter_threads": options.max_num_seqs, "intra_threads": threads}
        return Workers(ctranslate2.Generator(model.converted, device=options.device, **more), self._tokenizer.raw, self._event_loop)

    async def _describe(self, model: Model, options: CTranslate2Options) -> EngineInfo:
        return EngineInfo(
            name=self.name,
            device=options.device,
            dtype=str(self._runner.generator.compute_type),
            tokenizer=model.path,
            reports=["usage", "stats"],
            notes=[f"no batching: {options.max_num_seqs} workers, one request each at a time", "a request has no seed"],
        )

    def stats(self) -> dict[str, float]:
        """Requests that run and that wait."""
        return self._runner.stats() if self._runner is not None else {}


class Workers:
    """What generates: the library's own threads."""

    def __init__(self, generator: Any, tokenizer: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.generator = generator
        self._tokenizer, self._loop = tokenizer, loop
        self._streams: set[Stream] = set()

    def submit(self, request: Request, prompt: list[int], stream: Stream) -> Callable[[], None]:
        """Queue a request; returns its cancel, which holds from its next token on."""
        answer = Answer(request, prompt, stream, self._loop, self._streams.discard)
        self._streams.add(stream)
        sampling = request.sampling
        drawn = sampling.temperature > 0
        self.generator.generate_batch(
            [self._tokenizer.convert_ids_to_tokens(prompt)],
            max_length=request.max_tokens,
            end_token=[] if sampling.ignore_eos else None,
            include_prompt_in_result=False,
            sampling_topk=(sampling.top_k or 0) if drawn else 1,
            sampling_topp=(sampling.top_p or 1.0) if drawn else 1.0,
            sampling_temperature=sampling.temperature if drawn else 1.0,
            callback=answer.token,
            asynchronous=True,
        )
        return answer.cancel

    def stats(self) -> dict[str, float]:
        """Of the library's queue."""
        waiting = min(self.generator.num_queued_batches, len(self._streams))
        return {"running": float(len(self._streams) - waiting), "waiting": float(waiting)}

    def stop(self) -> None:
        """Free the model; what is unfinished fails."""
        for stream in list(self._streams):
            post(self._loop, stream.fail, "engine_failed", "CTranslate2 has stopped")
        self.generator.unload_model()


class Answer:
    """One request, as the library calls back for it."""

    def __init__(
        self, request: Request, prompt: list[int], stream: Stream, loop: asyncio.AbstractEventLoop, over: Callable[[Stream], None]
    ) -> None:
        self._request, self._prompt_tokens, self._stream, self._loop, self._over = request, len(prompt), stream, loop, over
        self._count = 0
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True
        self._over(self._stream)

    def token(self, step: Any) -> bool:
        """Runs on the library's thread; True ends the request."""
        if self._cancelled:
            return True
        self._count += 1
        post(self._loop, self._stream.chunk, [step.token_id])
        if step.is_last:
            reason = "length" if self._count >= self._request.max_tokens else "stop"
            usage = Usage(prompt_tokens=self._prompt_tokens, output_tokens=self._count)
            post(self._loop, self._finish, Finish(reason=reason, usage=usage))
        return False

    def _finish(self, finish: Finish) -> None:
        self._over(self._stream)
        self._stream.finish(finish)
