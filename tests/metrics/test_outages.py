"""Outages on made-up records: when they begin and end, and what belongs to them."""

from __future__ import annotations

from bytemlperf_llm.metrics.accumulator import Accumulator
from bytemlperf_llm.metrics.outages import Outage, find_outages
from bytemlperf_llm.record.record import RequestRecord

S = 1_000_000_000


def ok(index, sent_s, first_s, end_s):
    return RequestRecord(
        id=f"r{index}", index=index, planned_ns=int(sent_s * S), sent_ns=int(sent_s * S), chunk_ns=[int(first_s * S), int(end_s * S)],
        tokens_per_chunk=[1, 1], end_ns=int(end_s * S), outcome="ok", output_tokens=2,
    )  # fmt: skip


def failed(index, sent_s, end_s, error_class="connection_refused"):
    return RequestRecord(
        id=f"r{index}", index=index, planned_ns=int(sent_s * S), sent_ns=int(sent_s * S), end_ns=int(end_s * S),
        outcome="failed", error_class=error_class,
    )  # fmt: skip


def outages(*records):
    return find_outages(Accumulator().add_all(records))


def test_no_failures_no_outage():
    assert outages(ok(0, 0, 0.1, 0.2), ok(1, 1, 1.1, 1.2)) == []


def test_single_failures_are_none():
    assert outages(failed(0, 0, 0.1), failed(1, 0, 0.2), ok(2, 0, 0.3, 0.4), failed(3, 1, 1.1), failed(4, 1, 1.2)) == []


def test_failures_of_the_clients_own_limits_are_none_of_the_servers():
    own = [failed(i, i, i + 0.1, "client_limit") for i in range(20)]
    assert outages(*own) == []
    mixed = [failed(20, 20, 20.1), failed(21, 21, 21.1), failed(22, 22, 22.1, "client_limit"), failed(23, 23, 23.1), ok(24, 24, 24.5, 25)]
    (found,) = outages(*own, *mixed)
    assert (found.began_ns, found.failed_requests) == (20_100_000_000, 3)


def test_killed_and_started_again():
    records = [ok(i, i, i + 0.1, i + 0.5) for i in range(10)]
    records += [failed(10 + i, 10 + i, 10.25 + i) for i in range(5)]
    records += [ok(15 + i, 15 + i, 15.5 + i, 16 + i) for i in range(5)]
    assert outages(*records) == [Outage(began_ns=10_250_000_000, recovered_ns=15_500_000_000, recovery_ns=5_250_000_000, failed_requests=5)]


def test_an_answer_sent_before_the_outage_does_not_end_it():
    records = (
        [failed(i, i, i + 0.5) for i in range(3)] + [ok(9, -1, 3, 3.5)] + [failed(i, i, i + 0.5) for i in range(4, 8)] + [ok(10, 8, 8.5, 9)]
    )
    (found,) = outages(*records)
    assert (found.began_ns, found.recovered_ns, found.failed_requests) == (S // 2, 8_500_000_000, 7)


def test_one_that_lasts_to_the_end_has_no_recovery():
    (found,) = outages(ok(0, 0, 0.1, 0.2), *(failed(1 + i, 1 + i, 1.5 + i) for i in range(4)))
    assert (found.recovered_ns, found.recovery_ns, found.failed_requests) == (None, None, 4)


def test_two_outages_are_two():
    records = [failed(i, i, i + 0.1) for i in range(3)] + [ok(3, 3, 3.1, 3.2), ok(4, 4, 4.1, 4.2)]
    records += [failed(5 + i, 5 + i, 5.1 + i) for i in range(3)] + [ok(8, 8, 8.1, 8.2)]
    assert [outage.failed_requests for outage in outages(*records)] == [3, 3]
