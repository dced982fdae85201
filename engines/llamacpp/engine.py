"""llama.cpp inside this process (`llama-cpp-python`'s bindings of libllama): continuous batching on a thread of ours.

The library's own class serves one request at a time; here its batches are filled with the next token of every running request, then with
prompts, as llama.cpp's server does (`engines.llamacpp.stepper`). Loads the GGUF file beside the checkpoint, or one that is converted once
(`quantization`); prompts go through the checkpoint's tokenizer and chat template.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from engines import inprocess
from engines.contract import Availability, EngineInfo, EngineUnavailable, Model, parse_options
from engines.llamacpp.stepper import LlamaStepper
from engines.loaded_weights import gguf_weights
from engines.processor import cores_but_one
from engines.steps import StepLoop, SteppedEngine

Quantization = Literal["", "f32", "f16", "bf16", "q8_0", "q5_k_m", "q4_0", "q4_k_m"]


class LlamaCppOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`--engine-option` keys. `quantization` "" is the GGUF file as it is; `kv_cache_tokens` is the room that all requests share."""

    quantization: Quantization = ""
    kv_cache_tokens: inprocess.Count = 16_384
    max_model_len: inprocess.Count | None = None
    max_num_seqs: inprocess.Count = 32
    max_num_batched_tokens: inprocess.Count = 512
    kv_cache_dtype: Literal["f16", "q8_0", "f32"] = "f16"
    flash_attention: bool | None = None
    gpu_layers: Annotated[int, msgspec.Meta(ge=0)] = 0
    threads: inprocess.Count | None = None


class LlamaCppEngine(SteppedEngine):
    """The engine `llamacpp`."""

    name, title, options_type = "llamacpp", "llama.cpp", LlamaCppOptions

    @staticmethod
    def requirements() -> Availability:
        return inprocess.availability({"llama_cpp": ("llama-cpp-python",)}, "llamacpp")

    @staticmethod
    def conversion(options: Mapping[str, str]) -> str | None:
        """As the contract says."""
        quantization = parse_options(options, LlamaCppOptions).quantization
        return f"gguf:{quantization}" if quantization else None

    def _build(self, model: Model, options: LlamaCppOptions) -> StepLoop:
        source = source_of(model)
        self._tokenizer = inprocess.load_tokenizer(model.path or "")
        stepper = LlamaStepper(source, msgspec.structs.replace(options, threads=options.threads or cores_but_one()))
        context = min(stepper.trained_context, options.kv_cache_tokens)
        self._max_model_len = min(options.max_model_len or context, context)
        return StepLoop(stepper, self._event_loop, self.title)

    async def _describe(self, model: Model, options: LlamaCppOptions) -> EngineInfo:
        source = source_of(model)
        return EngineInfo(
            name=self.name,
            device="gpu" if options.gpu_layers else "cpu",
            dtype=f"{gguf_weights(source)} weights",
            tokenizer=model.path,
            reports=["usage", "stats"],
            notes=["continuous batching", f"weights from {source.name}", "prefix caching is off"],
        )

    def _stop(self, runner: StepLoop) -> None:
        runner.stop()
        assert isinstance(runner.stepper, LlamaStepper)
        runner.stepper.close()


def source_of(model: Model) -> Path:
    """The converted GGUF file, else the one beside the checkpoint. Raises EngineUnavailable where there is none."""
    if model.converted:
        return next(Path(model.converted).glob("*.gguf"))
    if not model.gguf_path:
        fix = "give --model smollm2, or --engine-option quantization=f16 to have it converted"
        raise EngineUnavailable(f"llama.cpp loads GGUF files, and model '{model.name}' has none", fix)
    return Path(model.gguf_path)
