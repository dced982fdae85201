"""OpenVINO GenAI inside this process: its continuous batching pipeline, stepped by a thread of ours.

The pipeline reads a GGUF file directly (architectures Llama and Qwen), or a folder with OpenVINO IR.
A request: stamp `sent`, template and tokenise with the pipeline's own tokenizer, put the token ids into
the thread's inbox. The thread (`engines.steps`) adds what has come, runs one step for all
streams, and hands the step's tokens to the event loop in one call, where each stream stamps its chunk.

On a CPU the model gets all cores but one, which is left to the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from engines import inprocess
from engines.chat import templated
from engines.contract import Availability, EngineInfo, EngineUnavailable, Model, Request
from engines.loaded_weights import dtype_text, gguf_weights, ir_weights
from engines.openvino.stepper import PipelineStepper
from engines.processor import cores_but_one
from engines.steps import StepLoop, SteppedEngine

IR_FILE = "openvino_model.xml"
DEFAULT_CACHE_GIB = 1
"""46,000 tokens of SmolLM2 in 16 bits; the pipeline allocates it at the start."""


class OpenVinoOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`--engine-option` keys. What is None is left to OpenVINO, `threads` to all cores but one."""

    device: str = "CPU"
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    kv_cache_space_gib: inprocess.Count = DEFAULT_CACHE_GIB
    kv_cache_dtype: Literal["auto", "u8", "i8", "u4", "f16", "bf16", "f32"] = "auto"
    max_model_len: inprocess.Count | None = None
    max_num_seqs: inprocess.Count | None = None
    max_num_batched_tokens: inprocess.Count | None = None
    enable_prefix_caching: bool = False
    dynamic_split_fuse: bool | None = None
    threads: inprocess.Count | None = None


class OpenVinoEngine(SteppedEngine):
    """The engine `openvino`."""

    name, title, options_type = "openvino", "OpenVINO", OpenVinoOptions

    @staticmethod
    def requirements() -> Availability:
        return inprocess.availability({"openvino_genai": ("openvino-genai",), "openvino": ("openvino",)}, "openvino")

    def _build(self, model: Model, options: OpenVinoOptions) -> StepLoop:
        pipeline = _pipeline(source_of(model), options)
        self._tokenizer = PipelineTokenizer(pipeline.get_tokenizer())
        self._max_model_len = options.max_model_len or model.max_model_len
        return StepLoop(PipelineStepper(pipeline), self._event_loop, self.title)

    async def _describe(self, model: Model, options: OpenVinoOptions) -> EngineInfo:
        source = source_of(model)
        caching = "on" if options.enable_prefix_caching else "off"
        return EngineInfo(
            name=self.name,
            device=options.device,
            dtype=await asyncio.to_thread(_loaded_dtype, source, options),
            tokenizer=f"of {source.name}",
            reports=["usage", "stats"],
            notes=["continuous batching", f"weights from {source.name}", f"prefix caching is {caching}"],
        )


class PipelineTokenizer(inprocess.ChatTokenizer):
    """OpenVINO GenAI's tokenizer, with the chat template that came with the weights. A prompt is a [1, n] tensor of token ids."""

    def _encode(self, request: Request) -> Any:
        if request.token_ids is not None:
            import numpy
            import openvino

            return openvino.Tensor(numpy.array([request.token_ids], numpy.int64))
        if request.messages is None:
            return self.raw.encode(request.prompt or "").input_ids
        text = templated(self._render, self.raw.chat_template, request.messages, request.tools)
        return self.raw.encode(text, add_special_tokens=False).input_ids

    def _render(self, messages: Sequence[dict[str, Any]], tools: list[Any] | None) -> str:
        return str(self.raw.apply_chat_template(messages, add_generation_prompt=True, tools=tools))

    def count(self, prompt: Any) -> int:
        return int(prompt.shape[-1])

    def text(self, token_ids: Sequence[int]) -> str:
        return str(self.raw.decode(list(token_ids)))


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


def _pipeline(source: Path, options: OpenVinoOptions) -> Any:
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
        properties["INFERENCE_NUM_THREADS"] = options.threads or cores_but_one()
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
