"""vLLM inside this process: `AsyncLLM`, streamed deltas, vLLM's own stage stamps, no HTTP between.

A request: stamp `sent`, template and tokenise (`engines.inprocess`), hand the token ids to
`AsyncLLM.generate`, stamp every delta as the generator yields it. The model runs in vLLM's own
processes; our event loop only receives. The stages come with the last delta, as `time.monotonic()`
seconds of the engine core (`RequestStateStats`), the clock of our own stamps; in ns they are good
to 2 ns, what a double holds of a few months of uptime.

What is ours to choose, on a CPU (each can be set by an engine option, none touches a GPU):
- `dtype`: bfloat16 where the CPU has bfloat16 arithmetic, else float32. SmolLM2-135M, eight streams,
  one engine core: 107 to 135 tokens/s in bfloat16 against 71 to 81 in float32 with avx512_bf16;
  without such instructions 23 against 70.
- `enforce_eager`: compiling costs 85 to 110 s of start on one core for 10 to 20 % more tokens/s; a run
  of three minutes never earns that back.
- KV cache: 2 GiB, 93,000 tokens of SmolLM2.
- Threads stay as vLLM binds them: one core is left to the scheduler, tokeniser and load generator.
  On two cores, beside other work: 138 to 161 tokens/s so, 85 to 102 with the model bound to both
  (VLLM_CPU_OMP_THREADS_BIND=0-1), 39 to 180 unbound (nobind), by what else ran.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from engines import inprocess
from engines.contract import Availability, BadOption, Counted, Decoded, EngineError, EngineInfo, Finish, Model, Recorder, Request, Usage
from engines.loaded_weights import dtype_text, quantisation_text
from engines.processor import cpu_bfloat16_flag
from engines.thought import THINK, marked, thought_of
from engines.vllm.metrics import LatestStats, stages_of, stat_logger

CPU_KV_CACHE_GIB = 2.0
GIB = 1 << 30
SHUTDOWN_S = 15.0
"""A worker on a CPU takes 4 to 5 s to end by itself; vLLM's default of 5 s kills it midway, with warnings."""

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": LOOPBACK,
    "NCCL_SOCKET_IFNAME": LOOPBACK,
}
"""What a user has set stays: quiet, no telemetry, every port on loopback."""

Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Gib = Annotated[float, msgspec.Meta(gt=0)]


class VllmOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`--engine-option` keys. All but `kv_cache_space_gib` are vLLM's own, with vLLM's meaning and default."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    max_model_len: inprocess.Count | None = None
    max_num_seqs: inprocess.Count | None = None
    max_num_batched_tokens: inprocess.Count | None = None
    gpu_memory_utilization: Share | None = None
    kv_cache_space_gib: Gib | None = None
    kv_cache_dtype: str | None = None
    block_size: inprocess.Count | None = None
    enforce_eager: bool | None = None
    enable_prefix_caching: bool | None = None
    enable_chunked_prefill: bool | None = None
    tensor_parallel_size: inprocess.Count | None = None
    pipeline_parallel_size: inprocess.Count | None = None
    data_parallel_size: inprocess.Count | None = None
    quantization: str | None = None
    load_format: str | None = None
    scheduling_policy: Literal["fcfs", "priority"] | None = None
    seed: int | None = None
    speculative_config: str | None = None
    trust_remote_code: bool = False


