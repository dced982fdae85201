"""Which of the parts account for the slow tenth, by a test that knows how alike neighbours are and how many rules there are.

A part's share is how much more of it the slow tenth has than the tenth around the median, of how much longer the slow tenth took. Runs are
drawn again from blocks of consecutive requests (moving-block bootstrap: Künsch, Annals of Statistics 17, 1989), with the slopes that a
part goes with; a cause is named where the share is above `LEAST_SHARE` with 95 % confidence over all rules (Holm, Scandinavian Journal of
Statistics 6, 1979). A slow tenth that is not much slower than the typical request has no cause to be told.
"""

from __future__ import annotations

import msgspec

from bytemlperf.lazy import numpy
from bytemlperf.statistics.columns import Floats
from bytemlperf_llm.causes.decoding import decoding
from bytemlperf_llm.causes.evidence import Evidence, step_of
from bytemlperf_llm.causes.first_token import DIFFERENCE, first_token
from bytemlperf_llm.causes.fits import block_sums, blocks_of
from bytemlperf_llm.causes.parts import Cause, Latency, Ledger, Part

LEAST_REQUESTS = 100
"""A slow tenth of ten."""
LEAST_SHARE = 0.2
FALSE_ALARMS = 0.05
TAILS: dict[Latency, float] = {"ttft": 2.0, "tpot": 1.5}
"""The slow tenth takes so many times what the typical request takes, or there is nothing to explain."""
CROWDED = 10.0
"""Or the typical request takes so many times what the quickest fiftieth takes: all wait."""
REDRAWN = 2_000
NAMES = {"ttft": "time to first token", "tpot": "time per output token"}


class Tail(msgspec.Struct, frozen=True, kw_only=True):
    """Mean latency of the quickest fiftieth, of the tenth around the median, and of the slowest, ms. `told`: it is long enough to have a
    cause."""

    quick_ms: float
    typical_ms: float
    slow_ms: float
    told: bool


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One rule's result: the share of the slow tenth's excess, with its 95 % interval, and the p value of its being under `LEAST_SHARE`.
    `ms` is that share in ms of a slow request's whole time. `named`: it holds with all rules considered."""

    cause: Cause
    latency: Latency
    share: float
    low: float
    high: float
    ms: float
    p_value: float
    named: bool
    sentence: str


class Causes(msgspec.Struct, frozen=True, kw_only=True):
    """Of `requests` judged, the tails, and every rule's result, those that are named first, the largest first. `sentence` says it."""

    requests: int
    tails: dict[Latency, Tail]
    findings: list[Finding]
    sentence: str


def causes_of(evidence: Evidence | None) -> Causes | None:
    """None where there are no tokens."""
    if evidence is None:
        return None
    if len(evidence) < LEAST_REQUESTS:
        too_few = f"{len(evidence):,} responses are insufficient to tell a cause ({LEAST_REQUESTS} needed)"
        return Causes(requests=len(evidence), tails={}, findings=[], sentence=too_few)
    ledgers = [ledger for ledger in (first_token(evidence), decoding(evidence)) if len(ledger.ms) >= LEAST_REQUESTS]
    tails = {ledger.latency: _tail(ledger) for ledger in ledgers}
    tested = [finding for ledger in ledgers if tails[ledger.latency].told for finding in _findings(ledger)]
    findings = sorted(corrected(tested), key=lambda finding: (not finding.named, -finding.ms))
    return Causes(requests=len(evidence), tails=tails, findings=findings, sentence=_sentence(tails, findings))


def _tail(ledger: Ledger) -> Tail:
    quick, typical, slow = (float(ledger.ms[part].mean()) for part in (ledger.quick(), ledger.typical(), ledger.slow()))
    told = slow >= TAILS[ledger.latency] * typical or typical >= CROWDED * quick
    return Tail(quick_ms=_rounded(quick), typical_ms=_rounded(typical), slow_ms=_rounded(slow), told=told)


