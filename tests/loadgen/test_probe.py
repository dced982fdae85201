"""The probe behind `rate: auto`, on a virtual clock against a server of known capacity."""

from __future__ import annotations

import itertools

import pytest

from bytemlperf_llm.loadgen.pacer import LoopPacer
from bytemlperf_llm.loadgen.probe import Probe
from engines.contract import EngineError
from tests.virtual import MS, Script, ScriptedEngine, make_request, run

TEN_TOKENS = Script(tuple((i * 10 * MS, 1) for i in range(1, 11)), reported_tokens=10)  # 100 ms


def find(engine, **kwargs):
    max_tokens = kwargs.pop("max_tokens", 10)

    async def main(loop):
        requests = (make_request(index, max_tokens) for index in itertools.count())
        probe = Probe(engine, requests, LoopPacer(loop.now_ns), loop.now_ns)
        return await probe.find(kwargs.pop("probe_s", 12.0), 0.7, kwargs.pop("mean_output_tokens", 10.0), **kwargs)

    return run(main)


def test_finds_the_capacity_of_a_server_with_eight_slots():
    found = find(ScriptedEngine([TEN_TOKENS], slots=8))
    # eight slots of 100 ms each and ten tokens: 80 requests/s, 800 tokens/s
    assert found.best.tokens_per_s == pytest.approx(800, rel=0.02)
    assert found.rate_per_s == pytest.approx(0.7 * 80, rel=0.02)
    assert [step.concurrency for step in found.steps] == [4, 8, 16], "16 brings nothing over 8, so it stops"


def test_a_server_that_scales_is_probed_to_the_last_step():
    found = find(ScriptedEngine([TEN_TOKENS]))
    assert [step.concurrency for step in found.steps] == [4, 8, 16, 32]
    assert found.best.concurrency == 32


def test_a_cap_on_concurrency_is_kept():
    found = find(ScriptedEngine([TEN_TOKENS]), max_concurrency=6)
    assert [step.concurrency for step in found.steps] == [4, 6]


def test_answers_longer_than_a_step_are_counted_by_their_chunks():
    slow = Script(tuple((i * 200 * MS, 1) for i in range(1, 201)), reported_tokens=200)  # 40 s
    found = find(ScriptedEngine([slow], slots=4), mean_output_tokens=200.0, max_tokens=200)
    assert found.best.tokens_per_s == pytest.approx(20, rel=0.1)  # seven or eight chunks fall into a half step
    assert found.rate_per_s == pytest.approx(0.7 * 20 / 200, rel=0.1)


def test_several_tokens_a_chunk_are_counted_as_tokens():
    batched = Script(((50 * MS, 5), (100 * MS, 5)), reported_tokens=10)
    found = find(ScriptedEngine([batched], slots=4))
    assert found.best.tokens_per_s == pytest.approx(400, rel=0.02)


def test_answers_that_end_early_shorten_the_mean_by_their_share():
    found = find(ScriptedEngine([TEN_TOKENS], slots=8), max_tokens=20, mean_output_tokens=20.0)
    assert found.mean_output_tokens == pytest.approx(10.0)
    assert found.rate_per_s == pytest.approx(0.7 * 80, rel=0.02)


def test_short_answers_that_finish_first_do_not_pass_for_all():
    short = Script(((50 * MS, 1),), reported_tokens=1)
    long = Script(tuple((i * 100 * MS, 1) for i in range(1, 400)), reported_tokens=400)

    async def main(loop):
        requests = (make_request(index, 1 if index % 2 == 0 else 400) for index in itertools.count())
        return await Probe(ScriptedEngine([short, long]), requests, LoopPacer(loop.now_ns), loop.now_ns).find(12.0, 0.7, 200.0)

    assert run(main).mean_output_tokens == pytest.approx(200.0)


def test_an_engine_that_only_fails_is_named():
    with pytest.raises(EngineError) as caught:
        find(ScriptedEngine([Script((), error="http_5xx")]))
    assert caught.value.error_class == "http_5xx"
