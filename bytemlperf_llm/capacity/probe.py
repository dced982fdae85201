"""A probe: what it is for, what it may spend, and when it has said enough. Pure: no I/O, no clock."""

from __future__ import annotations

import math
from enum import StrEnum

import msgspec

from bytemlperf.statistics.special import normal_quantile
from bytemlperf_llm.capacity.curve import CLEAR_Z, Point
from bytemlperf_llm.capacity.judge import NO_ERRORS, Errors, Look, Outcome, tail_of

OVERLOADED = 0.99
"""Share that misses of an overload's requests in the end, however many were good before it had grown."""
HOPE = 1.0
"""Standard deviations of luck that a probe is given to be resolved by its end; with less hope it ends."""
HOPELESS = 0.5
"""Share that missed in a probe that is to fail, from which on an unsteady one is too near the server's own limit to become steady."""
GROWN = 2_000
"""Requests in which a plain overload shows."""


class Purpose(StrEnum):
    """What a probe is for: to find the range, to halve it where it is wide, to say where in it the capacity is, to hold, to fail, to
    confirm the answer."""

    RANGE = "range"
    HALVE = "halve"
    ESTIMATE = "estimate"
    LOW = "holds"
    HIGH = "fails"
    CONFIRM = "confirm"


class Plan(msgspec.Struct, frozen=True):
    """A probe to run: at `load`, looked at from `first` requests on, up to `limit`."""

    load: float
    first: int
    limit: int
    errors: Errors
    purpose: Purpose


class Probe(msgspec.Struct, frozen=True):
    """A probe that ran. `client_limited` says why the client was the limit, empty where it wasn't; `errors` are what it could spend."""

    load: float
    look: Look
    purpose: Purpose
    client_limited: str = ""
    errors: Errors = NO_ERRORS

    @property
    def outcome(self) -> Outcome:
        return Outcome.UNRESOLVED if self.client_limited else self.look.outcome

    @property
    def missed(self) -> float:
        """The share that misses; in an overload, in which nearly all do in the end, at least `OVERLOADED`."""
        return max(self.look.missed, OVERLOADED) if self.look.overloaded else self.look.missed

    @property
    def point(self) -> Point:
        steady = self.look.steady or self.look.overloaded
        return Point(math.log(self.load), self.missed, self.look.worth, self.look.judged, steady)


def is_enough(plan: Plan, look: Look, share: float) -> bool:
    """Whether a probe may end before its limit: it is resolved, has said enough for its purpose, or won't be resolved by its limit."""
    if look.outcome is not Outcome.UNRESOLVED or look.overloaded or look.requests >= plan.limit:
        return True
    limit, done = 1 - share, look.requests / plan.limit
    below = look.missed < limit
    z = normal_quantile(1 - min(max(tail_of(look.worth, look.missed, limit), 1e-12), 0.5))
    if plan.purpose in (Purpose.RANGE, Purpose.HALVE, Purpose.ESTIMATE):
        return z > CLEAR_Z and look.steady
    low = plan.purpose is Purpose.LOW
    if not low and not look.steady and look.missed > HOPELESS and look.requests >= GROWN:
        return True
    return z > CLEAR_Z if below is not low else done > 0.5 and not _hopeful(plan, z, done, holds=low)


def _hopeful(plan: Plan, z: float, done: float, *, holds: bool) -> bool:
    """Whether a probe that is so many standard errors on one side of the limit may be resolved there by its end."""
    needed = normal_quantile(1 - (plan.errors.holds if holds else plan.errors.fails) / 3)
    return z / math.sqrt(done) + HOPE * math.sqrt(1 / done - 1) >= needed
