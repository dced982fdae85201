"""Where the time went: by an engine's stamps, by what a server told, and by what the client saw; each adds up to the whole."""

from __future__ import annotations

import msgspec
import pytest

from bytemlperf_llm.metrics.accumulator import Accumulator
from bytemlperf_llm.metrics.facts import RunFacts
from bytemlperf_llm.pages.columns import RunColumns
from bytemlperf_llm.pages.stages import stage_sections, stages_of
from bytemlperf_llm.record.record import RequestRecord
from engines.contract import ServerFacts, Stages
from tests.metrics.records import MS, answered

STAMPS = Stages(queued_ns=12 * MS, scheduled_ns=22 * MS, first_token_ns=50 * MS, last_token_ns=80 * MS)


def request(index: int, stages: Stages | None = None, **durations_ms: float) -> RequestRecord:
    """Due at 0, sent at 10 ms, first token at 60 ms, last at 100 ms."""
    durations_ns = {name: round(value * MS) for name, value in durations_ms.items()}
    server = ServerFacts(durations_ns=durations_ns) if durations_ns else None
    return msgspec.structs.replace(answered(index, 0.0, 10.0, [60.0, 100.0]), stages=stages, server=server)


def cut(*records: RequestRecord) -> tuple[dict[str, float], str]:
    """Mean ms of each stage, and the source."""
    columns = RunColumns(Accumulator().add_all(records), RunFacts(open_loop=True))
    stages, source = stages_of(columns)
    return {stage.name: round(float(stage.values_ms.mean()), 6) for stage in stages}, source


def test_an_engines_stamps_cut_the_whole() -> None:
    found, source = cut(request(0, STAMPS))
    assert found == {
        "waiting to be sent": 10,
        "reaching the engine": 2,
        "engine queue": 10,
        "prefill": 28,
        "decode": 30,
        "delivery": 20,
    }
    assert "own timestamps" in source


def test_durations_that_a_server_told_are_cut_out_of_the_time_to_the_first_token() -> None:
    both, source = cut(request(0, queue=5, prefill=30))
    assert both == {"waiting to be sent": 10, "network, front end": 15, "engine queue": 5, "prefill": 30, "decode": 40}
    assert "the server told" in source
    queue, _ = cut(request(0, queue=5))
    assert queue == {"waiting to be sent": 10, "engine queue": 5, "to the first token": 45, "decode": 40}


def test_a_few_requests_without_stages_are_as_the_client_saw_them() -> None:
    found, source = cut(*(request(index, STAMPS) for index in range(19)), request(19))
    assert found["to the first token"] == pytest.approx(50 / 20)
    assert sum(found.values()) == pytest.approx(100)
    assert "1 of 20 requests have none" in source


@pytest.mark.parametrize("more", [{}, {"queue": 5, "prefill": 46}, {"cache": 1}], ids=["nothing", "more than there was", "other words"])
def test_without_what_it_takes_the_stages_are_the_clients(more: dict[str, float]) -> None:
    found, source = cut(request(0, **more))
    assert found == {"waiting to be sent": 10, "to the first token": 50, "decode": 40}
    assert "can't be separated" in source


def test_the_section_has_them() -> None:
    columns = RunColumns(Accumulator().add_all([request(index, queue=5, prefill=30) for index in range(8)]), RunFacts(open_loop=True))
    assert "being prefilled" in str(stage_sections(columns)[0])
