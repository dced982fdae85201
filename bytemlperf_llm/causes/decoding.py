"""Rules for the time per output token."""

from __future__ import annotations

from bytemlperf.lazy import numpy
from bytemlperf.report.text import number
from bytemlperf.statistics.columns import Column, Floats
from bytemlperf_llm.causes.evidence import FULL, Evidence, step_of
from bytemlperf_llm.causes.first_token import pauses_sentence, slope_text, taken_in_sentence
from bytemlperf_llm.causes.fits import fit
from bytemlperf_llm.causes.parts import Ledger

LEAST_TOKENS = 8
"""Tokens after the first that a stream needs for a pace of its own."""
ALL = 0.95
"""A share of its speed that a stream loses from which on it stops."""


def decoding(evidence: Evidence) -> Ledger:
    """TPOT of the requests that have one, divided."""
    rows = numpy.flatnonzero((evidence.output > LEAST_TOKENS) & (evidence.last > evidence.first))
    first, last, tokens = evidence.first[rows], evidence.last[rows], evidence.output[rows] - 1
    span, step = last - first, step_of(len(rows))
    ledger = Ledger(latency="tpot", ms=span / tokens, tokens=tokens)
    if not len(rows):
        return ledger
    paused = evidence.paused.within(first, last)
    ledger.take("pauses", paused / tokens, pauses_sentence(evidence.paused))
    taken_in = evidence.taken_in.within(first, last)
    ledger.take("prefill", taken_in / tokens, taken_in_sentence(evidence.taken_in))
    share = evidence.windows.within(first, last) / span
    _prefill(ledger, evidence, share, numpy.maximum(span - paused - taken_in, 1e-6))
    _preempted(ledger, evidence, rows)
    running = evidence.mean_running(first, last)
    line = fit(ledger.left[::step], running[::step])
    slope = max(float(line.slopes[0]), 0.0)
    ledger.take("batch", slope * running, f"TPOT grows by {slope_text(slope, line)} for each further stream in the batch.", line)
    return ledger


def _prefill(ledger: Ledger, evidence: Evidence, share: Floats, span: Floats) -> None:
    """Of a stream's time a `share` passes while long prompts are prefilled; how many tokens come in a ms is a line over that share."""
    step = step_of(len(span))
    line = fit((ledger.tokens / span)[::step], share[::step])
    alone = float(line.coefficients[0])
    lost = min(max(-float(line.slopes[0]) / alone, 0.0), 1.0) if alone > 0 else 0.0
    more = f"rises by {number(lost / (1 - lost) / alone)} ms" if lost < ALL else "stops"
    sentence = f"{'ITL' if lost < ALL else 'Decoding'} {more} while a prefill of more than {evidence.long_prompt:,.0f} tokens runs."
    ledger.take("prefill", share * span * lost / ledger.tokens, sentence, line)


def _preempted(ledger: Ledger, evidence: Evidence, rows: Column) -> None:
    """A stream's own silences while the KV cache was full."""
    if evidence.full is None:
        return
    begins, ends, whose = evidence.silences
    middle = (begins + ends) / 2
    kept = evidence.full.hold(middle) & ~evidence.stops.hold(middle) & ~evidence.windows.hold(middle)
    stood = numpy.bincount(whose[kept], (ends - begins)[kept], len(evidence))[rows]
    ledger.take("kv cache", stood / ledger.tokens, f"Single streams stood still while the KV cache was above {FULL:.0%}: preempted.")
