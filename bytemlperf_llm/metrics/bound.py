"""Measured TTFT and TPOT beside the least time that the model's operators take on the hardware: the engine's part, or the hardware's limit.

    MFU   = FLOPs of the pass / measured time / peak FLOP/s of the devices
    MBU   = bytes of weights and KV cache that it reads or writes / measured time / their memory bandwidth
    bound = max(FLOPs / peak, bytes / bandwidth) = max(MFU, MBU) · measured time

(Williams, Waterman, Patterson, Roofline, CACM 52(4), 2009.) TTFT is held against the prefill of one mean prompt, without what a prefix
cache is reported to have had; TPOT against one decode pass over the mean cache length of as many streams as decode at once, by Little's
law: output tokens/s · TPOT.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from bytemlperf.models.shape import ModelShape, Work
from bytemlperf.units import NS_PER_MS, NS_PER_S

MOSTLY = 0.5
"""From this share of the measured time on, the hardware's bound is what limits."""

ABOVE = 1.05
"""No pass is that much faster than its bound: what is known of it is wrong."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`limits` of run.json: the model, and what it ran on. `dtype` as the engine has it, such as "Q4_1/Q8_0 weights, bfloat16 arithmetic";
    `device` for a reader; peaks are of all devices together. `why` these are not known."""

    shape: ModelShape
    dtype: str
    device: str = ""
    flops_per_s: float | None = None
    bytes_per_s: float | None = None
    why: str = ""


class PassBound(msgspec.Struct, frozen=True, kw_only=True):
    """A mean measured latency beside the bound of its pass: `batch` sequences, `new` tokens each over `cached` ones."""

    measured_ms: float
    bound_ms: float
    mfu: float
    mbu: float
    batch: float
    new: float
    cached: float

    @property
    def share(self) -> float:
        """Of the measured time: what the hardware needs at least."""
        return max(self.mfu, self.mbu)


class Bound(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`bound` of summary.json. Without its passes there is a `why`."""

    device: str
    dtype: str
    prefill: PassBound | None = None
    decode: PassBound | None = None
    why: str = ""

    @property
    def sentence(self) -> str:
        """For a reader, in one line."""
        if self.why:
            return f"not available: {self.why}"
        passes = (("prefill", "TTFT", self.prefill), ("decode", "TPOT", self.decode))
        return "; ".join(f"{name} {_told(latency, bound, self.device)}" for name, latency, bound in passes if bound is not None)


def _told(latency: str, bound: PassBound, device: str) -> str:
    of = f"{bound.mfu:.0%} of peak FLOP/s (MFU)" if bound.mfu >= bound.mbu else f"{bound.mbu:.0%} of memory bandwidth (MBU)"
    if bound.share > ABOVE:
        return f"{of}, more than {device} can do: a cache answered, or the card, model or dtype is another"
    return f"{of}, " + ("hardware limit" if bound.share >= MOSTLY else f"engine overhead {1 - bound.share:.0%} of {latency}")


def bits_of(dtype: str) -> int | None:
    """Of one value: the first number in a type's name ("bfloat16", "Q4_1", "awq 4-bit"). Scales of quantised weights are not counted."""
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) if bits else None


def arithmetic_of(dtype: str) -> str:
    """The type that an engine multiplies in: "bfloat16" of "Q4_1 weights, bfloat16 arithmetic"."""
    return dtype.rpartition(" weights, ")[2].removesuffix(" arithmetic")


def bound_of(run: Mapping[str, Any], summary: Mapping[str, Any]) -> Bound | None:
    """From run.json and the run's summary; None where the model isn't known, or nothing was generated. Raises msgspec.ValidationError."""
    if "limits" not in run or "ttft" not in summary["metrics"]:
        return None
    limits = msgspec.convert(run["limits"], Limits)
    why = limits.why or _lacking(limits, summary["tokens"])
    if why:
        return Bound(device=limits.device, dtype=limits.dtype, why=why)
    answers, tokens, metrics = summary["outcomes"]["ok"], summary["tokens"], summary["metrics"]
    prompt, output = (tokens[name] / answers for name in ("prompt_tokens", "output_tokens"))
    had = (tokens.get("cached_tokens") or 0) / answers
    prefill = _pass(limits, metrics["service_ttft"]["mean"], 1.0, max(1.0, prompt - had), had)
    decode = None
    if "tpot" in metrics:
        tpot_ns = metrics["tpot"]["mean"]
        streams = max(1.0, summary["rates"]["output_token_throughput"]["value"] * tpot_ns / NS_PER_S)
        decode = _pass(limits, tpot_ns, streams, 1.0, prompt + output / 2)
    return Bound(device=limits.device, dtype=limits.dtype, prefill=prefill, decode=decode)


def _lacking(limits: Limits, tokens: Mapping[str, Any]) -> str:
    if tokens["prompt_tokens"] is None:
        return "the server doesn't count prompt tokens; give --tokenizer"
    if limits.flops_per_s is None or bits_of(limits.dtype) is None:
        return f"{limits.device} has no known peak of {arithmetic_of(limits.dtype)}"
    return "" if limits.bytes_per_s else f"the memory bandwidth of {limits.device} is not known"


def _pass(limits: Limits, measured_ns: float, batch: float, new: float, cached: float) -> PassBound:
    work, seconds = limits.shape.work(batch, new, cached), measured_ns / NS_PER_S
    mfu, mbu = work.flops / seconds / (limits.flops_per_s or 0), _bytes(work, limits.dtype) / seconds / (limits.bytes_per_s or 0)
    measured_ms = measured_ns / NS_PER_MS
    return PassBound(measured_ms=measured_ms, bound_ms=max(mfu, mbu) * measured_ms, mfu=mfu, mbu=mbu, batch=batch, new=new, cached=cached)


def _bytes(work: Work, dtype: str) -> float:
    weight_bits, cache_bits = bits_of(dtype) or 0, bits_of(arithmetic_of(dtype)) or 0
    return (work.weight_values * weight_bits + work.cache_values * cache_bits) / 8
