"""What page and terminal say of the prefix cache."""

from __future__ import annotations

from typing import Any

import msgspec

from bytemlperf_llm.metrics.prefix import PrefixCache, PrefixFacts, ServerCounts
from bytemlperf_llm.pages.prefix import prefix_rows, prefix_sections
from tests.metrics.test_prefix import of, record
from tests.sessions.graphs import ANSWER, chain, replay


def summary(prefix: PrefixCache) -> dict[str, Any]:
    return {"prefix": msgspec.to_builtins(prefix)}


def test_sums_stand_beside_the_figures_and_tables_of_single_requests_are_a_detail() -> None:
    records = [record(0, 100, 0, 0), record(1, 100, 64, 32, 0), record(2, 100, 64, 96, 0)]
    said = summary(of(records, PrefixFacts(counted=True, server=ServerCounts(query_tokens=300, hit_tokens=128))))
    assert prefix_rows(said) == [
        ["prefix reusable / in blocks / cached", "42.7% / 42.7% / 42.7%"],
        ["prefix cache hits (server's counters)", "42.7%"],
        ["cached before the run", "10.7% of prompt tokens"],
    ]
    reuse, lost = prefix_sections(said)
    assert reuse.detail
    assert list(reuse.rows[-1]) == ["all", 3, 300, "42.7%", "42.7%", "42.7%"]
    assert [list(row) for row in lost.rows] == [["evicted", 32, "10.7%"]]


def test_sessions_have_a_row_for_each_turn() -> None:
    records, _ = replay([(chain("a", 3), 0)], [ANSWER])
    reuse = prefix_sections(summary(of(records)))[0]
    assert [row[0] for row in reuse.rows] == ["1", "2", "3", "all"]
    assert not reuse.detail


def test_nothing_is_shown_where_nothing_could_be_cached_or_nothing_is_known() -> None:
    assert prefix_sections({}) == prefix_rows({}) == []
    assert prefix_sections(summary(of([record(0, 100, 0, 0)]))) == []
