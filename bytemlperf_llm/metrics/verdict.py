"""The verdict: may a reader believe this run, and if not, why not and what to do.

`invalid`: the load that was asked for was not offered, or nothing was answered, or the records
contradict themselves. `failing`: so many requests failed that the percentiles of those that didn't
say little. `overloaded`: more was asked than the system carries, so that latency grew for as long
as requests came, and percentiles depend on the run's length. `client-limited`: the figures hold, but
the client's own limits or delay are visible in them. Of several the worst is the verdict, and each
has its reasons. Every limit is a constant here, with its reason. A warning is for the reader to weigh
and doesn't change the verdict.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

import msgspec

from bytemlperf.arrivals.delivered import ARRIVAL_ALPHA, ARRIVAL_DISTANCE, dispersion_tolerance
from bytemlperf.report.text import counted
from bytemlperf.runs.verdicts import EXIT_FAILING, VerdictName, exit_status, worst
from bytemlperf.statistics.statistics import needed_count
from bytemlperf.units import NS_PER_MS
from bytemlperf_llm.metrics.facts import RunFacts
from bytemlperf_llm.metrics.load import Load

SENT = ("ok", "failed", "in_flight")
"""Outcomes of requests that the client did its part for."""

RATE_TOLERANCE = 0.05
"""Offered against requested rate, and unsent requests against the schedule: latency climbs so
steeply with load near saturation that 5 % less load makes another operating point."""

MIN_RATE_REQUESTS = 30
"""Under so many sends a rate is too rough to judge."""

RATE_SIGMAS = 3.0
"""A random schedule's own rate scatters by cv/sqrt(n); so many times that is no fault."""

LATENESS_FLOOR_NS = 5 * NS_PER_MS
"""Tail of the client's own delay that is tolerated however short TTFT is: a few scheduler ticks."""

LATENESS_TTFT_SHARE = 0.10
"""... and however long TTFT (of vectors and scores: E2E) is: a tenth of its median stays under the differences looked for."""

LATENESS_INVALID_FACTOR = 5
"""Five times these limits (25 ms, half of the median TTFT): the figures are mostly the client's."""

MAX_LOOP_UTILISATION = 0.5
"""A half-busy event loop already delays its sends and stamps: at utilisation u an M/M/1 queue's mean wait
equals u/(1 − u) service times, one whole service time at 0.5."""

SATURATED_LOOP = 0.9
"""A loop so busy may itself be where requests queue: growing latency is not laid to the system then."""

ARRIVAL_INVALID_ALPHA = 1e-4
ARRIVAL_INVALID_DISTANCE = 0.14
"""... and make the run invalid where one correct run in ten thousand would, and they are as far off as burstiness
0.5 or 2 is from Poisson, which moves that wait by +63 or −31 %."""

FAILING_SHARE = 0.05
"""With more than 5 % of requests failed, p95 with failures counted as infinite is infinite: no percentile of a table's tail is left."""

WARN_FAILURE_SHARE = 0.01
"""With 1 % failures p99 over successes says nothing about the slowest hundredth of users."""

LENGTH_TOLERANCE = 0.1
"""An answer under `ignore_eos` that is a tenth shorter or longer than asked does another amount of work."""

WARN_LENGTH_SHARE = 0.01
"""Of answers, with another length than asked."""

WARN_EFFECTIVE_SHARE = 0.5
"""A mean worth less than half of its values is noted: neighbouring requests share their queue."""


MEDIAN = Fraction(1, 2)


class Verdict(msgspec.Struct, kw_only=True):
    """The verdict with one sentence for each reason (none when valid)."""

    verdict: VerdictName
    reasons: list[str]


class Evidence(msgspec.Struct, kw_only=True):
    """What the verdict rests on. `outcomes` are the buckets as recorded, `unrecorded` the
    scheduled requests without a record, `contradictions` how many records repeat a place in the
    schedule or exceed it; for `tail_lateness_ns` see the function of that name. `client_failures` are the
    failed requests of class `client_limit`, `answers_without_token` the answered ones that brought none, `parents_failed` the turns of
    sessions that were dropped because one before them failed."""

    outcomes: Mapping[str, int]
    scheduled: int
    unrecorded: int
    contradictions: int
    sent_requests: int
    load: Load
    tail_lateness_ns: int | None
    median_latency_ns: int | None
    client_failures: int = 0
    answers_without_token: int = 0
    parents_failed: int = 0

    @property
    def outcomes_sent(self) -> int:
        return sum(self.outcomes.get(name, 0) for name in SENT)


def judge(facts: RunFacts, evidence: Evidence) -> Verdict:
    """Apply every limit."""
    reasons: dict[VerdictName, list[str]] = {
        "invalid": [
            *_records(evidence),
            *_answers(evidence),
            *_unsent(evidence),
            *_rate(facts, evidence),
            *_arrivals(facts, evidence.load),
            *_late(evidence, LATENESS_INVALID_FACTOR),
        ],
        "failing": [*_failing(evidence)],
        "overloaded": [*_overloaded(facts, evidence.load)],
        "thin": [*_thin(evidence)],
        "client-limited": [*_client_failures(evidence), *_loop(facts), *_late(evidence, 1, LATENESS_INVALID_FACTOR)],
    }
    return Verdict(verdict=worst(reasons), reasons=[reason for found in reasons.values() for reason in found])


