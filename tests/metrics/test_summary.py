"""The whole summary: exact figures, sums, order, bytes."""

from __future__ import annotations

import heapq
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytemlperf.errors import UserError
from bytemlperf.statistics.statistics import PERCENTILE_DEFINITION, parse_percentile
from bytemlperf_llm.metrics.accumulator import OUTCOMES, Accumulator
from bytemlperf_llm.metrics.definitions import FORMULAS
from bytemlperf_llm.metrics.facts import RunFacts, SloMs
from bytemlperf_llm.metrics.summary import Summary, summarize, summary_of
from bytemlperf_llm.record.record import RequestRecord
from engines.contract import Stages
from tests.metrics.records import MS, answered, failed, poisson_run

OPEN = RunFacts(open_loop=True, process="poisson", requested_rate=10.0)


def test_exact_figures_of_a_small_run():
    records = [answered(index, 10 * index, 10 * index, [10 * index + 5 + index, 10 * index + 25 + index]) for index in range(10)]
    summary = summarize(records, RunFacts(open_loop=True, percentiles=("50", "99"), scheduled_requests=10))
    ttft = summary.metrics["ttft"]
    assert (ttft.unit, ttft.count, ttft.mean, ttft.min, ttft.max) == ("ns", 10, 9.5 * MS, 5 * MS, 14 * MS)
    assert ttft.std == pytest.approx(3.0276503541 * MS)
    assert ttft.percentiles == {"50": 9 * MS, "99": "insufficient"}
    assert ttft.ci95["50"] == (6 * MS, 13 * MS)  # X(2) to X(9) of ten
    assert ttft.ci95["99"] == "insufficient"
    assert ttft.formula == FORMULAS["ttft"]
    assert summary.metrics["itl"].mean == summary.metrics["tpot"].mean == 20 * MS
    assert summary.percentile_definition == PERCENTILE_DEFINITION
    assert summary.outcomes == {"ok": 10, "failed": 0, "cancelled": 0, "dropped": 0, "in_flight": 0}
    assert summary.verdict == "valid"


def test_json_has_the_published_keys():
    content = msgspec.to_builtins(summarize(poisson_run(60, 10), OPEN))
    assert {"verdict", "reasons", "metrics", "outcomes", "failures", "warnings"} <= set(content)
    for metric in content["metrics"].values():
        assert {"unit", "count", "mean", "std", "min", "max", "percentiles", "ci95"} <= set(metric)
        assert set(metric["percentiles"]) == {"50", "90", "95", "99", "99.9"}
        assert set(metric["ci95"]) == {"mean", "50", "90", "95", "99", "99.9"}


def test_p99_is_claimed_from_459_requests_on():
    facts = RunFacts(open_loop=True, percentiles=("99",))
    before, after = (summarize(poisson_run(count, 10), facts).metrics["ttft"] for count in (458, 459))
    assert before.percentiles["99"] == before.ci95["99"] == "insufficient"
    low, high = after.ci95["99"]
    assert low <= after.percentiles["99"] <= high == after.max


def freeze_run(rate=100, seconds=60, service_ms=50, connections=10, freeze_ms=(20_000, 30_000)):
    """A server of so many connections that stands still once."""
    records, free = [], [0.0] * connections
    for index in range(rate * seconds):
        planned = index * 1000 / rate
        start = max(planned, heapq.heappop(free))
        end = max(start, freeze_ms[1]) + service_ms if freeze_ms[0] <= start < freeze_ms[1] else start + service_ms
        if start < freeze_ms[0] < end:
            end += freeze_ms[1] - freeze_ms[0]
        heapq.heappush(free, end)
        records.append(answered(index, planned, start, [end]))
    return records


def test_no_coordinated_omission():
    """100 requests/s for 60 s, 50 ms service, a 10 s freeze, ten connections: from planned, p99
    is 9.75 s; from sent it would say 0.05 s."""
    facts = RunFacts(open_loop=True, requested_rate=100, scheduled_requests=6000, max_concurrency=10)
    summary = summarize(freeze_run(), facts)
    assert summary.metrics["e2e"].percentiles["99"] == pytest.approx(9_750 * MS, rel=0.01)
    assert summary.metrics["service_e2e"].percentiles["99"] == pytest.approx(50 * MS, rel=0.01)
    assert summary.metrics["client_lateness"].max == 0
    assert summary.load.capped_requests > 1000
    assert summary.verdict == "valid"


def test_autocorrelation_widens_intervals_and_is_said():
    summary = summarize(freeze_run(), RunFacts(open_loop=True, requested_rate=100, max_concurrency=10))
    e2e = summary.metrics["e2e"]
    assert e2e.effective_count < e2e.count / 10
    assert any("e2e is autocorrelated" in text for text in summary.warnings)
    assert e2e.ci95["99"] == "insufficient"  # one freeze is one event, however many requests it met


