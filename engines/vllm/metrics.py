"""What vLLM says of itself, in this project's words: request stages and engine statistics.

vLLM keeps its stat loggers' interface open to change: only fields that have been there since V1
are read, here and nowhere else.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from engines.contract import Stages


def stages_of(metrics: Any) -> Stages | None:
    """Stages from vLLM's RequestStateStats: CLOCK_MONOTONIC seconds, 0.0 where a stage was never reached."""
    if metrics is None:
        return None
    names = ("queued", "scheduled", "first_token", "last_token")
    seconds = {name: getattr(metrics, f"{name}_ts", 0.0) for name in names}
    return Stages(**{f"{name}_ns": round(value * 1e9) if value else None for name, value in seconds.items()})


class LatestStats:
    """What vLLM's scheduler last said of itself, and sums since the start."""

    def __init__(self) -> None:
        self.running = self.waiting = 0
        self.kv_cache_usage = 0.0
        self.counts: Counter[str] = Counter(prefix_queries=0, prefix_hits=0, preemptions=0)

    def record(self, scheduler: Any, iteration: Any) -> None:
        """Take vLLM's SchedulerStats and IterationStats, either of which may be None."""
        if scheduler is not None:
            self.running, self.waiting = scheduler.num_running_reqs, scheduler.num_waiting_reqs
            self.kv_cache_usage = scheduler.kv_cache_usage
            self.counts["prefix_queries"] += scheduler.prefix_cache_stats.queries
            self.counts["prefix_hits"] += scheduler.prefix_cache_stats.hits
            if (drafted := getattr(scheduler, "spec_decoding_stats", None)) is not None:
                self.counts.update(
                    drafts=drafted.num_drafts, draft_tokens=drafted.num_draft_tokens, accepted_tokens=drafted.num_accepted_tokens
                )
                self.counts.update(
                    {f"accepted_tokens_at_{place}": count for place, count in enumerate(drafted.num_accepted_tokens_per_pos)}
                )
        if iteration is not None:
            self.counts["preemptions"] += iteration.num_preempted_reqs

    def as_dict(self) -> dict[str, float]:
        return {
            "running": float(self.running),
            "waiting": float(self.waiting),
            "kv_cache_usage": float(self.kv_cache_usage),
            "prefix_cache_hit_rate": self.counts["prefix_hits"] / self.counts["prefix_queries"] if self.counts["prefix_queries"] else 0.0,
            "preemptions": float(self.counts["preemptions"]),
        }


def stat_logger(latest: LatestStats) -> Any:
    """A stat logger class for `AsyncLLM(stat_loggers=...)` that writes into `latest`."""
    from vllm.v1.metrics.loggers import StatLoggerBase

    class Recording(StatLoggerBase):  # type: ignore[misc]
        def __init__(self, _vllm_config: Any, engine_index: int = 0) -> None:
            self.engine_index = engine_index

        def record(self, scheduler_stats: Any, iteration_stats: Any, *_rest: Any, **_more: Any) -> None:
            latest.record(scheduler_stats, iteration_stats)

        def log_engine_initialized(self) -> None:
            return None

    return Recording