class _Redraws:
    """The same run drawn again, each group of requests from blocks of consecutive ones of its own; the first value of each result is the
    run as it is."""

    def __init__(self, ledger: Ledger) -> None:
        masks = {"slow": ledger.slow(), "typical": ledger.typical(), "others": ~ledger.slow()}
        rows = {name: numpy.flatnonzero(mask) for name, mask in masks.items()}
        self._rows = {name: some[:: step_of(len(some))] for name, some in rows.items()}
        self._draws = {name: blocks_of(len(some), REDRAWN) for name, some in self._rows.items()}

    def mean(self, values: Floats, group: str) -> Floats:
        """Over a group."""
        some, (draws, length) = values[self._rows[group]], self._draws[group]
        drawn = block_sums(some[:, None], draws, length)[:, 0] / (draws.shape[1] * length)
        return numpy.append(some.mean(), drawn)

    def excess(self, values: Floats, over: str = "typical") -> Floats:
        """Mean over the slow requests less that over another group."""
        difference: Floats = self.mean(values, "slow") - self.mean(values, over)
        return difference

    def share(self, part: Part, excess: Floats) -> Floats:
        """Of an excess, with the part as large as its slope is each time."""
        share: Floats = self.excess(part.ms) / numpy.where(excess > 0, excess, numpy.inf)
        if part.slope is not None and part.slope.coefficients[1] != 0:
            again = part.slope.redrawn(*blocks_of(len(part.slope.values), REDRAWN))[:, 1]
            share[1:] *= numpy.clip(again / part.slope.coefficients[1], 0.0, 2.0)
        return share


def _findings(ledger: Ledger) -> list[Finding]:
    redraws, tokens = _Redraws(ledger), float(ledger.tokens[ledger.slow()].mean())
    excess = redraws.excess(ledger.ms)
    return [_finding(ledger.latency, part, redraws, excess, tokens) for part in ledger.parts if part.ms.any()]


def _finding(latency: Latency, part: Part, redraws: _Redraws, excess: Floats, tokens: float) -> Finding:
    share = redraws.share(part, excess)
    sentence = part.sentence
    beyond = share[1:] <= LEAST_SHARE
    if part.condition is not None:
        difference = redraws.excess(part.condition.astype("f8"), "others")[1:]
        low, high = (100 * float(bound) for bound in numpy.quantile(difference, (0.025, 0.975)))
        sentence = sentence.replace(DIFFERENCE, f" (difference {low:.0f} to {high:.0f} points)")
    low, high = numpy.quantile(share[1:], (0.025, 0.975))
    return Finding(
        cause=part.cause,
        latency=latency,
        share=_rounded(share[0]),
        low=_rounded(low),
        high=_rounded(high),
        ms=_rounded(share[0] * excess[0] * tokens),
        p_value=_rounded((1 + int(beyond.sum())) / (1 + len(beyond))),
        named=False,
        sentence=sentence,
    )


def corrected(findings: list[Finding]) -> list[Finding]:
    """Holm's rule: named from the smallest p value on, as long as each is under what is left of the error."""
    kept: list[Finding] = []
    ordered = sorted(findings, key=lambda finding: finding.p_value)
    holds = True
    for rank, finding in enumerate(ordered):
        holds = holds and finding.p_value <= FALSE_ALARMS / (len(ordered) - rank)
        kept.append(msgspec.structs.replace(finding, named=holds))
    return kept


def _sentence(tails: dict[Latency, Tail], findings: list[Finding]) -> str:
    named = [finding for finding in findings if finding.named]
    if named:
        return named[0].sentence
    long = [NAMES[latency] for latency, tail in tails.items() if tail.told]
    if not long:
        return "no tail to explain: the slowest 10 % are not far from the typical request"
    return f"no clear cause of the slowest 10 % ({' and '.join(long)})"


def _rounded(value: float) -> float:
    """Six digits: what a machine's last bits don't reach."""
    return float(f"{value:.6g}")
