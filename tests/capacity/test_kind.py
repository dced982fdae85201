"""What the probes of a search come to, in words and figures."""

from __future__ import annotations

from typing import Any

import pytest

from bytemlperf.runs.kinds import Text
from bytemlperf.statistics.statistics import wilson
from bytemlperf_llm.capacity.cost import Hardware, Rates
from bytemlperf_llm.capacity.judge import Look, Outcome
from bytemlperf_llm.capacity.kind import KIND, sentence
from bytemlperf_llm.capacity.probe import Probe, Purpose
from bytemlperf_llm.capacity.result import ProbeRow, Question, capacity_of
from bytemlperf_llm.capacity.search import Goal, Search

QUESTION = Question(goal=Goal(), slo_ms={"ttft": 500.0, "tpot": 50.0}, first_load=1.0, hardware=Hardware(tdp_watts=700.0, tdp_source="TDP"))


def row(load: float, outcome: Outcome, missed: float, *, purpose: Purpose = Purpose.RANGE, limited: str = "") -> ProbeRow:
    look = Look(outcome, 1_000, 900, missed, 400.0, steady=True, overloaded=False)
    met = {"ttft": 1 - missed / 2, "tpot": 1 - missed}
    return ProbeRow.of("folder", Probe(load, look, purpose, limited), met, Rates(output_tokens_per_s=100 * load))


def test_the_answer_is_an_interval_with_its_binding_level_and_margins() -> None:
    rows = [row(4.0, Outcome.HOLDS, 0.01), row(8.0, Outcome.FAILS, 0.3)]
    found = capacity_of(QUESTION, rows, "requests")
    assert (found.holds_at_rps, found.fails_at_rps, found.binding) == (4.0, 8.0, "tpot")
    assert found.margins == {"ttft": pytest.approx(0.045), "tpot": pytest.approx(0.04)}
    assert found.cost is not None
    assert found.cost.joules_per_million_output_tokens == pytest.approx(700 / 400 * 1e6)
    assert sentence(found, QUESTION).startswith("holds 4 requests/s, fails 8 (0.95 of requests within ttft:500 tpot:50 ms")


def test_a_range_that_never_overloads_is_at_least() -> None:
    search = Search(Goal(max_requests=6_000), 1.0)
    rows = []
    while (plan := search.plan()) is not None:
        rows.append(row(plan.load, Outcome.HOLDS, 0.0))
        search.tell(rows[-1].probe())
    found = capacity_of(QUESTION, rows, search.stopped_because() or "requests")
    assert len(rows) > 3
    assert found.fails_at is None
    assert sentence(found, QUESTION).startswith(f"at least {rows[-1].load:g} requests/s (")


def test_a_client_that_is_the_limit_says_so_and_is_the_verdict() -> None:
    rows = [row(4.0, Outcome.HOLDS, 0.0), row(8.0, Outcome.HOLDS, 0.0, limited="late")]
    assert "at least 4 requests/s: your client is the limit" in sentence(capacity_of(QUESTION, rows, "client"), QUESTION)
    run: dict[str, Any] = {"config": {"search": {"goal": {}, "slo_ms": {"ttft": 500.0}, "first_load": 1.0}}}
    ended = [({"end": {"stopped_because": reason}} if reason else {}) for reason in ("client", "requests", "")]
    narrow = [row(4.0, Outcome.HOLDS, 0.0), row(4.1, Outcome.FAILS, 0.1)]
    summary = KIND.summarise(run | {"end": {"stopped_because": "within"}}, narrow)
    assert (summary["verdict"], summary["reasons"]) == ("valid", [])
    assert [KIND.summarise(run | end, rows)["verdict"] for end in ended] == ["client-limited", "partial", "partial"]
    assert [KIND.summarise(run | end, rows[1:])["verdict"] for end in ended] == ["client-limited", "invalid", "invalid"]
    assert KIND.summarise(run, rows)["stopped_because"] == "killed"
    summaries = [KIND.summarise(run | ended[0], probes) for probes in (rows, rows[1:])]
    assert [KIND.exit_status(summary) for summary in summaries] == [0, 1]
    sections = KIND.sections(run, summaries[0], rows)
    assert [section.body for section in sections if isinstance(section, Text) and section.title.startswith("Why")] == ["late"]


def test_a_probe_that_was_not_judged_counts_for_its_requests_alone() -> None:
    rows = [row(4.0, Outcome.HOLDS, 0.0), ProbeRow.not_judged("folder", 8.0, Purpose.RANGE, 500, "server")]
    found = capacity_of(QUESTION, rows, "server")
    assert (found.holds_at, found.fails_at, found.requests) == (4.0, None, 1_500)
    assert [probe.note for probe in found.probes] == ["", "server"]


def test_a_confirming_run_that_fails_takes_the_answer_back() -> None:
    rows = [row(2.0, Outcome.HOLDS, 0.0), row(4.0, Outcome.HOLDS, 0.0), row(4.0, Outcome.FAILS, 0.4, purpose=Purpose.CONFIRM)]
    assert capacity_of(QUESTION, rows, "requests").holds_at == 2.0


def test_wilsons_interval() -> None:
    """0 of 10: z²/(n + z²) at most."""
    low, high = wilson(0.0, 10)
    assert low == pytest.approx(0.0, abs=1e-12)
    assert high == pytest.approx(3.8415 / 13.8415, abs=1e-4)
