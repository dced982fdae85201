"""TTFT and TPOT beside what the hardware needs at least: a sentence and a table."""

from __future__ import annotations

from typing import Any

import msgspec

from bytemlperf.report.text import number
from bytemlperf.runs.kinds import Section, Table, Text
from bytemlperf_llm.metrics.bound import Bound, PassBound

GROUP = "Engine or hardware"


def bound_sections(summary: dict[str, Any]) -> list[Section]:
    """The sentence first; nothing where the model isn't known."""
    if "bound" not in summary:
        return []
    bound = msgspec.convert(summary["bound"], Bound)
    sentence = Text(body=bound.sentence, detail=bool(bound.why), group=GROUP)
    passes = (("TTFT, prefill", bound.prefill), ("TPOT, decode", bound.decode))
    rows = [_row(name, of) for name, of in passes if of is not None]
    columns = ["", "measured, ms", "bound, ms", "MFU", "MBU", "streams", "tokens each", "in the cache"]
    note = (
        f"Bound: the operators' least time on {bound.device} in {bound.dtype}: FLOPs over peak FLOP/s (MFU) or bytes of weights and KV "
        "cache over memory bandwidth (MBU). TTFT holds the wait in the engine's queue too. Engine overhead: what the engine and its "
        "kernels take beyond it. Means."
    )
    return [sentence, *([Table(title="", columns=columns, rows=rows, note=note, group=GROUP)] if rows else [])]


def _row(name: str, of: PassBound) -> list[str]:
    figures = (of.measured_ms, of.bound_ms)
    return [name, *map(number, figures), f"{of.mfu:.1%}", f"{of.mbu:.1%}", *map(number, (of.batch, of.new, of.cached))]
