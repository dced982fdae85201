"""Hugging Face transformers inside this process, streaming, with its own continuous batching.

A request: stamp `sent`, template and tokenise (`engines.inprocess`), hand the token ids to the
generation thread (`engines.transformers.batching`), stamp every chunk as the thread's call reaches
the event loop. That hop costs 0.03 to 0.04 ms at the median and up to 1 ms at p99 on two busy cores.
Stages come from the manager's own stamps.

`EngineInfo.notes` says whether requests are batched. On a CPU the model gets all cores but one,
which is left to the event loop: with every core, torch's threads wait for each other as soon as
anything else runs (SmolLM2-135M in float32 on two cores: 54 tokens/s on two threads alone, 7 beside
other work; on one thread in bfloat16 65 to 80 whatever else ran).
"""

from __future__ import annotations

import logging
import math
from typing import Annotated, Any, Literal

import msgspec

from engines import inprocess
from engines.contract import Availability, EngineInfo, Model, Sampling
from engines.loaded_weights import dtype_text, quantisation_text
from engines.processor import cores_but_one, cpu_bfloat16_flag
from engines.transformers.batching import ContinuousBatching, Generator, OneAtATime

PAGE_TOKENS = 256
CPU_KV_CACHE_TOKENS = 32_768
CPU_STEP_TOKENS = 512
"""Most tokens of one step on a CPU: bounds how long a long prompt holds up the other streams."""


class TransformersOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`--engine-option` keys. What is None is chosen by device, or left to transformers."""

    device: str = "auto"
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    batching: bool = True
    attn_implementation: str | None = None
    max_model_len: inprocess.Count | None = None
    max_num_seqs: inprocess.Count | None = None
    max_num_batched_tokens: inprocess.Count | None = None
    kv_cache_tokens: inprocess.Count | None = None
    enable_prefix_caching: bool = True
    threads: inprocess.Count | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    top_k: inprocess.Count | None = None
    seed: int | None = None
    trust_remote_code: bool = False


class TransformersEngine(inprocess.InProcessEngine):
    """The engine `transformers`."""

    name, title, options_type = "transformers", "transformers", TransformersOptions

    def __init__(self) -> None:
        super().__init__()
        self._device = self._dtype = ""
        self._notes: list[str] = []

    @staticmethod
    def requirements() -> Availability:
        return inprocess.availability({"transformers": ("transformers",), "torch": ("torch",)}, "transformers")

    async def _describe(self, model: Model, _options: TransformersOptions) -> EngineInfo:
        return EngineInfo(
            name=self.name,
            device=self._device,
            dtype=self._dtype,
            tokenizer=model.path or model.name,
            reports=["usage", "stages"] if isinstance(self._runner, ContinuousBatching) else ["usage"],
            notes=self._notes,
        )

    def _build(self, model: Model, options: TransformersOptions) -> Generator:
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging as library_logging

        library_logging.set_verbosity_error()
        library_logging.disable_progress_bar()
        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)  # its failures reach us as errors of requests
        device = options.device if options.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        on_cpu = device == "cpu"
        if on_cpu:
            torch.set_num_threads(options.threads or cores_but_one())
        if options.seed is not None:
            torch.manual_seed(options.seed)
        source = model.path or model.name
        weights = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=_dtype_name(options.dtype, on_cpu=on_cpu),
            attn_implementation=options.attn_implementation or ("sdpa" if on_cpu else None),
            trust_remote_code=options.trust_remote_code,
        ).to(device)
        self._tokenizer = inprocess.load_tokenizer(source, trust_remote_code=options.trust_remote_code)
        quantised = quantisation_text(getattr(weights.config, "quantization_config", None))
        self._device, self._dtype = str(weights.device), dtype_text(quantised, str(weights.dtype).removeprefix("torch."))
        self._max_model_len = options.max_model_len or model.max_model_len or getattr(weights.config, "max_position_embeddings", None)
        return self._choose_generator(weights, options, on_cpu=on_cpu)

    def _choose_generator(self, weights: Any, options: TransformersOptions, *, on_cpu: bool) -> Generator:
        if not options.batching:
            self._notes = ["one request at a time (batching=false)"]
            return OneAtATime(weights)
        cache_tokens = options.kv_cache_tokens or (CPU_KV_CACHE_TOKENS if on_cpu else None)
        sampling = Sampling(temperature=options.temperature, top_p=options.top_p, top_k=options.top_k)
        try:
            generator = ContinuousBatching(weights, _batching_config(options, cache_tokens, on_cpu=on_cpu), sampling)
        except Exception as error:  # the manager refuses some models and attention kinds, each in its own way
            self._notes = [f"one request at a time: transformers can't batch this model ({type(error).__name__}: {error})"]
            return OneAtATime(weights)
        if cache_tokens is not None and self._max_model_len is not None:
            self._max_model_len = min(self._max_model_len, cache_tokens)
        self._notes = ["continuous batching", "all requests share sampling settings: temperature is an engine option"]
        return generator


def _dtype_name(dtype: str, *, on_cpu: bool) -> str:
    """On a CPU bfloat16 where it has the arithmetic, else float32; elsewhere "auto", the checkpoint's own."""
    if dtype != "auto" or not on_cpu:
        return dtype
    return "bfloat16" if cpu_bfloat16_flag() else "float32"


def _batching_config(options: TransformersOptions, cache_tokens: int | None, *, on_cpu: bool) -> Any:
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    return ContinuousBatchingConfig(
        page_size=PAGE_TOKENS,
        num_blocks=math.ceil(cache_tokens / PAGE_TOKENS) if cache_tokens else None,
        max_batch_tokens=options.max_num_batched_tokens or (CPU_STEP_TOKENS if on_cpu else None),
        max_requests_per_batch=options.max_num_seqs,
        allow_block_sharing=options.enable_prefix_caching,
        auto_switch_to_flash=not on_cpu,
        seed=options.seed,
    )
