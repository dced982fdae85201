"""Classes and endpoints side by side: what of their figures is shown."""

from __future__ import annotations

from typing import Any

import msgspec

from bytemlperf.runs.kinds import Table
from bytemlperf_llm.metrics.facts import RunFacts
from bytemlperf_llm.metrics.summary import summarize
from bytemlperf_llm.pages.groups import group_sections
from tests.metrics.records import answered, failed
from tests.metrics.test_groups import FACTS, RECORDS


def tables(records: list[Any], facts: RunFacts = FACTS) -> list[Table]:
    return [section for section in group_sections(msgspec.to_builtins(summarize(records, facts))) if isinstance(section, Table)]


def test_a_class_without_requests_has_a_row_too() -> None:
    classes, endpoints = tables(RECORDS)
    assert [row[:4] for row in classes.rows] == [["fast", "12.5%", 2, 0], ["slow", "37.5%", 4, 1], ["none", "50.0%", 0, 0]]
    assert (classes.columns[-1], [row[-1] for row in classes.rows]) == ("within SLO", ["50.0%", "50.0%", None])
    assert "Jain's fairness index: 1.000 (1: equal)" in classes.note
    assert [row[0] for row in endpoints.rows] == ["h:1", "h:2"]
    assert endpoints.columns[endpoints.columns.index("TTFT p50") + 1] == "TTFT p90"


def test_the_highest_percentile_that_all_groups_carry_is_shown() -> None:
    many = [answered(index, index, index, [index + 50, index + 60], endpoint=f"h:{index % 2}") for index in range(200)]
    (endpoints,) = tables(many, RunFacts(open_loop=True))
    assert "TTFT p95" in endpoints.columns


def test_nothing_is_shown_of_one_kind_and_one_place() -> None:
    assert tables([answered(0, 0, 0, [5])], RunFacts(open_loop=True)) == []


def test_where_all_failed_there_is_no_latency() -> None:
    (endpoints,) = tables([failed(0, 0, 5, endpoint="h:1")], RunFacts(open_loop=True))
    assert endpoints.columns == ["endpoint", "requests", "failed"]
