"""ONNX Runtime GenAI inside this process: running requests take turns, a token each, on a thread of ours.

Loads the checkpoint as its own model builder writes it, once, in `dtype`. Its generators serve a batch that is fixed at the
start, so requests that come at any time have one each.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from engines import inprocess
from engines.contract import Availability, EngineInfo, Finish, Model, Usage, parse_options
from engines.processor import cores_but_one
from engines.steps import Job, Made, StepLoop, SteppedEngine


class OrtGenaiOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`--engine-option` keys. `dtype` is what the builder writes the weights in."""

    dtype: Literal["float32", "int4"] = "float32"
    max_model_len: inprocess.Count | None = None
    max_num_seqs: inprocess.Count = 16
    threads: inprocess.Count | None = None


class OrtGenaiEngine(SteppedEngine):
    """The engine `onnxruntime-genai`."""

    name, title, options_type = "onnxruntime-genai", "ONNX Runtime GenAI", OrtGenaiOptions

    @staticmethod
    def requirements() -> Availability:
        packages: dict[str, tuple[str, ...]] = {"onnxruntime_genai": ("onnxruntime-genai",), "onnxruntime": ("onnxruntime",)}
        return inprocess.availability(packages, "onnxruntime-genai")

    @staticmethod
    def conversion(options: Mapping[str, str]) -> str:
        """As the contract says."""
        return f"ort-genai:{parse_options(options, OrtGenaiOptions).dtype}"

    def _build(self, model: Model, options: OrtGenaiOptions) -> StepLoop:
        self._tokenizer = inprocess.load_tokenizer(model.path or "")
        self._max_model_len = options.max_model_len or model.max_model_len
        return StepLoop(TurnsStepper(model.converted or "", options), self._event_loop, self.title)

    async def _describe(self, model: Model, options: OrtGenaiOptions) -> EngineInfo:
        return EngineInfo(
            name=self.name,
            device="cpu",
            dtype="int4 weights, float32 arithmetic" if options.dtype == "int4" else options.dtype,
            tokenizer=model.path,
            reports=["usage", "stats"],
            notes=["no batching: running requests take turns, a token each", "prefix caching is off"],
        )

    def _stop(self, runner: StepLoop) -> None:
        runner.stop()
        assert isinstance(runner.stepper, TurnsStepper)
        runner.stepper.close()


class TurnsStepper:
    """A job's handle is its generator, once it runs."""

    def __init__(self, folder: str, options: OrtGenaiOptions) -> None:
        import onnxruntime_genai as genai

        self._genai, self._most = genai, options.max_num_seqs
        config = genai.Config(folder)
        threads = options.threads or cores_but_one()
        config.overlay(msgspec.json.encode({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}).decode())
        self._model: Any = genai.Model(config)
        self._jobs: list[Job] = []
        self._made: dict[int, int] = {}

    def add(self, job: Job) -> None:
        """In the order in which they came."""
        self._jobs.append(job)

    def drop(self, job: Job) -> None:
        """Its generator is freed with it."""
        self._jobs.remove(job)
        self._made.pop(job.number, None)
        job.handle = None

    def step(self) -> None:
        """A token of each that runs; a new one's prompt first."""
        for job in self._jobs[: self._most]:
            if job.handle is None:
                job.handle = self._generator(job)
                job.handle.append_tokens(job.prompt)
            job.handle.generate_next_token()
            self._made[job.number] = int(job.handle.get_next_tokens()[0])

    def _generator(self, job: Job) -> Any:
        params, sampling = self._genai.GeneratorParams(self._model), job.request.sampling
        whole = job.prompt_tokens + job.request.max_tokens
        drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k, "random_seed": sampling.seed}
        given = {name: value for name, value in drawn.items() if value is not None} if sampling.temperature > 0 else {}
        least = whole if sampling.ignore_eos else 0
        params.set_search_options(max_length=whole, min_length=least, do_sample=sampling.temperature > 0, **given)
        return self._genai.Generator(self._model, params)

    def read(self, job: Job) -> Made | None:
        """The token of the last step. Its end-of-sequence token is one, too, as other engines count it."""
        token = self._made.pop(job.number, None)
        if token is None:
            return None
        count = job.output_tokens + 1
        if count < job.request.max_tokens and not job.handle.is_done():
            return [token], None
        reason = "length" if count >= job.request.max_tokens else "stop"
        return [token], Finish(reason=reason, usage=Usage(prompt_tokens=job.prompt_tokens, output_tokens=count))

    def stats(self, active: int) -> dict[str, float]:
        """Requests running and waiting."""
        running = min(active, self._most)
        return {"running": float(running), "waiting": float(active - running)}

    def close(self) -> None:
        """Generators before their model."""
        for job in self._jobs:
            job.handle = None
        self._model = None
        gc.collect()
