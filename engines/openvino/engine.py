"""OpenVINO GenAI inside this process: its continuous batching pipeline, stepped by a thread of ours.

The pipeline reads a GGUF file directly (architectures Llama and Qwen), or a folder with OpenVINO IR.
A request: stamp `sent`, template and tokenise with the pipeline's own tokenizer, put the token ids into
the thread's inbox. The thread (`engines.openvino.loop`) adds what has come, runs one step for all
streams, and hands the step's tokens to the event loop in one call, where each stream stamps its chunk.

On a CPU the model gets all cores but one, which is left to the event loop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from engines import inprocess
from engines.contract import (
    Availability,
    Decoded,
    EngineError,
    EngineInfo,
    EngineUnavailable,
    Finish,
    Model,
    Recorder,
    Request,
    Sampling,
    WeightsKind,
    parse_options,
)
from engines.loaded_weights import dtype_text, gguf_weights, ir_weights
from engines.openvino.loop import StepLoop

IR_FILE = "openvino_model.xml"
DEFAULT_CACHE_GIB = 1
"""46,000 tokens of SmolLM2 in 16 bits; the pipeline allocates it at the start."""

Count = Annotated[int, msgspec.Meta(ge=1)]


class OpenVinoOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`--engine-option` keys. What is None is left to OpenVINO, `threads` to all cores but one."""

    device: str = "CPU"
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    kv_cache_space_gib: Count = DEFAULT_CACHE_GIB
    kv_cache_dtype: Literal["auto", "u8", "i8", "u4", "f16", "bf16", "f32"] = "auto"
    max_model_len: Count | None = None
    max_num_seqs: Count | None = None
    max_num_batched_tokens: Count | None = None
    enable_prefix_caching: bool = False
    dynamic_split_fuse: bool | None = None
    threads: Count | None = None


class OpenVinoEngine:
    """The engine `openvino`."""

    weights: ClassVar[WeightsKind] = "local"
    options_type: ClassVar[type[msgspec.Struct]] = OpenVinoOptions

    def __init__(self) -> None:
        self._loop: StepLoop | None = None
        self._tokenizer: PipelineTokenizer | None = None
        self._max_model_len: int | None = None

    @staticmethod
    def requirements() -> Availability:
        return inprocess.availability({"openvino_genai": ("openvino-genai",), "openvino": ("openvino",)}, "openvino")

    async def start(self, model: Model | None, options: Mapping[str, str]) -> EngineInfo:
        chosen = parse_options(options, OpenVinoOptions)
        versions = inprocess.require(self.requirements(), "openvino")
        wanted = inprocess.need_model(model, "openvino")
        source = source_of(wanted)
        inprocess.quiet_environment(wanted)
        try:
            pipeline = await inprocess.build_in_thread(lambda: _build(source, chosen), lambda _pipeline: None)
        except Exception as error:  # the C++ side raises RuntimeError with its own source lines in it
            cause = f"OpenVINO could not load {source.name}: {' '.join(str(error).split())[:300]}"
            raise EngineUnavailable(cause, "check the engine options, or try --model smollm2") from error
        self._tokenizer = PipelineTokenizer(pipeline.get_tokenizer())
        self._max_model_len = chosen.max_model_len or wanted.max_model_len
        self._loop = StepLoop(pipeline, asyncio.get_running_loop())
        notes = [
            "continuous batching",
            f"weights from {source.name}",
            f"prefix caching is {'on' if chosen.enable_prefix_caching else 'off'}",
        ]
        if wanted.random_weights:
            notes.append("random weights: speeds are real, output is meaningless")
        return EngineInfo(
            name="openvino",
            versions=versions,
            device=chosen.device,
            dtype=await asyncio.to_thread(_loaded_dtype, source, chosen),
            model=wanted.name,
            tokenizer=f"of {source.name}",
            max_model_len=self._max_model_len,
            reports=["usage", "stats"],
            notes=notes,
        )

    async def generate(self, request: Request, recorder: Recorder) -> Finish:
        if self._loop is None or self._tokenizer is None:
            raise EngineError("engine_failed", "OpenVINO is not running")
        stream = inprocess.Stream(recorder)
        recorder.sent()
        input_ids = await self._tokenizer.encode(request)
        prompt_tokens = int(input_ids.shape[-1])
        inprocess.check_context(prompt_tokens, request.max_tokens, self._max_model_len)
        cancel = self._loop.submit(input_ids, prompt_tokens, _generation_config(request), stream)
        try:
            return await stream.wait()
        except asyncio.CancelledError:
            cancel()
            raise

    def decode(self, payloads: Sequence[Any]) -> Decoded:
        """Payloads are lists of token ids."""
        return inprocess.decode_token_ids(payloads, self._tokenizer.text if self._tokenizer else lambda _ids: "")

    def stats(self) -> dict[str, float]:
        """As of the last step: requests running and waiting, KV-cache use as a share, its peak so far."""
        return dict(self._loop.stats) if self._loop is not None else {}

    async def close(self) -> None:
        loop, self._loop, self._tokenizer = self._loop, None, None
        if loop is not None:
            await asyncio.to_thread(loop.stop)


