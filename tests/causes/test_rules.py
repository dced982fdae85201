"""What the rules stand on: spans, slopes, the client's waits, several tests at once, sentences."""

from __future__ import annotations

import msgspec
import numpy
import pytest

from benchmarks.planted import Run, run_of, server_with
from bytemlperf_llm.causes.evidence import Evidence, evidence_of
from bytemlperf_llm.causes.first_token import first_token
from bytemlperf_llm.causes.fits import blocks_of, fit
from bytemlperf_llm.causes.judge import LEAST_REQUESTS, Causes, Finding, Tail, causes_of, corrected
from bytemlperf_llm.causes.spans import Spans
from bytemlperf_llm.metrics.accumulator import Accumulator
from bytemlperf_llm.metrics.load import waits_in_client
from bytemlperf_llm.pages.causes import cause_lines, cause_sections
from bytemlperf_llm.record.gauges import Sample
from tests.metrics.records import answered, failed, poisson_run

MS = 1_000_000


def evidence(run: Run) -> Evidence:
    found = evidence_of(Accumulator().add_all(run.records), None, run.samples, run.connects)
    assert found is not None
    return found


def spans(*pairs: tuple[float, float]) -> Spans:
    begins, ends = numpy.array(pairs or numpy.zeros((0, 2)), "f8").T
    return Spans(begins, ends)


def test_spans_join_cover_and_are_taken_from_each_other():
    some = spans((5, 6), (0, 2), (1, 3), (1.5, 1.8))
    assert list(zip(some.begins, some.ends, strict=True)) == [(0, 3), (5, 6)]
    assert some.within(numpy.array([-1.0, 2.0, 4.0]), numpy.array([10.0, 5.5, 4.5])).tolist() == [4, 1.5, 0]
    assert some.hold(numpy.array([0.0, 2.9, 4.0])).tolist() == [True, True, False]
    left = some.without(spans((1, 2), (5.5, 9)))
    assert list(zip(left.begins, left.ends, strict=True)) == [(0, 1), (2, 3), (5, 5.5)]
    assert len(spans().without(some)) == len(some.without(some)) == 0
    assert some.longer_than(2).ends.tolist() == [3]


def test_a_line_ignores_a_tenth_far_off_and_varies_with_what_is_drawn():
    chance = numpy.random.default_rng(1)
    own, other = chance.uniform(0, 100, (2, 400))
    values = 5 + 2 * own + chance.normal(0, 1, 400)
    values[::10] += 10_000
    line = fit(values, own, other, numpy.ones(400))
    assert line.slopes == pytest.approx([2, 0, 0], abs=0.05)
    low, high = numpy.quantile(line.redrawn(*blocks_of(400, 500))[:, 1] / numpy.ptp(own), (0.025, 0.975))
    assert low < 2 < high < low + 0.1


def test_the_clients_own_delay_and_the_wait_for_its_slot_are_apart():
    late, capped = waits_in_client(Accumulator().add_all([answered(0, 0, 0, [50, 100]), answered(1, 10, 103, [150])]), 1)
    assert late.tolist() == [0, 3 * MS]
    assert capped.tolist() == [0, 90 * MS]


def test_no_millisecond_has_two_causes():
    for cause in ("prefill", "kv cache", "queue"):
        ledger = first_token(evidence(run_of(server_with(cause, 5), 5)))
        taken = sum(part.ms for part in ledger.parts)
        assert (taken <= ledger.ms + 1e-6).all()
        assert all((part.ms >= 0).all() for part in ledger.parts)


def test_the_slope_of_prefill_is_the_planted_one():
    server = server_with("prefill", 3)
    server.budget, server.stamps, server.rate, server.jitter = 1 << 20, False, server.rate / 4, 0.01
    assert evidence(run_of(server, 3)).ms_per_prompt_token * 1e3 == pytest.approx(server.prefill, rel=0.15)


def finding(p_value: float, ms: float = 1.0) -> Finding:
    whole = {"share": 0.9, "low": 0.8, "high": 1.02, "ms": ms, "p_value": p_value, "named": False}
    return Finding(cause="queue", latency="ttft", sentence="They waited.", **whole)


def test_a_cause_is_named_with_all_rules_considered():
    assert [each.named for each in corrected([finding(p) for p in (0.001, 0.012, 0.02, 0.9)])] == [True, True, True, False]
    assert [each.named for each in corrected([finding(p) for p in (0.001, 0.02, 0.02, 0.9)])] == [True, False, False, False]


def test_few_requests_and_no_tokens_have_no_cause():
    assert causes_of(evidence_of(Accumulator().add_all([failed(0, 0, 5)]), None)) is None
    few = causes_of(evidence_of(Accumulator().add_all(poisson_run(LEAST_REQUESTS - 1, 10)), None))
    assert few is not None
    assert (few.findings, few.sentence) == ([], "99 responses are insufficient to tell a cause (100 needed)")


def test_odd_records_are_judged_without_an_error():
    same = [answered(index, index, index, [index, index], prompt_tokens=0) for index in range(150)]
    assert causes_of(evidence_of(Accumulator().add_all(same), None)) is not None
    unknown = [answered(index, None, index, [index + 5], prompt_tokens=None) for index in range(150)]
    assert causes_of(evidence_of(Accumulator().add_all(unknown), 5)) is not None
    huge = [answered(index, index, index, [index + 1 + index % 7 * 1e6], prompt_tokens=1 << 40) for index in range(150)]
    samples = [Sample(at_ns=at * MS, gauges={"kv_cache_usage": at / 100, "decode_preemptions": -at}) for at in (90, 5, 99, 99)]
    assert causes_of(evidence_of(Accumulator().add_all(huge), 5, samples, [(-5, 3)] * 9)) is not None


def test_the_page_has_a_sentence_a_cause_and_the_terminal_the_first():
    both = [finding(0.001, 50.0), msgspec.structs.replace(finding(0.002, 40.0), latency="tpot")]
    other = msgspec.structs.replace(finding(0.003, 3.0), cause="client", sentence="It was late.")
    missed = finding(0.9)
    tails = {"ttft": Tail(quick_ms=1.0, typical_ms=10.0, slow_ms=100.0, told=True)}
    found = Causes(requests=1_000, tails=tails, findings=corrected([*both, other, missed]), sentence="They waited.")
    sections = cause_sections({"causes": msgspec.to_builtins(found)})
    first, second, lead, tested = sections
    assert first.body == (
        "They waited. It accounts for 90 % (80 to 100 %) of the excess time to first token and 90 % (80 to 100 %) of the excess "
        "time per output token of the slowest 10 %."
    )
    assert second.body.startswith("It was late. It accounts for")
    assert lead.body == "The slowest 10 % of 1,000: time to first token 100 ms against 10 ms of a typical request."
    assert [row[-1] for row in tested.rows] == ["yes", "yes", "yes", "no"]
    lines = cause_lines({"causes": msgspec.to_builtins(found)})
    assert [(line.title, line.detail) for line in lines] == [("cause", False), ("another cause", True)]
    none = msgspec.structs.replace(found, findings=[missed], sentence="no clear cause of the slowest 10 % (time to first token)")
    assert cause_sections({"causes": msgspec.to_builtins(none)})[0].body.startswith("No clear cause")
    assert [line.detail for line in cause_lines({"causes": msgspec.to_builtins(none)})] == [True]
    assert cause_sections({}) == cause_lines({}) == []
