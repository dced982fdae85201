"""What one call of a step costs: measured here, interpolated from a sweep, or modelled by a spec card's roofline.

All three answer the same question, a `Price` for each `Call`, and none answers with a guess: what can't be told is a
sentence in the price's place, which ends the prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from bytemlperf.errors import UserError
from micro.cases.case import Arguments, BadCase, case_text, validate
from micro.predict.forward import Step
from micro.registry import OPERATORS


class Call(NamedTuple):
    """An operator with validated arguments. `hot`: with its inputs in the caches."""

    op: str
    args: Arguments
    hot: bool

    @property
    def text(self) -> str:
        """Equal for equal calls."""
        return f"{case_text(self.op, self.args)}, {'hot' if self.hot else 'cold'}"


class Price(NamedTuple):
    """Microseconds of one call. `source` says where from, `remark` what to know about it; `bounds_us` are
    those of the median's 95 % interval, None where there is none."""

    call_us: float
    source: str
    provider: str = ""
    remark: str = ""
    bounds_us: tuple[float, float] | None = None


Pricing = Callable[[Sequence[Call]], Sequence[Price | str]]
"""For each call its price, or why there is none."""


def call_of(step: Step, *, all_hot: bool) -> Call:
    """Raises UserError where no such operator is there, or its arguments are impossible: a part of the model is missing."""
    if step.op not in OPERATORS:
        raise UserError(
            f"the {step.part} needs the operator '{step.op}', which bmp micro does not have", "a prediction without it would be wrong"
        )
    try:
        args = validate(OPERATORS[step.op], step.args)
    except BadCase as bad:
        raise UserError(f"the {step.part} can't be measured: {bad}", "a prediction without it would be wrong") from None
    return Call(step.op, args, all_hot or not step.streams)


def prices(steps: Iterable[Step], pricing: Pricing, *, all_hot: bool) -> dict[str, Price]:
    """One price for each distinct call. Raises UserError with every operator that has none."""
    calls = {call.text: call for call in (call_of(step, all_hot=all_hot) for step in steps)}
    priced = dict(zip(calls, pricing(list(calls.values())), strict=True))
    missing = [f"{text}: {reason}" for text, reason in priced.items() if isinstance(reason, str)]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(f"no time for {missing[0]}{more}", "a prediction without it would be wrong; nothing is counted as 0 µs")
    return {text: price for text, price in priced.items() if isinstance(price, Price)}
