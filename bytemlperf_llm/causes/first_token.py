"""Rules for the time to the first token.

What was measured goes first: the client's own wait, a server that stood still, the network. Then what is inferred: prefill from the slope
over prompt tokens, a full KV cache from the server's gauge, the queue from the number that waited ahead. Where the engine stamps its
stages, these say how long a request waited and was prefilled.
"""

from __future__ import annotations

from bytemlperf.lazy import numpy
from bytemlperf.report.text import number
from bytemlperf.statistics.columns import Floats, Mask
from bytemlperf_llm.causes.evidence import FULL, USUAL_TRIP, Evidence, step_of
from bytemlperf_llm.causes.fits import Fit, fit
from bytemlperf_llm.causes.parts import Ledger
from bytemlperf_llm.causes.spans import Spans

BUSY = 0.8
"""Share of the streams that the server decoded while others waited, or all but one of them, whose place the next one has just taken: with
as many running, one more has to wait for its turn."""
DIFFERENCE = "{difference}"
"""Stands in a sentence for what a test finds."""
LATE_MS = 10.0
"""A request sent so late counts in the sentence."""


def first_token(evidence: Evidence) -> Ledger:
    """TTFT from due, divided."""
    ledger = Ledger(latency="ttft", ms=evidence.ttft, tokens=numpy.ones(len(evidence)))
    slow = ledger.slow()
    _client(ledger, evidence, slow)
    _network(ledger, evidence, slow)
    ledger.take("pauses", evidence.paused.within(evidence.sent, evidence.first), pauses_sentence(evidence.paused))
    ledger.take("prefill", evidence.taken_in.within(evidence.sent, evidence.first), taken_in_sentence(evidence.taken_in))
    if evidence.stages is not None:
        sentence = "Requests were long on their way to the engine, before its queue."
        ledger.take("reaching the engine", evidence.stages["stage_send"], sentence)
    prefilled = numpy.minimum(evidence.ms_per_prompt_token * _tokens(evidence), ledger.left)
    waited = _waited(evidence, ledger.left - prefilled)
    ahead = numpy.minimum(evidence.ms_per_prompt_token * evidence.pending_tokens, waited)
    per_hundred = slope_text(evidence.ms_per_prompt_token, evidence.prefill_line, 100)
    sentence = f"TTFT grows by {per_hundred} per 100 prompt tokens, its own and those ahead of it: prefill-bound."
    ledger.take("prefill", prefilled + ahead, sentence, evidence.prefill_line)
    waited = waited - ahead
    if evidence.full is not None:
        share = evidence.full.within(evidence.sent, evidence.first) / numpy.maximum(evidence.first - evidence.sent, 1e-6)
        ledger.take("kv cache", waited * share, _kv_sentence(evidence, share > 0.5, slow), condition=share > 0.5)
        waited = waited * (1 - share)
    _queue(ledger, evidence, waited)
    return ledger


def _client(ledger: Ledger, evidence: Evidence, slow: Mask) -> None:
    late = int((evidence.late[slow] > LATE_MS).sum())
    sent_late = f"{late:,} of the {int(slow.sum()):,} slowest requests were sent more than {number(LATE_MS)} ms late"
    sentence = f"The client's own lateness makes the tail: {sent_late}."
    ledger.take("client", evidence.late, sentence)
    waited = float(evidence.capped[slow].mean())
    sentence = f"Requests waited for one of the client's slots ({number(waited)} ms in the mean): its limit of concurrency was reached."
    ledger.take("concurrency limit", evidence.capped, sentence)


def slope_text(slope: float, line: Fit, times: int = 1) -> str:
    """So many times a line's first slope, in ms with its interval; the slope as it is used may be smaller than the fitted one."""
    low, high = (number(times * max(bound, 0.0)) for bound in line.bounds())
    return f"{number(times * slope)} ms ({low} to {high})"


def pauses_sentence(paused: Spans) -> str:
    if not len(paused):
        return ""
    lengths = paused.ends - paused.begins
    return (
        f"The server stood still {len(paused):,} times, for {number(float(numpy.median(lengths)))} ms in the median and "
        f"{number(float(lengths.max()))} ms at the longest: at least half of the open streams were silent, with no prefill to explain it."
    )


def taken_in_sentence(taken_in: Spans) -> str:
    if not len(taken_in):
        return ""
    median = float(numpy.median(taken_in.ends - taken_in.begins))
    return f"Taking in a request stops all others: {len(taken_in):,} times, for {number(median)} ms in the median: prefill-bound."


def _network(ledger: Ledger, evidence: Evidence, slow: Mask) -> None:
    if evidence.round_trips is None:
        return
    times, took = evidence.round_trips
    trip = numpy.maximum(numpy.interp(evidence.sent, times, took), numpy.interp(evidence.first, times, took))
    usual = float(numpy.quantile(took, USUAL_TRIP))
    sentence = (
        f"The way to the server was slow: a connection opened in {number(float(trip[slow].mean()))} ms around these requests, "
        f"in {number(float(trip[~slow].mean()))} ms around the others."
    )
    ledger.take("network", trip - usual, sentence)


def _tokens(evidence: Evidence) -> Floats:
    return numpy.zeros(len(evidence)) if evidence.prompt is None else evidence.prompt


def _waited(evidence: Evidence, spare: Floats) -> Floats:
    """Of the ms without prefill: what the engine stamps, else what is above the quickest tenth's."""
    if evidence.stages is not None:
        return numpy.clip(evidence.stages["stage_queue"], 0.0, numpy.maximum(spare, 0.0))
    return numpy.maximum(spare - float(numpy.quantile(spare, 0.1)), 0.0)


def _kv_sentence(evidence: Evidence, met: Mask, slow: Mask) -> str:
    rose = "; preemptions rose with it" if evidence.preempted_more() else ""
    shares = f"during {met[slow].mean():.0%} of the slow requests against {met[~slow].mean():.0%} of the others"
    return f"KV cache above {FULL:.0%} {shares}{DIFFERENCE}{rose}."


def _queue(ledger: Ledger, evidence: Evidence, waited: Floats) -> None:
    if evidence.stages is not None:
        share = float(waited[ledger.slow()].mean())
        ledger.take("queue", waited, f"Requests waited in the engine's queue, {number(share)} ms in the mean.")
        return
    others = evidence.running[evidence.pending > 0]
    most = float(numpy.quantile(others, 0.9)) if len(others) else 0.0
    busy = evidence.running >= min(BUSY * most, most - 1)
    ahead = evidence.pending * busy
    step = step_of(len(evidence))
    line = fit(waited[::step], ahead[::step])
    slope = max(float(line.slopes[0]), 0.0)
    sentence = f"Requests queue in the server: TTFT grows by {slope_text(slope, line)} for each request that waits ahead."
    ledger.take("queue", numpy.minimum(slope * ahead, waited), sentence, line)
