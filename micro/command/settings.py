"""From flags to settings: everything is checked before anything is measured."""

from __future__ import annotations

import re

from bytemlperf.child.limits import available_memory_bytes
from bytemlperf.command.flags import parse_bytes
from bytemlperf.errors import UserError
from bytemlperf.extras import require
from bytemlperf.lazy import torch
from micro.command.flags import Flags
from micro.measure.timing import Rules
from micro.peaks.machine import GPU_CACHE_BYTES, MEMORY_SHARE, default_threads, last_level_cache_bytes
from micro.sweep.sweep import ASKED, Settings

SAMPLING_SHARE = 0.25
"""Of --time-limit, at most: the rest is for set-up, the check and warm-up."""

MEASURE_S = 2.0


def settings_of(flags: Flags) -> Settings:
    """Raises UserError for a device that isn't there, or a size that is none."""
    device = device_of(flags.device)
    threads, threads_from = (flags.threads, ASKED) if flags.threads is not None else default_threads()
    cache = 0 if flags.hot else (last_level_cache_bytes(threads) if device == "cpu" else GPU_CACHE_BYTES)
    budget_s = min(MEASURE_S if flags.seconds is None else flags.seconds, flags.time_limit_s * SAMPLING_SHARE)
    return Settings(
        device=device,
        threads=threads,
        threads_from=threads_from,
        seed=flags.seed,
        rules=Rules(budget_s=budget_s, warm_up_s=max(min(0.2, budget_s), budget_s / 2), precision=flags.ci_width),
        cache_bytes=cache,
        budget_s=flags.budget_s,
        max_case_s=flags.time_limit_s,
        max_memory_bytes=memory_limit(flags.memory_limit, device),
    )


def device_of(text: str) -> str:
    """ "cuda" is cuda:0. Raises UserError for a device that isn't there, or where torch isn't."""
    require("measuring operators", "micro", "torch", "numpy")
    device = "cuda:0" if text == "cuda" else text
    if device == "cpu":
        return device
    if not re.fullmatch(r"cuda:\d+", device):
        raise UserError(f"there is no device '{text}'", "give cpu, cuda or cuda:N")
    count = torch.cuda.device_count()
    if int(device.partition(":")[2]) >= count:
        raise UserError(f"there is no device {device}: torch sees {count} GPUs", "give --device cpu")
    return device


def memory_limit(text: str | None, device: str) -> int | None:
    """What was asked for, else a share of what is free now; None where that can't be told."""
    if text is not None:
        return parse_bytes("--memory-limit", text)
    available = available_memory_bytes() if device == "cpu" else torch.cuda.mem_get_info(device)[0]
    return None if available is None else int(available * MEMORY_SHARE)
