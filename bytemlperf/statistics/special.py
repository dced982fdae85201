"""Binomial tails and Student's t without scipy: what exact intervals need.

Everything rests on the regularised incomplete beta function, evaluated by its continued fraction
(modified Lentz; Press et al., Numerical Recipes, 3rd ed., 6.4), which converges in about
sqrt(max(a, b)) steps: thousands for samples of 1e8. Prefactors go through log-gamma. A binomial
rank is found with one such evaluation near its normal approximation and a short exact walk along
the probability mass, so that a rank costs milliseconds at any size.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from statistics import NormalDist

EPSILON = 1e-15
TINY = 1e-300
_MAX_STEPS = 200_000
_MAX_DEGREES = 10_000_000
"""Beyond so many degrees of freedom t equals the normal quantile to 1e-6."""

_T_DIGITS = 9
"""Quantiles are rounded so that the last bits of a machine's libm don't reach a summary."""


def _beta_fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function."""
    c = 1.0
    d = 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0))
    h = d
    for m in range(1, _MAX_STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        d = 1.0 / away_from_zero(1.0 + even * d)
        c = away_from_zero(1.0 + even / c)
        h *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        d = 1.0 / away_from_zero(1.0 + odd * d)
        c = away_from_zero(1.0 + odd / c)
        step = d * c
        h *= step
        if abs(step - 1.0) < EPSILON:
            return h
    raise ArithmeticError(f"incomplete beta did not converge for a={a}, b={b}, x={x}")


def away_from_zero(value: float) -> float:
    """What a continued fraction may be divided by."""
    return value if abs(value) > TINY else TINY


def regularised_beta(a: float, b: float, x: float, complement: float | None = None) -> float:
    """I_x(a, b) for a, b > 0. `complement` is 1 − x where the caller knows it more exactly."""
    y = 1.0 - x if complement is None else complement
    if x <= 0.0:
        return 0.0
    if y <= 0.0:
        return 1.0
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(y))
    if x < (a + 1.0) / (a + b + 2.0):
        return front * _beta_fraction(a, b, x) / a
    return 1.0 - front * _beta_fraction(b, a, y) / b


def binomial_cdf(k: int, n: int, p: Fraction) -> float:
    """P(B ≤ k) for B ~ Binomial(n, p), 0 < p < 1."""
    if k < 0:
        return 0.0
    if k >= n:
        return 1.0
    return regularised_beta(n - k, k + 1.0, float(1 - p), float(p))


def binomial_pmf(k: int, n: int, p: Fraction) -> float:
    """P(B = k) for B ~ Binomial(n, p), 0 < p < 1."""
    if not 0 <= k <= n:
        return 0.0
    log_choose = math.lgamma(n + 1.0) - math.lgamma(k + 1.0) - math.lgamma(n - k + 1.0)
    return math.exp(log_choose + k * math.log(p) + (n - k) * math.log(1 - p))


@lru_cache(maxsize=4096)
def lower_tail_count(n: int, p: Fraction, tail: float) -> int:
    """The largest k with P(B ≤ k) ≤ tail for B ~ Binomial(n, p); −1 when even k = 0 has more."""
    deviation = math.sqrt(n * p * (1 - p))
    k = min(n - 1, max(0, math.floor(n * p - normal_quantile(1.0 - tail) * deviation)))
    below = binomial_cdf(k, n, p)
    mass = binomial_pmf(k, n, p)
    odds = float(p / (1 - p))
    while k >= 0 and below > tail:
        below -= mass
        mass *= k / ((n - k + 1) * odds)
        k -= 1
    while k < n - 1:
        above = binomial_pmf(0, n, p) if k < 0 else mass * (n - k) * odds / (k + 1)
        if below + above > tail:
            break
        below, mass, k = below + above, above, k + 1
    return k


def normal_quantile(probability: float) -> float:
    """The standard normal quantile."""
    return NormalDist().inv_cdf(probability)


@lru_cache(maxsize=1024)
def t_quantile(probability: float, degrees: int) -> float:
    """Student's t quantile for probability > 0.5 and degrees ≥ 1, by bisection of its tail
    P(|T| > t) = I_{ν/(ν+t²)}(ν/2, 1/2)."""
    if degrees > _MAX_DEGREES:
        return normal_quantile(probability)
    tails = 2.0 * (1.0 - probability)
    low, high = 0.0, 1.0
    while two_tails(high, degrees) > tails:
        high *= 2.0
    while high - low > 1e-12 * high:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if two_tails(middle, degrees) > tails else (low, middle)
    return round(0.5 * (low + high), _T_DIGITS)


def two_tails(t: float, degrees: int) -> float:
    """P(|T| > t) of Student's t with these degrees of freedom."""
    square = t * t
    return regularised_beta(degrees / 2.0, 0.5, degrees / (degrees + square), square / (degrees + square))