def _records(evidence: Evidence) -> Iterator[str]:
    if evidence.contradictions:
        yield (
            f"{evidence.contradictions} records repeat or exceed the schedule's {evidence.scheduled} requests: outcomes do not sum to it; "
            "the record log was altered or written by two runs, run again into a new folder"
        )


def _answers(evidence: Evidence) -> Iterator[str]:
    answered = evidence.outcomes.get("ok", 0)
    if evidence.scheduled == 0:
        yield "no request was scheduled: there is nothing to measure; request at least one with --num-prompts"
    elif not answered:
        yield "no request succeeded: every figure is empty; see the failures by class, and send one request by hand first"
    elif evidence.answers_without_token == answered:
        yield "no response carried a token: there is no latency to measure; send one request by hand and look at its stream"


def _unsent(evidence: Evidence) -> Iterator[str]:
    queued = evidence.load.capped_requests and _is_overloaded(evidence.load)  # left waiting under the cap: the system's fault
    unsent = evidence.unrecorded + (0 if queued else evidence.outcomes.get("dropped", 0) - evidence.parents_failed)
    if unsent > RATE_TOLERANCE * evidence.scheduled:
        yield (
            f"{unsent} of {evidence.scheduled} scheduled requests were never sent or left no record: the load was not held; "
            "the run was killed or cut short, resume it or run again"
        )


def _rate(facts: RunFacts, evidence: Evidence) -> Iterator[str]:
    load = evidence.load
    if not facts.open_loop or evidence.sent_requests < MIN_RATE_REQUESTS or load.offered_rate is None or load.capped_requests:
        return
    allowed = RATE_TOLERANCE + RATE_SIGMAS * math.sqrt((load.expected_dispersion or 0.0) / evidence.sent_requests)
    if load.planned_rate is not None and abs(load.offered_rate / load.planned_rate - 1.0) > RATE_TOLERANCE:
        yield (
            f"sent {load.offered_rate:.4g} requests/s where the schedule has {load.planned_rate:.4g}: the client could not keep up; "
            "use more workers or a lower rate"
        )
    elif load.requested_rate is not None and abs(load.offered_rate / load.requested_rate - 1.0) > allowed:
        yield (
            f"actual rate {load.offered_rate:.4g} requests/s, target {load.requested_rate:.4g} ({allowed:.0%} off allowed): "
            "the figures are of a different load; use more workers or a lower target rate"
        )


def _arrivals(facts: RunFacts, load: Load) -> Iterator[str]:
    if _other_process(load, ARRIVAL_INVALID_ALPHA, ARRIVAL_INVALID_DISTANCE):
        yield f"{arrival_text(facts, load)}: not the target load; use more workers, a lower rate, or give the client cores of its own"


def _other_process(load: Load, alpha: float, limit: float) -> bool:
    test = load.arrival_test
    if test is None or load.capped_requests:
        return False
    return test.distance > limit and (test.p_value is None or test.p_value < alpha)


def arrival_text(facts: RunFacts, load: Load) -> str:
    """What the test of the delivered arrivals found, as a sentence without its end."""
    test = load.arrival_test
    assert test is not None
    if test.p_value is None:
        return f"{test.distance:.1%} of the actual gaps are off the constant target by more than a tenth and 1 ms"
    return (
        f"actual gaps differ from those of {facts.process} arrivals at the target rate by {test.distance:.3f} "
        f"(Kolmogorov-Smirnov, {test.gaps} gaps, p = {test.p_value:.2g})"
    )


def _failing(evidence: Evidence) -> Iterator[str]:
    sent, failed = evidence.outcomes_sent, evidence.outcomes.get("failed", 0) - evidence.client_failures
    if failed > FAILING_SHARE * sent and evidence.outcomes.get("ok", 0):
        yield (
            f"{failed} of {sent} requests failed ({failed / sent:.1%}, limit {FAILING_SHARE:.0%}): figures cover the successful ones; "
            "see the failures by class, lower the load or fix the server"
        )


def _thin(evidence: Evidence) -> Iterator[str]:
    answered, needed = evidence.outcomes.get("ok", 0), needed_count(MEDIAN)
    if 0 < answered < needed:
        yield f"{counted(answered, 'response')}: insufficient for a median with an interval, which takes {needed}; raise --num-prompts"


def _client_failures(evidence: Evidence) -> Iterator[str]:
    if evidence.client_failures:
        yield (
            f"{evidence.client_failures} of {evidence.outcomes_sent} requests failed on this client's own limits (open files, ports, "
            "memory), not the server's: raise them (ulimit -n 65536), or send with fewer in flight or from more machines"
        )


def exit_status_of(verdict: VerdictName, failed_on_client: int, outcomes: Mapping[str, int]) -> int:
    """Of a command that ends in this verdict. A run that its client's own limits kept from most of its requests is no success either."""
    if verdict == "client-limited" and failed_on_client > FAILING_SHARE * sum(outcomes.get(name, 0) for name in SENT):
        return EXIT_FAILING
    return exit_status(verdict)


