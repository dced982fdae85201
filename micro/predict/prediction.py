"""From prices to TTFT, TPOT and throughput.

A batch of B prompts of S tokens comes at once, is prefilled in one pass, and then makes a token a pass, N in all:

    pass time    = Σ calls · time of one call, over the operators of the pass
    TTFT         = time of the prefill pass
    TPOT         = time of the decode pass over the middle cache length, S + (N − 2)/2 tokens
    E2E          = TTFT + (N − 1) · TPOT
    throughput   = B · N / E2E

Attention over a cache costs a constant and a part that grows with its length, so the middle pass costs what
the passes cost on average. Nothing is added for the engine itself: scheduler, tokenizer, Python between
operators. What a real engine takes longer is the engine's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from bytemlperf.models.shape import ModelShape
from micro.predict.costs import Price, Pricing, call_of, prices
from micro.predict.forward import Pass, Step, forward


class Load(NamedTuple):
    """What is asked of the model."""

    batch: int
    input_len: int
    output_len: int
    tp: int = 1

    @property
    def prefill(self) -> Pass:
        return Pass("prefill", self.batch, self.input_len, 0)

    @property
    def decode(self) -> Pass | None:
        """The pass over the middle cache length; None where the first token is the last."""
        return Pass("decode", self.batch, 1, self.input_len + (self.output_len - 2) // 2) if self.output_len > 1 else None


class Part(NamedTuple):
    """One operator's part of a pass."""

    step: Step
    price: Price

    @property
    def total_us(self) -> float:
        return self.step.calls * self.price.call_us


class Prediction(NamedTuple):
    """Parts of both passes. Times in milliseconds; TPOT is None where one token was asked for."""

    shape: ModelShape
    load: Load
    dtype: str
    prefill: list[Part]
    decode: list[Part]

    @property
    def ttft_ms(self) -> float:
        return sum(part.total_us for part in self.prefill) / 1000

    @property
    def tpot_ms(self) -> float | None:
        return sum(part.total_us for part in self.decode) / 1000 if self.decode else None

    @property
    def ttft_bounds_ms(self) -> tuple[float, float] | None:
        """How far measuring the operators again may move TTFT: all their 95 % intervals to the same side."""
        return _bounds_ms(self.prefill)

    @property
    def tpot_bounds_ms(self) -> tuple[float, float] | None:
        """The same of TPOT."""
        return _bounds_ms(self.decode)

    @property
    def e2e_ms(self) -> float:
        return self.ttft_ms + (self.load.output_len - 1) * (self.tpot_ms or 0.0)

    @property
    def output_tokens_per_s(self) -> float:
        return self.load.batch * self.load.output_len / self.e2e_ms * 1000


def _bounds_ms(parts: list[Part]) -> tuple[float, float] | None:
    bounds = [(part.step.calls, part.price.bounds_us) for part in parts if part.price.bounds_us is not None]
    if not parts or len(bounds) < len(parts):
        return None
    low, high = (sum(calls * both[side] for calls, both in bounds) / 1000 for side in (0, 1))
    return low, high


def steps_of(shape: ModelShape, load: Load, dtype: str) -> list[Step]:
    """The operators of both passes. Raises UserError."""
    return [step for phase in (load.prefill, load.decode) if phase for step in forward(shape, phase, dtype, load.tp)]


def predict(shape: ModelShape, load: Load, dtype: str, pricing: Pricing, *, all_hot: bool) -> Prediction:
    """Raises UserError where an operator has no time."""
    prefill = forward(shape, load.prefill, dtype, load.tp)
    decode = forward(shape, load.decode, dtype, load.tp) if load.decode else []
    priced = prices([*prefill, *decode], pricing, all_hot=all_hot)

    def parts(steps: list[Step]) -> list[Part]:
        return [Part(step, priced[call_of(step, all_hot=all_hot).text]) for step in steps]

    return Prediction(shape, load, dtype, parts(prefill), parts(decode))


FIGURES = ("ttft_ms", "ttft_bounds_ms", "tpot_ms", "tpot_bounds_ms", "e2e_ms", "output_tokens_per_s")


def as_json(prediction: Prediction) -> dict[str, Any]:
    """For programs; microseconds and milliseconds as the names say."""
    return {
        "model": prediction.shape.name,
        "dtype": prediction.dtype,
        **prediction.load._asdict(),
        **{name: getattr(prediction, name) for name in FIGURES},
        "prefill": [_part(part, prediction.ttft_ms) for part in prediction.prefill],
        "decode": [_part(part, prediction.tpot_ms or 0.0) for part in prediction.decode],
    }


def _part(part: Part, pass_ms: float) -> dict[str, Any]:
    return {
        **{name: getattr(part.step, name) for name in ("part", "op", "args", "calls")},
        "call_us": part.price.call_us,
        "total_us": part.total_us,
        "share": part.total_us / 1000 / pass_ms,
        **{name: getattr(part.price, name) for name in ("source", "provider", "remark")},
    }