class VllmEngine(inprocess.InProcessEngine):
    """The engine `vllm`."""

    name, title, options_type = "vllm", "vLLM", VllmOptions
    takes: ClassVar[frozenset[str]] = frozenset(("priority",))

    def __init__(self) -> None:
        super().__init__()
        self._latest = LatestStats()
        self._on_cpu = False

    @staticmethod
    def requirements() -> Availability:
        extra = "vllm" if Path("/proc/driver/nvidia/version").exists() else "vllm-cpu"
        return inprocess.availability({"vllm": (extra, "vllm-cpu", "vllm"), "torch": ("torch",)}, extra)

    def _build(self, model: Model, options: VllmOptions) -> Any:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM

        self._on_cpu = bool(current_platform.is_cpu())
        arguments = engine_arguments(options, on_cpu=self._on_cpu, bfloat16=cpu_bfloat16_flag() is not None)
        engine_args = AsyncEngineArgs(
            model=model.path or model.name,
            enable_log_requests=False,
            disable_log_stats=True,  # vLLM's own log lines; our stat logger keeps the metrics on
            use_tqdm_on_load=False,
            **arguments,
        )
        return AsyncLLM.from_engine_args(engine_args, stat_loggers=[stat_logger(self._latest)])

    async def _describe(self, model: Model, _options: VllmOptions) -> EngineInfo:
        self._tokenizer = inprocess.ChatTokenizer(self._runner.get_tokenizer())
        config = self._runner.vllm_config
        self._max_model_len = int(config.model_config.max_model_len)
        dtype = str(config.model_config.dtype).removeprefix("torch.")
        caching = "on: prompts with a known prefix are faster" if config.cache_config.enable_prefix_caching else "off"
        notes = [f"prefix caching is {caching}"]
        if self._on_cpu:
            flag = cpu_bfloat16_flag()
            notes.append(f"{dtype} on a CPU with {flag}" if flag else f"{dtype} on a CPU without bfloat16 arithmetic")
        if config.model_config.enforce_eager:
            notes.append(
                "eager: torch.compile is off (enforce_eager=false turns it on, and makes the start one to two minutes longer on a CPU)"
            )
        return EngineInfo(
            name=self.name,
            device=str(config.device_config.device_type),
            dtype=dtype_text(_quantisation(config.model_config), dtype),
            tokenizer=model.path or model.name,
            reports=["usage", "stages", "stats"],
            notes=notes,
        )

    async def _answer(self, request: Request, prompt: list[int], recorder: Recorder) -> Finish:
        try:
            return await self._stream(request, prompt, recorder)
        except EngineError:
            raise
        except Exception as error:  # EngineDeadError, EngineGenerateError, and what a version may add
            raise EngineError("engine_failed", f"{type(error).__name__}: {error}") from error

    async def _stream(self, request: Request, token_ids: list[int], recorder: Recorder) -> Finish:
        from vllm.inputs import tokens_input

        priority = (request.traffic_class and request.traffic_class.priority) or 0  # of scheduling_policy=priority alone
        outputs = self._runner.generate(tokens_input(token_ids), _sampling_params(request), request.id, priority=priority)
        last: Any = None
        output_tokens = 0
        async with aclosing(outputs):  # left by a cancellation, it aborts the request in the engine
            async for last in outputs:
                recorder.chunk(last)
                output_tokens += len(last.outputs[0].token_ids)
        if last is None:
            raise EngineError("empty_response", "vLLM yielded nothing")
        usage = Usage(prompt_tokens=len(token_ids), output_tokens=output_tokens, cached_tokens=last.num_cached_tokens)
        return Finish(reason=last.outputs[0].finish_reason, usage=usage, stages=stages_of(last.metrics))

    def decode(self, payloads: Sequence[Any]) -> Decoded:
        """Payloads are vLLM's RequestOutputs, each with the new tokens and their text."""
        deltas = [payload.outputs[0] for payload in payloads]
        reason = deltas[-1].finish_reason if deltas else None
        texts, tokens = [delta.text for delta in deltas], [len(delta.token_ids) for delta in deltas]
        decoded = Decoded(tokens_per_chunk=tokens, text="".join(texts), reason=reason)
        if decoded.text.startswith(THINK):
            decoded.thought = thought_of(marked(texts, decoded.text), tokens, [1] * len(tokens))
        return decoded

    def stats(self) -> dict[str, float]:
        """As of vLLM's last step: requests running and waiting, KV-cache use and prefix hits as shares, preemptions so far."""
        return self._latest.as_dict()

    async def counted(self) -> dict[str, Counted]:
        """As the contract says."""
        return {"": Counted(counts={name: float(count) for name, count in self._latest.counts.items()})}

    async def reset_cache(self) -> str:
        """As the contract says."""
        return "reset_prefix_cache()" if await self._runner.reset_prefix_cache() else ""

    async def close(self) -> None:
        await super().close()
        await asyncio.sleep(0)  # lets the cancelled output handler end on its own loop

    def _stop(self, runner: Any) -> None:
        """End vLLM's processes. Idempotent."""
        runner.shutdown(timeout=SHUTDOWN_S)
        runner.shutdown = lambda: None  # AsyncLLM.__del__ calls it again, at interpreter exit among modules half gone

    def _start_fix(self, error: str) -> str:
        if "kv cache" in error.lower() or "core initialization" in error:
            return (
                "see vLLM's own lines above; often --engine-option max_model_len=2048, or a larger or smaller kv_cache_space_gib, fixes it"
            )
        return "see vLLM's own lines above"


def engine_arguments(options: VllmOptions, *, on_cpu: bool, bfloat16: bool) -> dict[str, Any]:
    """vLLM's engine arguments: what the user chose, and our choices for a CPU. What is absent is vLLM's default."""
    arguments = {name: value for name, value in msgspec.structs.asdict(options).items() if value is not None}
    space_gib = arguments.pop("kv_cache_space_gib", None)
    if options.speculative_config is not None:
        arguments["speculative_config"] = _json_object("speculative_config", options.speculative_config)
    if on_cpu:
        arguments.setdefault("enforce_eager", True)
        if arguments["dtype"] == "auto":
            arguments["dtype"] = "bfloat16" if bfloat16 else "float32"
        if space_gib is None and "VLLM_CPU_KVCACHE_SPACE" not in os.environ and "gpu_memory_utilization" not in arguments:
            space_gib = CPU_KV_CACHE_GIB
    if space_gib is not None:
        arguments["kv_cache_memory_bytes"] = int(space_gib * GIB)
    return arguments


def _json_object(option: str, text: str) -> dict[str, Any]:
    """Raises BadOption."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise BadOption(f"engine option {option}={text!r} is not a JSON object: {error}", 'as {"method": "ngram", …}') from None


def _quantisation(config: Any) -> str:
    """Of vLLM's ModelConfig: what the checkpoint says, else the method that vLLM applies while it loads."""
    return quantisation_text(getattr(config.hf_config, "quantization_config", None)) or str(config.quantization or "")


def _sampling_params(request: Request) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = request.sampling
    given = {"top_p": sampling.top_p, "top_k": sampling.top_k, "seed": sampling.seed}
    return SamplingParams(
        temperature=sampling.temperature,
        max_tokens=request.max_tokens,
        ignore_eos=sampling.ignore_eos,
        output_kind=RequestOutputKind.DELTA,
        **{name: value for name, value in given.items() if value is not None},
    )