def _is_overloaded(load: Load) -> bool:
    own_queue = load.loop_utilisation is not None and load.loop_utilisation > SATURATED_LOOP
    return load.latency_trend is not None and load.latency_trend.overloaded and not own_queue


def _overloaded(facts: RunFacts, load: Load) -> Iterator[str]:
    trend = load.latency_trend
    if trend is not None and _is_overloaded(load):
        rate, unit = (facts.sessions.requested_rate, "sessions/s") if facts.sessions else (facts.requested_rate, "requests/s")
        asked = f"target rate {rate:.4g} {unit}" if rate is not None else "trace rate"
        yield (
            f"{asked}, completed {trend.completion_rate:.4g} {unit}: latency grew by {trend.growth:.2g} s with each second of "
            f"arrivals (limit {trend.limit:.2g}), and percentiles depend on the run's length; lower the rate, or take --request-rate auto"
        )


def _loop(facts: RunFacts) -> Iterator[str]:
    if facts.loop_utilisation is not None and facts.loop_utilisation > MAX_LOOP_UTILISATION:
        yield (
            f"the client's event loop was {facts.loop_utilisation:.0%} busy (limit {MAX_LOOP_UTILISATION:.0%}): "
            "its own work delays sends and stamps; send from more cores with --workers, or lower the rate"
        )


def _late(evidence: Evidence, factor: float, below: float = math.inf) -> Iterator[str]:
    """Where the tail of the client's own delay is beyond so many times its limit, and not beyond `below` times."""
    limit = max(LATENESS_FLOOR_NS, LATENESS_TTFT_SHARE * (evidence.median_latency_ns or 0))
    late = evidence.tail_lateness_ns
    if late is not None and factor * limit < late <= below * limit:
        yield (
            f"the client sent late: one request in a hundred by {late / NS_PER_MS:.1f} ms or more (limit {limit / NS_PER_MS:.1f} ms); "
            "use more workers, a lower rate, or give the client cores of its own"
        )


def load_warnings(facts: RunFacts, load: Load, sent_requests: int) -> list[str]:
    """What a reader should know of the arrivals."""
    found = []
    if _other_process(load, ARRIVAL_ALPHA, ARRIVAL_DISTANCE) and not _other_process(load, ARRIVAL_INVALID_ALPHA, ARRIVAL_INVALID_DISTANCE):
        found.append(f"{arrival_text(facts, load)}: slightly off the target process")
    if load.capped_requests:
        found.append(
            f"{load.capped_requests} requests waited for a slot under the cap of {facts.max_concurrency} in flight: "
            "their wait counts in the latency, and the actual rate is set by the system, not by the schedule"
        )
    elif load.count_dispersion is not None and load.expected_dispersion is not None:
        tolerance = dispersion_tolerance(load.expected_dispersion, sent_requests)
        if abs(load.count_dispersion - load.expected_dispersion) > tolerance:
            found.append(
                f"actual arrivals have dispersion {load.count_dispersion:.2f} where {facts.process} has "
                f"{load.expected_dispersion:.2f}: they are not the target process"
            )
    return found


def outcome_warnings(outcomes: Mapping[str, int], scheduled: int, unrecorded: int) -> list[str]:
    """Failures, requests still running, a stop by the user, missing records."""
    sent = sum(outcomes.get(name, 0) for name in SENT)
    found = []
    if sent and outcomes.get("failed", 0) > WARN_FAILURE_SHARE * sent:
        found.append(
            f"{outcomes['failed'] / sent:.1%} of requests failed: percentiles over successes look too good; "
            "read the ones that count failures as infinite"
        )
    if outcomes.get("in_flight", 0):
        found.append(f"{counted(outcomes['in_flight'], 'request')} still running at the drain timeout: the slowest are cut off")
    if outcomes.get("cancelled", 0):
        found.append(f"stopped early: {outcomes['cancelled']} of {scheduled} requests were cancelled")
    if unrecorded:
        found.append(f"{unrecorded} scheduled requests have no record and count as dropped")
    return found


def length_warnings(shorter: int, longer: int, answers: int) -> list[str]:
    """Answers under `ignore_eos` that are off by more than `LENGTH_TOLERANCE` from what was asked."""
    return [
        f"{count} of {answers} responses ({count / answers:.1%}) are more than {LENGTH_TOLERANCE:.0%} {what} than requested under "
        "ignore_eos: the server did a different amount of work; see output tokens and finish reasons in the records"
        for count, what in ((shorter, "shorter"), (longer, "longer"))
        if count > WARN_LENGTH_SHARE * answers
    ]


def autocorrelation_warnings(effective: Sequence[tuple[str, int, int]]) -> list[str]:
    """(metric, count, effective count) of each metric."""
    return [
        f"{name} is autocorrelated: {count} requests say as much about its mean as {worth} independent ones; its intervals account for that"
        for name, count, worth in effective
        if worth < WARN_EFFECTIVE_SHARE * count
    ]
