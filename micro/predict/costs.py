"""What one call of a step costs: measured here, interpolated from a sweep, or modelled by a spec card's roofline.

All three answer the same question, `Price` by `Ask`, and none answers with a guess: what can't be told is
in the list of reasons, which ends the prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from bytemlperf.errors import UserError
from micro.cases.case import BadCase, Case, case_text, validate
from micro.predict.forward import Step
from micro.registry import OPERATORS


class Ask(NamedTuple):
    """An operator with validated arguments. `hot`: with its inputs in the caches."""

    op: str
    args: dict[str, Any]
    hot: bool

    @property
    def text(self) -> str:
        """Equal for equal asks."""
        return f"{case_text(self.op, self.args)}, {'hot' if self.hot else 'cold'}"


class Price(NamedTuple):
    """Microseconds of one call. `source` says where from, `remark` what to know about it; `bounds_us` are
    those of the median's 95 % interval, None where there is none."""

    call_us: float
    source: str
    provider: str = ""
    remark: str = ""
    bounds_us: tuple[float, float] | None = None


Answers = tuple[dict[str, Price], dict[str, str]]
"""Prices and reasons by an ask's text: every ask is in one of the two."""
Pricing = Callable[[Sequence[Ask]], Answers]


def ask_of(step: Step, *, all_hot: bool) -> Ask:
    """Raises UserError where no such operator is there, or its arguments are impossible: a part of the model is missing."""
    if step.op not in OPERATORS:
        raise UserError(
            f"the {step.part} needs the operator '{step.op}', which bmp micro does not have", "a prediction without it would be wrong"
        )
    try:
        args = validate(OPERATORS[step.op], step.args)
    except BadCase as bad:
        raise UserError(f"the {step.part} can't be measured: {bad}", "a prediction without it would be wrong") from None
    return Ask(step.op, args, all_hot or not step.streams)


def prices(steps: Iterable[Step], pricing: Pricing, *, all_hot: bool) -> dict[str, Price]:
    """One price for each distinct ask. Raises UserError with every operator that has none."""
    asks = {ask.text: ask for ask in (ask_of(step, all_hot=all_hot) for step in steps)}
    found, reasons = pricing(list(asks.values()))
    missing = [f"{text}: {reasons.get(text, 'no response')}" for text in asks if text not in found]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(f"no time for {missing[0]}{more}", "a prediction without it would be wrong; nothing is counted as 0 µs")
    return found


def case_of(ask: Ask, provider: str) -> Case:
    """The sweep's case of an ask."""
    return Case(op=ask.op, provider=provider, args=ask.args)