def test_a_server_that_takes_no_connection_was_offered_its_load_all_the_same():
    """The outage is the server's: its requests count as failed, and the client's verdict isn't that it sent too few."""
    records = poisson_run(600, 100)
    for place in range(200, 350):
        due_ms = records[place].planned_ns / MS
        records[place] = failed(place, due_ms, due_ms + 0.3, sent_ns=None, error_class="connection_refused")
    summary = summarize(records, RunFacts(open_loop=True, process="poisson", requested_rate=100.0, scheduled_requests=600))
    assert (summary.verdict, len(summary.reasons)) == ("failing", 1)
    assert "150 of 600 requests failed (25.0%, limit 5%)" in summary.reasons[0]
    assert summary.load.offered_rate == pytest.approx(summary.load.planned_rate, rel=0.001)
    assert summary.load.arrival_test.gaps == 599
    assert summary.outcomes["failed"] == 150


def test_failures_count_as_infinite():
    records = [answered(index, index, index, [index + 10]) for index in range(90)]
    records += [failed(90 + index, 90 + index, 100 + index) for index in range(6)]
    records += [failed(96, 96, 120, outcome="in_flight", error_class=None, error_detail="")]
    summary = summarize(records, RunFacts(open_loop=True, percentiles=("50", "90", "95")))
    ttft = summary.metrics["ttft"]
    assert ttft.percentiles == {"50": 10 * MS, "90": 10 * MS, "95": 10 * MS}
    assert ttft.percentiles_with_failures == {"50": 10 * MS, "90": 10 * MS, "95": "inf"}
    assert summary.metrics["schedule_lateness"].percentiles_with_failures is None
    assert any("6.2% of requests failed" in text for text in summary.warnings)


def test_missing_records_count_as_dropped():
    summary = summarize(poisson_run(60, 10), msgspec.structs.replace(OPEN, scheduled_requests=100))
    assert summary.outcomes["dropped"] == 40
    assert (sum(summary.outcomes.values()), summary.scheduled) == (100, 100)
    assert summary.verdict == "invalid"
    assert any("40 scheduled requests have no record" in text for text in summary.warnings)


def test_more_records_than_scheduled_is_invalid():
    records = poisson_run(60, 10)
    assert "do not sum" in summarize(records, msgspec.structs.replace(OPEN, scheduled_requests=59)).reasons[0]
    assert "do not sum" in summarize([*records, records[3]], OPEN).reasons[0]


def test_no_records_at_all():
    summary = summarize([], RunFacts(open_loop=True, scheduled_requests=5))
    assert (summary.verdict, summary.outcomes["dropped"], summary.metrics) == ("invalid", 5, {})
    assert summary.rates["request_throughput"].value is None
    assert "no request was scheduled" in summarize([], RunFacts(open_loop=True)).reasons[0]


@st.composite
def any_records(draw):
    records = []
    for index in range(draw(st.integers(0, 25))):
        outcome = draw(st.sampled_from(OUTCOMES))
        planned = draw(st.none() | st.integers(0, 10**11))
        sent = draw(st.none() | st.integers(0, 10**9))
        sent = None if sent is None else sent + (planned or 0)
        gaps = draw(st.lists(st.integers(0, 10**10), max_size=5))
        chunks = [] if sent is None else [sent + sum(gaps[: place + 1]) for place in range(len(gaps))]
        records.append(
            RequestRecord(
                id=str(index),
                index=index,
                planned_ns=planned,
                sent_ns=sent,
                chunk_ns=chunks,
                tokens_per_chunk=[draw(st.integers(0, 4)) for _ in chunks],
                end_ns=max(chunks, default=sent or planned or 0),
                outcome=outcome,
                error_class="http_5xx" if outcome == "failed" else None,
                error_detail=draw(st.sampled_from(["", "a", "b\nc", "d", "e"])),
                prompt_tokens=draw(st.none() | st.integers(0, 100)),
                output_tokens=draw(st.integers(0, 20)),
                token_source=draw(st.sampled_from(["usage", "chunks"])),
            )
        )
    return records


@settings(deadline=None)
@given(any_records(), st.none() | st.integers(0, 40), st.randoms(use_true_random=False), st.booleans())
def test_any_records_give_one_summary_whatever_their_order(records, scheduled, shuffler, open_loop):
    facts = RunFacts(open_loop=open_loop, scheduled_requests=scheduled, slo_ms=SloMs(ttft=100), max_concurrency=3, requested_rate=2)
    summary = summarize(records, facts)
    assert sum(summary.outcomes.values()) == summary.scheduled == max(scheduled or 0, len(records))
    shuffled = list(records)
    shuffler.shuffle(shuffled)
    assert msgspec.json.encode(summarize(shuffled, facts)) == msgspec.json.encode(summary)
    assert msgspec.json.encode(msgspec.json.decode(msgspec.json.encode(summary), type=Summary)) == msgspec.json.encode(summary)


def test_numbers_given_as_int_or_float_give_the_same_bytes():
    records = poisson_run(60, 10)
    as_int = RunFacts(open_loop=True, requested_rate=10, loop_utilisation=0, slo_ms=SloMs(ttft=100))
    as_float = msgspec.json.decode(msgspec.json.encode(as_int).replace(b":10,", b":10.0,"), type=RunFacts)
    assert msgspec.json.encode(summarize(records, as_int)) == msgspec.json.encode(summarize(records, as_float))


