"""vLLM in process, on random weights. One start-up serves all tests that need it."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
import pytest_asyncio

from bytemlperf_llm.metrics.speculation import Drafts, drafts_of
from engines.contract import BadOption, Counted, EngineError, EngineInfo, EngineUnavailable, Model, Thought, parse_options
from engines.vllm.engine import CPU_KV_CACHE_GIB, VllmEngine, VllmOptions, engine_arguments
from engines.vllm.metrics import LatestStats, stages_of
from tests.engines.inprocess_suite import LONG_TOKENS, InProcessSuite, ask, chat, check_no_model, check_stages, check_unknown_option
from tests.listeners import beyond_loopback, listeners

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Started(VllmEngine):
    """The engine, what it said of itself, and what its start wrote to standard output."""

    info: EngineInfo
    start_stdout: bytes


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(synthetic: Model) -> AsyncIterator[Started]:
    pytest.importorskip("vllm")
    started = Started()
    saved = os.dup(1)
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 1)
        try:
            started.info = await started.start(synthetic, {"kv_cache_space_gib": "0.25", "max_num_seqs": "8"})
        finally:
            os.dup2(saved, 1)
            os.close(saved)
        sink.seek(0)
        started.start_stdout = sink.read()
    yield started
    await started.close()


@pytest.mark.slow
class TestVllm(InProcessSuite):
    async def test_says_what_it_runs(self, engine: Started) -> None:
        assert engine.info.device in {"cpu", "cuda"}
        assert engine.info.reports == ["usage", "stages", "stats"]
        assert any("random weights" in note for note in engine.info.notes)
        assert any("prefix caching" in note for note in engine.info.notes)
        assert engine.info.max_model_len

    async def test_stages_lie_between_our_stamps(self, engine: Started) -> None:
        for answer in await asyncio.gather(*(ask(engine, chat(index, 12)) for index in range(4))):
            check_stages(answer)

    async def test_stats_see_running_requests(self, engine: Started) -> None:
        tasks = [asyncio.create_task(ask(engine, chat(index, 200))) for index in range(3)]
        most = 0.0
        while not all(task.done() for task in tasks):
            most = max(most, engine.stats()["running"])
            await asyncio.sleep(0.001)
        assert most >= 1
        assert set(engine.stats()) == {"running", "waiting", "kv_cache_usage", "prefix_cache_hit_rate", "preemptions"}

    async def test_listens_on_loopback_alone(self, engine: Started) -> None:
        await ask(engine, chat(1, 4))
        assert beyond_loopback(listeners(os.getpid())) == set()

    async def test_nothing_reaches_standard_output(self, engine: Started, capfd: pytest.CaptureFixture[str]) -> None:
        assert engine.start_stdout == b""
        await ask(engine, chat(1, 4))
        assert capfd.readouterr().out == ""

    async def test_zz_a_dead_engine_fails_the_request_and_closes_twice(self, engine: Started) -> None:
        """Last of this file: it kills the engine core that the others share."""
        manager = engine._runner.engine_core.resources.engine_manager
        answering = asyncio.create_task(ask(engine, chat(8, LONG_TOKENS * 3)))
        await asyncio.sleep(0.2)
        for process in manager.processes:
            process.kill()
        with pytest.raises(EngineError) as caught:
            await answering
        assert caught.value.error_class == "engine_failed"
        with pytest.raises(EngineError):
            await ask(engine, chat(9, 4))
        await engine.close()
        await engine.close()
        assert not any(process.is_alive() for process in manager.processes)


async def test_an_unknown_option_names_the_nearest(synthetic: Model) -> None:
    await check_unknown_option(VllmEngine(), synthetic, "max_model_length", "max_model_len")


async def test_a_model_is_needed() -> None:
    await check_no_model(VllmEngine())


async def test_a_missing_library_names_the_command(monkeypatch: pytest.MonkeyPatch, synthetic: Model) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(EngineUnavailable, match=r"pip install 'bytemlperf-llm\[vllm"):
        await VllmEngine().start(synthetic, {})


@pytest.mark.parametrize(
    ("key", "value"), [("max_num_seqs", "0"), ("dtype", "int3"), ("enforce_eager", "perhaps"), ("kv_cache_space_gib", "-1")]
)
async def test_values_are_checked_before_vllm_starts(key: str, value: str) -> None:
    with pytest.raises(BadOption, match=key):
        parse_options({key: value}, VllmOptions)


async def test_a_cpu_gets_the_dtype_it_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    options = VllmOptions()
    fast = engine_arguments(options, on_cpu=True, bfloat16=True)
    slow = engine_arguments(options, on_cpu=True, bfloat16=False)
    assert (fast["dtype"], slow["dtype"]) == ("bfloat16", "float32")
    assert fast["enforce_eager"] is True
    assert fast["kv_cache_memory_bytes"] == int(CPU_KV_CACHE_GIB * 2**30)


async def test_a_gpu_keeps_vllms_own_defaults() -> None:
    assert engine_arguments(VllmOptions(), on_cpu=False, bfloat16=False) == {"dtype": "auto", "trust_remote_code": False}


async def test_what_the_user_chose_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "3")
    chosen = parse_options({"dtype": "float32", "enforce_eager": "false"}, VllmOptions)
    arguments = engine_arguments(chosen, on_cpu=True, bfloat16=True)
    assert arguments["dtype"] == "float32"
    assert arguments["enforce_eager"] is False
    assert "kv_cache_memory_bytes" not in arguments
    assert os.environ["VLLM_CPU_KVCACHE_SPACE"] == "3"


async def test_speculative_decoding_is_vllms_own_object() -> None:
    chosen = parse_options({"speculative_config": '{"method": "ngram", "num_speculative_tokens": 4}'}, VllmOptions)
    arguments = engine_arguments(chosen, on_cpu=False, bfloat16=True)
    assert arguments["speculative_config"] == {"method": "ngram", "num_speculative_tokens": 4}
    for odd in ("ngram", "[1]", "{"):
        with pytest.raises(BadOption, match=r"speculative_config.*not a JSON object"):
            engine_arguments(VllmOptions(speculative_config=odd), on_cpu=False, bfloat16=True)


async def test_drafts_are_counted() -> None:
    latest = LatestStats()
    drafted = SimpleNamespace(num_drafts=3, num_draft_tokens=12, num_accepted_tokens=7, num_accepted_tokens_per_pos=[3, 2, 1, 1])
    cache = SimpleNamespace(queries=0, hits=0)
    step = SimpleNamespace(
        num_running_reqs=1, num_waiting_reqs=0, kv_cache_usage=0.5, prefix_cache_stats=cache, spec_decoding_stats=drafted
    )
    for _ in range(2):
        latest.record(step, None)
    assert latest.counts["drafts"] == 6
    assert drafts_of(Counted(counts=dict(latest.counts))) == Drafts(
        drafts=6,
        draft_tokens=24,
        accepted_tokens=14,
        acceptance_length=1 + 7 / 3,
        acceptance_rate=7 / 12,
        acceptance_at=[1, 2 / 3, 1 / 3, 1 / 3],
    )


async def test_reasoning_that_is_marked_in_the_text_is_told_apart() -> None:
    texts = ["<think>", " so", " 42", "</think>", " it is", " 42"]
    payloads = [SimpleNamespace(outputs=[SimpleNamespace(text=text, token_ids=[1, 2], finish_reason=None)]) for text in texts]
    assert VllmEngine().decode(payloads).thought == Thought(first=0, answer=4, tokens=8)
    assert VllmEngine().decode(payloads[1:]).thought is None


async def test_stages_are_integer_nanoseconds_and_absent_when_never_reached() -> None:
    metrics = SimpleNamespace(queued_ts=826.289668095, scheduled_ts=826.289677449, first_token_ts=0.0, last_token_ts=0.0)
    stages = stages_of(metrics)
    assert stages is not None
    assert (stages.queued_ns, stages.scheduled_ns, stages.first_token_ns) == (826_289_668_095, 826_289_677_449, None)
    assert stages_of(None) is None


async def test_stats_keep_the_last_and_sum_the_rest() -> None:
    latest = LatestStats()
    cache = SimpleNamespace(queries=10, hits=4)
    step = SimpleNamespace(num_running_reqs=3, num_waiting_reqs=1, kv_cache_usage=0.5, prefix_cache_stats=cache)
    latest.record(step, SimpleNamespace(num_preempted_reqs=2))
    latest.record(step, SimpleNamespace(num_preempted_reqs=1))
    latest.record(None, None)
    assert latest.as_dict() == {"running": 3, "waiting": 1, "kv_cache_usage": 0.5, "prefix_cache_hit_rate": 0.4, "preemptions": 3}
