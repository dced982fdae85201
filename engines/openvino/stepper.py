"""OpenVINO GenAI's continuous batching pipeline, a step at a time."""

from __future__ import annotations

from typing import Any

from engines.contract import EngineError, Finish, Request, Sampling, Usage
from engines.steps import Job, Made

PERCENT = 100.0
NO_ROOM = "the KV cache is too small for this request: give --engine-option kv_cache_space_gib=2 or more"


class PipelineStepper:
    """A job's handle is the pipeline's own."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self.step = pipeline.step

    def add(self, job: Job) -> None:
        """Raises whatever the pipeline does."""
        job.handle = self._pipeline.add_request(job.number, job.prompt, generation_config(job.request))

    def drop(self, job: Job) -> None:
        """Ends it where it runs."""
        if job.handle.get_status().name == "RUNNING":
            job.handle.cancel()

    def read(self, job: Job) -> Made | None:
        """The tokens of the last step."""
        running = job.handle.get_status().name == "RUNNING"
        token_ids: list[int] = []
        reason = ""
        while job.handle.can_read():
            for output in job.handle.read().values():
                token_ids.extend(output.generated_ids)
                reason = output.finish_reason.name.lower()
        if running:
            return (token_ids, None) if token_ids else None
        return token_ids, self._end_of(job, job.output_tokens + len(token_ids), reason)

    def _end_of(self, job: Job, output_tokens: int, reason: str) -> Finish | EngineError:
        if job.handle.get_status().name == "IGNORED":
            return EngineError("engine_failed", NO_ROOM)
        return Finish(reason=reason or None, usage=Usage(prompt_tokens=job.prompt_tokens, output_tokens=output_tokens))

    def stats(self, active: int) -> dict[str, float]:
        """Requests running and waiting, KV-cache use as a share, its peak so far."""
        metrics = self._pipeline.get_metrics()
        running = min(metrics.scheduled_requests, active)
        return {
            "running": float(running),
            "waiting": float(active - running),
            "kv_cache_usage": metrics.cache_usage / PERCENT,
            "kv_cache_usage_max": metrics.max_cache_usage / PERCENT,
        }


def generation_config(request: Request) -> Any:
    """OpenVINO's own, of a request."""
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
