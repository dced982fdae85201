"""Random numbers that are the same on every machine.

`random.Random(text).random()` is a stream that Python guarantees for all versions. Everything made
from it here uses only +, -, *, / and square root, which IEEE 754 fixes to the last bit. The
mathematics library's `log` and `exp` are not so fixed (C libraries differ in the last bit, and
compilers fuse multiply and add), so both are written out below, to within a few units in the last place.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

Uniform = Callable[[], float]
"""Draws from [0, 1), multiples of 2**-53."""

SMALLEST_DRAW = 2.0**-54
"""Stands for a draw of exactly 0 where a logarithm follows: half the step of the stream."""

_LN2_HIGH = 0.6931471803691238  # ln 2 to 32 bits: times a small integer it is exact (Cody and Waite)
_LN2_LOW = 1.9082149292705877e-10
_SQRT_HALF = 0.7071067811865476
_EXP_UNDERFLOW = -708.0
_EXP_OVERFLOW = 709.0
_LOG_TERMS = tuple(1.0 / k for k in range(21, 0, -2))
_EXP_TERMS = tuple(1.0 / math.factorial(k) for k in range(14, -1, -1))

ItemT = TypeVar("ItemT")


def stream(seed: int, *purpose: object) -> Uniform:
    """The stream of draws for one purpose; streams of different purposes are independent."""
    return random.Random("/".join(str(part) for part in (seed, *purpose))).random


def log(x: float) -> float:
    """Natural logarithm of x > 0: 2 atanh((m - 1)/(m + 1)) + e ln 2, where x = m * 2**e."""
    mantissa, exponent = math.frexp(x)
    if mantissa < _SQRT_HALF:
        mantissa += mantissa
        exponent -= 1
    ratio = (mantissa - 1.0) / (mantissa + 1.0)
    square = ratio * ratio
    total = 0.0
    for term in _LOG_TERMS:
        total = total * square + term
    return exponent * _LN2_HIGH + (2.0 * ratio * total + exponent * _LN2_LOW)


def exp(x: float) -> float:
    """e**x: the Taylor series on [-ln 2 / 2, ln 2 / 2], times a power of two. 0.0 below -708."""
    if x < _EXP_UNDERFLOW:
        return 0.0
    if x > _EXP_OVERFLOW:
        raise OverflowError(f"exp({x}) is too large")
    exponent = round(x / _LN2_HIGH)
    rest = (x - exponent * _LN2_HIGH) - exponent * _LN2_LOW
    total = 0.0
    for term in _EXP_TERMS:
        total = total * rest + term
    return math.ldexp(total, exponent)


# Numerator and denominator of each range, highest power first.
# fmt: off
_CENTRAL = (
    (2509.0809287301227, 33430.575583588128, 67265.770927008700, 45921.953931549871,
     13731.693765509461, 1971.5909503065514, 133.14166789178438, 3.3871328727963666),
    (5226.4952788528546, 28729.085735721943, 39307.895800092711, 21213.794301586596,
     5394.1960214247511, 687.18700749205791, 42.313330701600911, 1.0),
)
_MIDDLE = (
    (7.74545014278341408e-4, 0.0227238449892691846, 0.241780725177450612, 1.27045825245236838,
     3.64784832476320461, 5.76949722146069141, 4.63033784615654530, 1.42343711074968358),
    (1.05075007164441684e-9, 5.47593808499534495e-4, 0.0151986665636164572, 0.148103976427480075,
     0.689767334985100005, 1.67638483018380385, 2.05319162663775882, 1.0),
)
_TAIL = (
    (2.01033439929228813e-7, 2.71155556874348758e-5, 0.00124266094738807844, 0.0265321895265761230,
     0.296560571828504891, 1.78482653991729133, 5.46378491116411437, 6.65790464350110378),
    (2.04426310338993979e-15, 1.42151175831644589e-7, 1.84631831751005468e-5, 7.86869131145613259e-4,
     0.0148753612908506149, 0.136929880922735805, 0.599832206555887938, 1.0),
)
# fmt: on


def _quotient(polynomials: tuple[tuple[float, ...], tuple[float, ...]], x: float) -> float:
    (a, b, c, d, e, f, g, h), (i, j, k, m, n, o, p, q) = polynomials
    above = ((((((a * x + b) * x + c) * x + d) * x + e) * x + f) * x + g) * x + h
    return above / (((((((i * x + j) * x + k) * x + m) * x + n) * x + o) * x + p) * x + q)


def normal_quantile(p: float) -> float:
    """Standard normal quantile of 0 < p < 1. Wichura (1988), algorithm AS 241, PPND16."""
    q = p - 0.5
    if -0.425 <= q <= 0.425:
        return q * _quotient(_CENTRAL, 0.180625 - q * q)
    root = math.sqrt(-log(p if q <= 0.0 else 1.0 - p))
    value = _quotient(_MIDDLE, root - 1.6) if root <= 5.0 else _quotient(_TAIL, root - 5.0)
    return -value if q < 0.0 else value


def normal(draw: Uniform) -> float:
    """A standard normal variate from one draw."""
    return normal_quantile(draw() or SMALLEST_DRAW)


def exponential(draw: Uniform) -> float:
    """An exponential variate of mean 1 from one draw."""
    return -log(1.0 - draw())


def gamma(shape: float, draw: Uniform) -> float:
    """A gamma variate of that shape and scale 1. Marsaglia and Tsang (2000); below shape 1 their
    section 6: gamma(shape) = gamma(shape + 1) * U**(1/shape)."""
    if shape < 1.0:
        return gamma(shape + 1.0, draw) * exp(log(draw() or SMALLEST_DRAW) / shape)
    d = shape - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    while True:
        z = normal(draw)
        v = 1.0 + c * z
        if v <= 0.0:
            continue
        v = v * v * v
        u = draw() or SMALLEST_DRAW
        if u < 1.0 - 0.0331 * (z * z) * (z * z) or log(u) < 0.5 * z * z + d * (1.0 - v + log(v)):
            return d * v


def shuffled(items: Sequence[ItemT], draw: Uniform) -> list[ItemT]:
    """A new list in random order: Fisher and Yates, from the end."""
    order = list(items)
    for last in range(len(order) - 1, 0, -1):
        other = int(draw() * (last + 1))
        order[last], order[other] = order[other], order[last]
    return order