class PipelineTokenizer:
    """OpenVINO GenAI's tokenizer, with the chat template that came with the weights."""

    def __init__(self, tokenizer: Any) -> None:
        self._raw = tokenizer

    async def encode(self, request: Request) -> Any:
        """A [1, n] tensor of token ids. Raises EngineError when the prompt can't be templated."""
        try:
            if request.text_length() <= inprocess.INLINE_TEXT_CHARACTERS:
                return self._encode(request)
            return await asyncio.to_thread(self._encode, request)
        except Exception as error:  # a template is a program of the model's author: it can raise anything
            raise EngineError("engine_failed", f"the prompt can't be tokenised: {type(error).__name__}: {error}") from error

    def _encode(self, request: Request) -> Any:
        if request.messages is None:
            return self._raw.encode(request.prompt or "").input_ids
        messages = [{"role": message.role, "content": message.content} for message in request.messages]
        text = self._raw.apply_chat_template(messages, add_generation_prompt=True)
        return self._raw.encode(text, add_special_tokens=False).input_ids

    def text(self, token_ids: Sequence[int]) -> str:
        return str(self._raw.decode(list(token_ids)))


def source_of(model: Model) -> Path:
    """The GGUF file or IR folder to load. Raises EngineUnavailable when there is neither."""
    if model.path and (Path(model.path) / IR_FILE).is_file():
        return Path(model.path)
    if model.gguf_path:
        return Path(model.gguf_path)
    raise EngineUnavailable(
        f"OpenVINO GenAI loads GGUF files and OpenVINO IR folders, and model '{model.name}' has neither",
        f"give --model smollm2, or --model FOLDER with an {IR_FILE} (optimum-cli export openvino)",
    )


def _build(source: Path, options: OpenVinoOptions) -> Any:
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = options.kv_cache_space_gib
    scheduler.enable_prefix_caching = options.enable_prefix_caching
    for name in ("max_num_seqs", "max_num_batched_tokens", "dynamic_split_fuse"):
        if (value := getattr(options, name)) is not None:
            setattr(scheduler, name, value)
    return openvino_genai.ContinuousBatchingPipeline(str(source), scheduler, options.device, device_properties(options))


def device_properties(options: OpenVinoOptions) -> dict[str, Any]:
    """OpenVINO's own property names for our options."""
    properties: dict[str, Any] = {}
    if options.device == "CPU":
        properties["INFERENCE_NUM_THREADS"] = options.threads or max(1, len(os.sched_getaffinity(0)) - 1)
    if options.dtype != "auto":
        properties["INFERENCE_PRECISION_HINT"] = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}[options.dtype]
    if options.kv_cache_dtype != "auto":
        properties["KV_CACHE_PRECISION"] = options.kv_cache_dtype
    return properties


def _loaded_dtype(source: Path, options: OpenVinoOptions) -> str:
    """What the weights are stored as, and what they are multiplied in."""
    import openvino

    arithmetic = options.dtype
    if arithmetic == "auto":
        hint = openvino.Core().get_property(options.device, "INFERENCE_PRECISION_HINT").get_type_name()
        arithmetic = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}.get(hint, hint)
    weights = ir_weights(source / IR_FILE) if source.is_dir() else gguf_weights(source)
    return dtype_text(weights, arithmetic)


def _generation_config(request: Request) -> Any:
    import openvino_genai

    sampling: Sampling = request.sampling
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = request.max_tokens
    config.ignore_eos = sampling.ignore_eos
    config.do_sample = sampling.temperature > 0
    if config.do_sample:
        config.temperature = sampling.temperature
        for name, value in (("top_p", sampling.top_p), ("top_k", sampling.top_k), ("rng_seed", sampling.seed)):
            if value is not None:
                setattr(config, name, value)
    return config
