"""Reasoning of known times and tokens: told by streams, by usage alone, by neither."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bytemlperf_llm.metrics.facts import RunFacts
from bytemlperf_llm.metrics.summary import summarize
from bytemlperf_llm.pages.latency import latency_table
from bytemlperf_llm.pages.load import result_table
from bytemlperf_llm.pages.reasoning import reasoning_sections
from tests.metrics.records import MS, answered

FACTS = RunFacts(open_loop=True)


def thinking(index: int, **changes: Any):
    """Due at 100 ms, 30 tokens of reasoning from 150 ms on, an answer of 10 from 450 ms on."""
    due = 100.0 + 1_000 * index
    stamps = [due + 50 + 10 * place for place in range(40)]
    fields = {"reasoning_ns": stamps[0], "answer_ns": stamps[30]}
    told = {name: round(stamp * MS) for name, stamp in fields.items()} | {"streamed_reasoning_tokens": 30}
    return answered(index, due, due, stamps, **(told | changes))


def summary_of(records: Any) -> dict[str, Any]:
    return msgspec.to_builtins(summarize(records, FACTS))


def rows_of(table: Any) -> dict[str, Any]:
    return {row[0]: row[1:] for row in table.rows}


def test_a_stream_that_tells_reasoning_apart_has_both_times_and_both_counts():
    found = summary_of([*(thinking(index) for index in range(20)), answered(20, 30_000, 30_000, [30_050, 30_060])])
    metrics = found["metrics"]
    assert metrics["time_to_first_reasoning_token"]["mean"] == 50 * MS
    assert metrics["time_to_first_answer_token"]["percentiles"]["50"] == 350 * MS
    assert metrics["time_to_first_answer_token"]["count"] == 20
    assert (metrics["reasoning_tokens"]["mean"], metrics["answer_tokens"]["mean"], metrics["answer_tokens"]["unit"]) == (30, 10, "tokens")
    assert found["reasoning"] == {
        "responses": 20,
        "streamed": 20,
        "unanswered": 0,
        "reasoning_tokens": 600,
        "answer_tokens": 200,
        "times_missing": "",
    }
    assert rows_of(latency_table(found))["first token of reasoning"][0][:2] == "50"
    assert rows_of(latency_table(found))["first token of the answer"][0][:3] == "350"
    assert rows_of(result_table(found))["tokens of reasoning / answer"] == [
        "600 / 200 (75.0% of the output; 30 / 10 a response, 20 responses)"
    ]


def test_usage_that_counts_reasoning_otherwise_than_the_stream_is_right():
    found = summary_of([thinking(index, reasoning_tokens=28) for index in range(3)])
    assert (found["reasoning"]["reasoning_tokens"], found["reasoning"]["answer_tokens"]) == (84, 36)


def test_reasoning_that_usage_alone_counts_has_tokens_and_no_times():
    hidden = {"reasoning_ns": None, "answer_ns": None, "streamed_reasoning_tokens": None, "reasoning_tokens": 200, "hidden_tokens": 200}
    found = summary_of([thinking(index, **hidden) for index in range(4)])
    assert "time_to_first_answer_token" not in found["metrics"]
    assert (found["reasoning"]["reasoning_tokens"], found["reasoning"]["answer_tokens"]) == (800, 160)
    row = rows_of(result_table(found))["first token of reasoning, of the answer"]
    (section,) = reasoning_sections(found)
    assert (section.group, rows_of(section)["first token of reasoning, of the answer"]) == ("Latency", row)
    assert row == ["not available: usage alone counts the reasoning of 4 responses: their streams don't show it"]


def test_a_response_that_ended_in_mid_reasoning_has_no_answer():
    found = summary_of([thinking(0), thinking(1, answer_ns=None)])
    assert found["reasoning"]["unanswered"] == 1
    assert [found["metrics"][f"time_to_first_{which}_token"]["count"] for which in ("reasoning", "answer")] == [2, 1]
    assert rows_of(result_table(found))["reasoning without an answer"] == ["1 responses ended in mid-reasoning"]


@pytest.mark.parametrize("reported", [None, 0])
def test_nothing_is_said_where_nothing_reasons(reported):
    found = summary_of([answered(index, index, index, [index + 5, index + 9], reasoning_tokens=reported) for index in range(3)])
    assert (found["reasoning"], reasoning_sections(found)) == (None, [])
    assert not any("reasoning" in name for name in [*found["metrics"], *rows_of(result_table(found))])
