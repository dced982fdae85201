"""Durations that a server told of each request, summed up beside the client's."""

from __future__ import annotations

import msgspec
import pytest

from bytemlperf.runs.kinds import Table
from bytemlperf_llm.metrics.facts import RunFacts
from bytemlperf_llm.metrics.server_tally import MAX_NAMES
from bytemlperf_llm.metrics.server_times import ServerTimes
from bytemlperf_llm.metrics.summary import summarize
from bytemlperf_llm.pages.server_times import server_time_sections
from bytemlperf_llm.record.record import RequestRecord
from engines.contract import ServerFacts
from tests.metrics.records import MS, answered

FACTS = RunFacts(open_loop=False)


def plain(index: int) -> RequestRecord:
    return answered(index, 10.0 * index, 10.0 * index, [10.0 * index + 5, 10.0 * index + 9])


def told(index: int, durations_ms: dict[str, float], **facts: object) -> RequestRecord:
    durations_ns = {name: round(value * MS) for name, value in durations_ms.items()}
    server = msgspec.convert({"durations_ns": durations_ns, **facts}, ServerFacts)
    return msgspec.structs.replace(plain(index), server=server)


def times_of(*records: RequestRecord) -> ServerTimes:
    times = summarize(records, FACTS).server_times
    assert times is not None
    return times


def test_durations_have_exact_percentiles_and_words_of_other_servers_are_ours() -> None:
    times = times_of(told(0, {"queue_time": 1.0}), told(1, {"queue_time": 3.0, "cache": 0.5}), plain(2))
    assert {name: metric.count for name, metric in times.durations.items()} == {"queue": 2, "cache": 1}
    assert times.durations["queue"].mean == pytest.approx(2 * MS)
    assert 0 < times.shares["queue"] < 1


def test_a_duration_longer_than_its_request_is_left_out_and_counted() -> None:
    times = times_of(told(0, {"queue": 3_600_000.0}), told(1, {"queue": 1.0}, refused=2, request_id="theirs"))
    assert times.durations["queue"].count == 1
    assert (times.impossible, times.refused, times.own_ids) == (1, 2, 1)


def test_names_beyond_the_first_are_counted() -> None:
    times = times_of(*(told(index, {f"n{index}": 1.0}) for index in range(MAX_NAMES + 3)))
    assert len(times.durations) == MAX_NAMES
    assert times.unnamed == 3


def test_a_server_that_says_nothing_has_none() -> None:
    assert summarize([plain(0)], FACTS).server_times is None


def test_the_page_has_a_row_for_each_and_says_what_was_left_out() -> None:
    times = times_of(told(0, {"decode": 2.0, "queue": 1.0, "<b>": 1.0}, refused=5))
    (table,) = server_time_sections({"server_times": msgspec.to_builtins(times)})
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == ["queue", "decode", "<b>"]
    assert "5 metrics of Server-Timing were no duration" in table.note