def test_batched_tokens_are_counted_and_said():
    summary = summarize(poisson_run(60, 10, tokens=8, batch=3), OPEN)
    assert summary.tokens.batched_token_share == 1.0
    assert summary.metrics["itl"].count == 60 * 23
    assert summary.metrics["inter_chunk_latency"].count == 60 * 7
    assert summary.metrics["itl"].mean < summary.metrics["inter_chunk_latency"].mean / 3
    assert any("bursts of several" in text for text in summary.warnings)


def test_single_token_chunks_make_both_latencies_one():
    summary = summarize(poisson_run(60, 10), OPEN)
    itl, raw = summary.metrics["itl"], summary.metrics["inter_chunk_latency"]
    assert (raw.percentiles, raw.formula) == (itl.percentiles, FORMULAS["inter_chunk_latency"])


def test_token_disagreement_is_flagged_beyond_half_a_percent():
    def disagreement(extra):
        records = [answered(index, index, index, [index + token for token in range(1, 101)]) for index in range(10)]
        for record in records[:extra]:
            record.output_tokens += 1
        return summarize(records, OPEN)

    assert not any("differ" in text for text in disagreement(5).warnings)
    flagged = disagreement(6)
    assert flagged.tokens.usage_disagreement == pytest.approx(6 / 1006)
    assert any("differ by 0.6%" in text for text in flagged.warnings)


def test_failures_by_class_with_first_lines():
    details = ["one\nmore", "two", "one", "three", "four", "x" * 500]
    records = [failed(index, index, index + 1, error_detail=detail) for index, detail in enumerate(details)]
    records += [failed(10, 10, 11, error_class="tls", error_detail=""), failed(11, 11, 12, error_class=None)]
    random.Random(1).shuffle(records)
    failures = summarize(records, OPEN).failures
    assert {name: failure.count for name, failure in failures.items()} == {"http_5xx": 6, "tls": 1, "unclassified": 1}
    assert failures["http_5xx"].details == ["one", "two", "three"]
    assert failures["tls"].details == []


def test_stage_shares_sum_to_one():
    stages = Stages(queued_ns=2 * MS, scheduled_ns=5 * MS, first_token_ns=9 * MS, last_token_ns=19 * MS)
    summary = summarize([answered(0, 0, 1, [10, 20], stages=stages), answered(1, 0, 1, [10, 20])], OPEN)
    assert summary.stage_shares == {
        "schedule": 0.05,
        "stage_send": 0.05,
        "stage_queue": 0.15,
        "stage_prefill": 0.2,
        "stage_decode": 0.5,
        "stage_deliver": 0.05,
    }
    assert summary.metrics["stage_decode"].mean == 10 * MS
    assert summarize(poisson_run(5, 1), OPEN).stage_shares is None


def test_a_bad_percentile_is_named():
    with pytest.raises(UserError, match="out of range"):
        summarize(poisson_run(5, 1), RunFacts(open_loop=True, percentiles=("0",)))


def test_a_chunk_of_10_to_the_9_tokens_is_counted_and_not_listed():
    """Usage or a record may claim any number: the summary takes no longer and no more memory."""
    records = poisson_run(60, 10, tokens=4)
    for record in records:
        record.tokens_per_chunk = [1, 1, 10**9, 1]
        record.output_tokens = sum(record.tokens_per_chunk)
    acc = Accumulator().add_all(records)
    summary = summary_of(acc, OPEN)
    assert summary.metrics["itl"].count == 60 * (10**9 + 2)
    assert summary.metrics["itl"].max == max(record.chunk_ns[place] - record.chunk_ns[place - 1] for record in records for place in (1, 3))
    assert len(acc.itl._values) <= 60 * 4
    assert summary.rates["output_token_throughput"].overall == pytest.approx(
        60 * (10**9 + 3) / (summary.steady_state.whole.length_ns / 1e9)
    )


def test_no_percentile_of_tokens_is_claimed_behind_one_that_is_not(monkeypatch):
    """Values that hang together at p95 and not at p99 would give a p99 without a p95."""
    worths = {"50": 1e6, "90": 1e6, "95": 10.0, "99": 1e6, "5": 1e6}
    asked = []

    def worth(_at_most, _sizes, share):
        text = next(text for text in worths if parse_percentile(text) == share)
        asked.append(text)
        return worths[text]

    monkeypatch.setattr("bytemlperf_llm.metrics.describe.effective_count", worth)
    summary = summarize(poisson_run(60, 10), RunFacts(open_loop=True, percentiles=("5", "50", "90", "95", "99")))
    claims = summary.metrics["itl"].percentiles
    assert {text for text, value in claims.items() if value == "insufficient"} == {"95", "99"}
    assert list(claims) == ["5", "50", "90", "95", "99"]
    assert asked == ["50", "90", "5", "95"]
