"""The roofline: what a case could reach, and the share of it that it reached.

A roof is a machine's peaks: FLOP/s by number format, bytes/s of memory, bytes/s of a link. With the
analytic FLOPs F and bytes B of a call that took t at the median (Williams, Waterman and Patterson,
Roofline, CACM 52(4), 2009):

    MFU  = F / t / peak FLOP/s of the format the FLOPs are counted in
    MBU  = B / t / peak bytes/s of memory           only where the buffers come from memory ("cold"); measured
                                                    peaks are those of the case's own share of writes
    CBU  = bus bandwidth / peak bytes/s of a link
    roof = max(F / peak FLOP/s, B / peak bytes/s) / t = max(MFU, MBU)

`roof` is the share of what this arithmetic intensity allows; which of the two is larger says what binds.
Each is given against two roofs, the peaks measured here and those of the data sheet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from bytemlperf.hardware.peaks import MEASURED, MEMORY, Roof
from micro.sweep.row import Row

ABOVE_PEAK = 1.05
"""Shares beyond this are worth a remark: a result that stays in a cache, or a peak that is low."""

LEAST_ERROR = 0.1
"""Of a measured peak, at least: another kernel may be a little better than those that measure it."""


def shares(roof: Roof, row: Row) -> dict[str, float]:
    """`mfu`, `mbu`, `cbu` and `roof` of a row against one roof; only what can be told."""
    if row.latency_us is None:
        return {}
    seconds = row.latency_us.p50 / 1e6
    if row.bus_bw_gbs is not None:
        return {"cbu": row.bus_bw_gbs * 1e9 / roof.link_bytes_per_s} if roof.link_bytes_per_s else {}
    of_peak: dict[str, float] = {}
    peak = roof.flops_per_s.get(row.flops_dtype)
    if peak and row.flops:
        of_peak["mfu"] = row.flops / seconds / peak
    memory = roof.memory_bytes_per_s((row.write_bytes or 0) / row.bytes) if row.bytes else None
    if memory and row.bytes and row.from_memory:
        of_peak["mbu"] = row.bytes / seconds / memory
    if "mbu" in of_peak and ("mfu" in of_peak or not row.flops):
        of_peak["roof"] = max(of_peak["mbu"], of_peak.get("mfu", 0.0))
    elif "mfu" in of_peak and row.intensity is not None and row.intensity >= (roof.ridge(row.flops_dtype) or math.inf):
        of_peak["roof"] = of_peak["mfu"]  # warm buffers have no MBU; far right of the ridge memory can't bind even if they were cold
    return of_peak


def too_fast(roof: Roof, row: Row) -> str:
    """Why a row can't be true: it computes faster than the peak of its format (or of float32, which any narrower one can be
    turned into), or reads cold buffers faster than memory gives them; beyond the errors of the peak and of its median. ""
    where it can. Writes are left out here: a result may stay in a cache."""
    if row.latency_us is None or row.bus_bw_gbs is not None:
        return ""
    seconds, dtype = (row.latency_us.ci95_high or row.latency_us.p50) / 1e6, row.flops_dtype
    peaks = [roof.flops_per_s[name] for name in (dtype, "float32") if name in roof.flops_per_s and dtype != "float64"]
    claims = []
    if dtype in roof.flops_per_s and row.flops:
        claims.append((row.flops / seconds / max([roof.flops_per_s[dtype], *peaks]), f"{dtype} arithmetic", dtype))
    if roof.by_writes and row.from_memory and row.read_bytes:
        claims.append((row.read_bytes / seconds / max(speed for _, speed in roof.by_writes), "reading of memory", MEMORY))
    for share, what, name in claims:
        error = max(LEAST_ERROR, roof.errors.get(name, 0.0))
        if share > 1 + error:
            return f"{share:,.0%} of this machine's peak of {what}, which may be {error:.0%} too low but not more: no such work was done"
    return ""


def above_peak(row: Row) -> tuple[float, str] | None:
    """The largest share of a measured peak and which it is (MFU, MBU, CBU), where that is beyond `ABOVE_PEAK`."""
    held = row.efficiency or {}
    measured = [(held[name], name) for name in (f"{share}_{MEASURED}" for share in ("mfu", "mbu", "cbu")) if name in held]
    share, name = max(measured, default=(0.0, ""))
    return (share, name.partition("_")[0].upper()) if share > ABOVE_PEAK else None


def efficiency(roofs: Mapping[str, Roof], row: Row) -> dict[str, float] | None:
    """Against every roof: {"mfu_measured": 0.8, "mfu_sheet": 0.6, …}; None where there is nothing to say."""
    return {f"{share}_{name}": value for name, roof in roofs.items() for share, value in shares(roof, row).items()} or None


def bound(row: Row, name: str = MEASURED) -> str:
    """ "compute", "memory" or "link": what binds a row by a roof; "" where that's not known."""
    held = row.efficiency or {}
    if f"cbu_{name}" in held:
        return "link"
    if f"roof_{name}" not in held:
        return ""
    return "compute" if held.get(f"mfu_{name}", 0.0) >= held.get(f"mbu_{name}", 0.0) else "memory"
