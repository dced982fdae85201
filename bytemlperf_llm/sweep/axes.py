"""Which points a sweep has: the cross product of its axes.

The order is that of the flags below, the last one fastest: engine options (one start of the engine each), input lengths, output
lengths, and within each such curve the loads, as given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from typing import TypeVar

import msgspec

from bytemlperf.command.flags import pairs
from bytemlperf.errors import UserError
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.plan import Plan, resolve
from bytemlperf_llm.plan.scenario import MAX_RATE, MAX_TOKENS
from bytemlperf_llm.sweep.flags import SweepFlags
from engines.credentials import SECRET_NAME

MOST_POINTS = 300
NumberT = TypeVar("NumberT", int, float)


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """Requests per second (with `sessions`: new sessions), or concurrent requests of a closed loop; of a skipped range that was to be
    found, neither."""

    rate_rps: float | None = None
    concurrency: int | None = None
    sessions: bool = False

    def __str__(self) -> str:
        return "auto" if self == AUTO_LEVEL else f"{f'{self.rate_rps:g}' if self.rate_rps else self.concurrency} {self.unit}"

    @property
    def unit(self) -> str:
        return "concurrent" if not self.rate_rps else "sessions/s" if self.sessions else "requests/s"

    @property
    def short(self) -> str:
        return f"{self.rate_rps:g}rps" if self.rate_rps else f"{self.concurrency}concurrent"

    def planned(self, flags: Flags) -> Plan:
        """The plan of a run under this load. Raises UserError."""
        if self.rate_rps is not None:
            return resolve(flags.changed(request_rate=f"{self.rate_rps:.12g}"))
        plan = resolve(flags.changed(max_concurrency=self.concurrency))
        arrival = {"process": "closed", "rate": None, "ramp": None, "burstiness": 1.0, "max_concurrency": self.concurrency}
        return plan.with_scenario({"arrival": arrival})


AUTO_LEVEL = Level()


class CurveAxes(msgspec.Struct, frozen=True, kw_only=True):
    """What all points of a curve have in common: `engine_options` in full, lengths where the command line gives some. `name` tells it
    from the sweep's other curves."""

    name: str
    engine_options: tuple[str, ...]
    input_len: int | None
    output_len: int | None

    def flags(self, flags: Flags) -> Flags:
        return flags.changed(engine_options=self.engine_options, input_len=self.input_len, output_len=self.output_len)


class Axes(msgspec.Struct, frozen=True, kw_only=True):
    """Without `loads` the range of rates is found."""

    loads: tuple[Level, ...]
    curves: tuple[CurveAxes, ...]


def axes_of(given: SweepFlags) -> Axes:
    """Raises UserError."""
    if given.rates is not None and given.concurrency is not None:
        raise UserError("--rates and --concurrency contradict each other: open or closed loop", "give one of them; run two sweeps")
    axes = Axes(loads=_loads(given), curves=tuple(_curves(given)))
    points = max(len(axes.loads), 1) * len(axes.curves)
    if points > MOST_POINTS:
        raise UserError(f"the sweep has {points:,} points, and {MOST_POINTS:,} are the limit", "give fewer values, or several sweeps")
    return axes


def _loads(given: SweepFlags) -> tuple[Level, ...]:
    if given.concurrency is not None:
        return tuple(Level(concurrency=number) for number in numbers("--concurrency", given.concurrency, length))
    if given.rates in (None, "auto"):
        return ()
    return tuple(Level(rate_rps=rate) for rate in numbers("--rates", str(given.rates), _rate))


def _curves(given: SweepFlags) -> Iterable[CurveAxes]:
    options = {key: _choices(key, value) for key, value in pairs("--engine-option", given.engine_options).items()}
    inputs = (None,) if given.input_lens is None else numbers("--input-len", given.input_lens, length)
    outputs = (None,) if given.output_lens is None else numbers("--output-len", given.output_lens, length)
    for values in product(*options.values()):
        chosen = tuple(f"{key}={value}" for key, value in zip(options, values, strict=True))
        parts = [text for text, choices in zip(chosen, options.values(), strict=True) if len(choices) > 1]
        for input_len, output_len in product(inputs, outputs):
            lengths = [f"input {input_len}"] * (len(inputs) > 1) + [f"output {output_len}"] * (len(outputs) > 1)
            yield CurveAxes(name=", ".join([*parts, *lengths]), engine_options=chosen, input_len=input_len, output_len=output_len)


def _choices(key: str, value: str) -> list[str]:
    """The values between commas; of JSON and of a secret there is one."""
    whole = value[:1] in "{[" or SECRET_NAME.search(key)
    return [value] if whole else list(dict.fromkeys(part.strip() for part in value.split(",")))


def numbers(flag: str, text: str, parse: Callable[[str], NumberT]) -> tuple[NumberT, ...]:
    """Each once. Raises UserError."""
    values = []
    for word in text.replace(",", " ").split():
        try:
            values.append(parse(word))
        except ValueError:
            raise UserError(f"{flag} {word!r} is not a number above 0", f"give numbers between commas: {flag} 1,2,4,8") from None
    if not values:
        raise UserError(f"{flag} has no value", f"give numbers between commas: {flag} 1,2,4,8")
    return tuple(dict.fromkeys(values))


def length(word: str) -> int:
    """1 to MAX_TOKENS. Raises ValueError."""
    number = int(word)
    if not 1 <= number <= MAX_TOKENS:
        raise ValueError(word)
    return number


def _rate(word: str) -> float:
    rate = float(word)
    if not 0 < rate <= MAX_RATE:
        raise ValueError(word)
    return rate
