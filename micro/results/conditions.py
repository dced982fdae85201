"""The machine's condition during a sweep, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BUSY_CPUS = 0.1
BUSY_PEAK_CPUS = 0.5
FRESH = "measure them again on a quiet machine with --peaks fresh"


def conditions(run: Mapping[str, Any], ok: list[dict[str, Any]]) -> list[str]:
    """Under what conditions the rows were measured, in sentences."""
    sentences = []
    settings = run["config"]["settings"]
    if settings.get("device") == "cpu":
        threads = settings.get("threads")
        sentences.append(f"threads: {threads or 'the library decides'} ({settings.get('threads_from') or 'as asked'})")
    allocations = {hello["allocation"] for hello in ((run.get("end") or {}).get("runners") or {}).values() if hello.get("allocation")}
    sentences += [f"memory of results: {each}" for each in sorted(allocations)]
    peaks = run.get("peaks")
    if peaks:
        sentences.append("measured peaks: " + (peaks_sentence(peaks) or "none"))
        busy = [peak for peak in _peaks_of(peaks) if (peak.get("others_cpus") or 0.0) > BUSY_PEAK_CPUS]
        if busy:
            sentences.append(
                f"{len(busy)} of {len(_peaks_of(peaks))} peaks were measured while other processes were busy, and may be low: {FRESH}"
            )
        sentences += [f"no measured peak of {what}: {reason}" for what, reason in (peaks.get("missing") or {}).items()]
    if run.get("sheet"):
        sentences.append(f"data sheet: {run['sheet'].get('source')}")
    timed = [row["timed"] for row in ok]
    if timed:
        sampling = sum(each.get("sampling_s", 0.0) for each in timed)
        warm_up = sum(each.get("warm_up_s", 0.0) for each in timed)
        total = sum(row.get("duration_s") or 0.0 for row in ok)
        sentences.append(f"{sampling:.1f} s of sampling and {warm_up:.1f} s of warm-up in {total:.1f} s of measured cases")
    busy = [row for row in ok if ((row.get("conditions") or {}).get("others_cpus") or 0.0) > BUSY_CPUS]
    if busy:
        most = max(row["conditions"]["others_cpus"] for row in busy)
        sentences.append(f"other processes were busy in {len(busy)} of {len(ok)} measured cases, with up to {most:.1f} CPUs")
    return sentences


def peaks_sentence(peaks: Mapping[str, Any]) -> str:
    """ "float32 0.35 TFLOP/s, stream_triad 12 GB/s, link 4.6 GB/s, of 2026-11-24"."""
    parts = [f"{dtype} {peak['per_s'] / 1e12:.3g} TFLOP/s" for dtype, peak in sorted((peaks.get("flops") or {}).items())]
    parts += [f"{name} {peak['per_s'] / 1e9:.3g} GB/s" for name, peak in (peaks.get("memory") or {}).items()]
    if peaks.get("link"):
        parts.append(f"link {peaks['link']['per_s'] / 1e9:.3g} GB/s")
    days = sorted({str(peak["measured_at"])[:16].replace("T", " ") for peak in _peaks_of(peaks)})
    return ", ".join(parts) + (f"; of {days[0]}" + (f" to {days[-1]}" if len(days) > 1 else "") if days else "")


def _peaks_of(peaks: Mapping[str, Any]) -> list[dict[str, Any]]:
    link = peaks.get("link")
    return [*(peaks.get("flops") or {}).values(), *(peaks.get("memory") or {}).values(), *([link] if link else [])]
