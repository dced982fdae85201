"""Greedy responses of a run beside a reference's: how many are the same, where the others part, and whether that is noise.

Two runs of one engine may differ where a batch's size changes the order of sums; the reference, run `again`, tells how much. A response is
known by its SHA-256; with its text (`--keep-output`) the first word that differs is known too, and what is no language.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import takewhile
from statistics import median

import msgspec

from bytemlperf.statistics.special import binomial_cdf
from bytemlperf.statistics.statistics import wilson
from bytemlperf_llm.record.record import RequestRecord

SAME, DIFFERS, BEYOND, GARBAGE = "same", "differs", "differs beyond noise", "garbage"
ALPHA = 0.05
GARBAGE_SHARE = 0.1
"""So many more of the responses than of the reference's are empty, no UTF-8 or endless repetition: garbage."""
MIN_WORDS, GRAM_WORDS, DISTINCT_SHARE = 40, 4, 0.3
"""A response of 40 words or more repeats itself where under 30 % of its runs of four words are different ones."""


class Share(msgspec.Struct, frozen=True):
    """k of n, with Wilson's 95 % interval."""

    k: int
    n: int

    @property
    def value(self) -> float:
        return self.k / self.n

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.value, self.n)


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """`equal` and `noise` (the reference with itself) of requests that all runs answered. `first_difference_words` of those that differ,
    where texts are known. `length_ratio`: output tokens over the reference's. `stops`: how responses ended, the reference's second.
    `faults` by name, of this run and of the reference; those of texts only where they are known."""

    equal: Share
    noise: Share | None
    first_difference_words: list[int]
    length_ratio: float
    stops: dict[str, tuple[int, int]]
    faults: dict[str, tuple[int, int]]
    verdict: str

    @property
    def first_difference(self) -> float | None:
        """The median."""
        return median(self.first_difference_words) if self.first_difference_words else None


def agreement_of(
    records: Iterable[RequestRecord], reference: Iterable[RequestRecord], again: Iterable[RequestRecord] | None = None
) -> Agreement | None:
    """None where no request was answered in all of them."""
    ours, theirs = _answered(records), _answered(reference)
    second = None if again is None else _answered(again)
    shared = [index for index in ours if index in theirs and (second is None or index in second)]
    if not shared:
        return None
    pairs = [(ours[index], theirs[index]) for index in shared]
    equal = [one.output_sha256 == other.output_sha256 for one, other in pairs]
    noise = None if second is None else [second[index].output_sha256 == theirs[index].output_sha256 for index in shared]
    texts = [(one.output.split(), other.output.split()) for one, other in pairs if one.output is not None and other.output is not None]
    faults = {name: (_count(name, [one for one, _ in pairs]), _count(name, [other for _, other in pairs])) for name in _FAULTS}
    return Agreement(
        equal=Share(sum(equal), len(pairs)),
        noise=None if noise is None else Share(sum(noise), len(pairs)),
        first_difference_words=[_shared_words(one, other) for one, other in texts if one != other],
        length_ratio=sum(one.output_tokens for one, _ in pairs) / max(1, sum(other.output_tokens for _, other in pairs)),
        stops=_stops(pairs),
        faults=faults,
        verdict=_verdict(equal, noise, faults),
    )


def _answered(records: Iterable[RequestRecord]) -> dict[int, RequestRecord]:
    return {record.index: record for record in records if record.outcome == "ok" and not record.inputs}


def _shared_words(one: Sequence[str], other: Sequence[str]) -> int:
    return sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(one, other, strict=False)))


def _stops(pairs: Sequence[tuple[RequestRecord, RequestRecord]]) -> dict[str, tuple[int, int]]:
    ours, theirs = (Counter(pair[place].finish_reason or "not said" for pair in pairs) for place in (0, 1))
    return {reason: (ours[reason], theirs[reason]) for reason in sorted({*ours, *theirs})}


def _verdict(equal: Sequence[bool], noise: Sequence[bool] | None, faults: dict[str, tuple[int, int]]) -> str:
    if any(ours - theirs >= GARBAGE_SHARE * len(equal) and ours > theirs for ours, theirs in faults.values()):
        return GARBAGE
    if all(equal):
        return SAME
    if noise is None:
        return DIFFERS
    lost = sum(not one and other for one, other in zip(equal, noise, strict=True))
    won = sum(one and not other for one, other in zip(equal, noise, strict=True))
    return BEYOND if lost > won and binomial_cdf(won, lost + won, Fraction(1, 2)) < ALPHA else SAME  # sign test, one-sided


def is_empty(record: RequestRecord) -> bool:
    return record.output_sha256 is None


def is_broken(record: RequestRecord) -> bool:
    """Holds what stands for bytes that are no UTF-8."""
    return "\N{REPLACEMENT CHARACTER}" in (record.output or "")


def is_repetitive(record: RequestRecord) -> bool:
    words = (record.output or "").split()
    grams = list(zip(*(words[start:] for start in range(GRAM_WORDS)), strict=False))
    return len(words) >= MIN_WORDS and len(set(grams)) < DISTINCT_SHARE * len(grams)


_FAULTS = {"empty": is_empty, "no UTF-8": is_broken, "repetitive": is_repetitive}


def _count(name: str, records: Iterable[RequestRecord]) -> int:
    return sum(map(_FAULTS[name], records))
