"""The machine's condition during a sweep, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from micro.peaks.record import Peaks
from micro.sweep.row import Row

BUSY_CPUS = 0.1
BUSY_PEAK_CPUS = 0.5
FRESH = "measure them again on a quiet machine with --peaks fresh"


def conditions(run: Mapping[str, Any], ok: Sequence[Row]) -> list[str]:
    """Under what conditions the rows were measured, in sentences."""
    sentences = []
    settings = run["config"]["settings"]
    if settings.get("device") == "cpu":
        threads = settings.get("threads")
        sentences.append(f"threads: {threads or 'the library decides'} ({settings.get('threads_from') or 'as asked'})")
    allocations = {hello["allocation"] for hello in ((run.get("end") or {}).get("runners") or {}).values() if hello.get("allocation")}
    sentences += [f"memory of results: {each}" for each in sorted(allocations)]
    if run.get("peaks"):
        peaks = msgspec.convert(run["peaks"], Peaks)
        sentences.append("measured peaks: " + (peaks_sentence(peaks) or "none"))
        busy = [peak for peak in peaks.every if (peak.others_cpus or 0.0) > BUSY_PEAK_CPUS]
        if busy:
            sentences.append(
                f"{len(busy)} of {len(peaks.every)} peaks were measured while other processes were busy, and may be low: {FRESH}"
            )
        sentences += [f"no measured peak of {what}: {reason}" for what, reason in peaks.missing.items()]
    if run.get("sheet"):
        sentences.append(f"data sheet: {run['sheet'].get('source')}")
    timed = [row.timed for row in ok if row.timed is not None]
    if timed:
        sampling_s, warm_up_s = sum(part.sampling_s for part in timed), sum(part.warm_up_s for part in timed)
        total_s = sum(row.duration_s or 0.0 for row in ok)
        sentences.append(f"{sampling_s:.1f} s of sampling and {warm_up_s:.1f} s of warm-up in {total_s:.1f} s of measured cases")
    others_cpus = [used for row in ok if row.conditions and (used := row.conditions.others_cpus or 0.0) > BUSY_CPUS]
    if others_cpus:
        sentences.append(
            f"other processes were busy in {len(others_cpus)} of {len(ok)} measured cases, with up to {max(others_cpus):.1f} CPUs"
        )
    return sentences


def peaks_sentence(peaks: Peaks) -> str:
    """ "float32 0.35 TFLOP/s, stream_triad 12 GB/s, link 4.6 GB/s; of 2026-11-24 12:00"."""
    parts = [f"{dtype} {peak.per_s / 1e12:.3g} TFLOP/s" for dtype, peak in sorted(peaks.flops.items())]
    parts += [f"{name} {peak.per_s / 1e9:.3g} GB/s" for name, peak in peaks.memory.items()]
    if peaks.link:
        parts.append(f"link {peaks.link.per_s / 1e9:.3g} GB/s")
    days = sorted({peak.measured_at[:16].replace("T", " ") for peak in peaks.every})
    return ", ".join(parts) + (f"; of {days[0]}" + (f" to {days[-1]}" if len(days) > 1 else "") if days else "")
