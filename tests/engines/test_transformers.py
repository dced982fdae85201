"""transformers in process, on random weights: batched, and one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from engines.contract import EngineError, EngineUnavailable, Model, Sampling
from engines.transformers.engine import TransformersEngine
from tests.engines.inprocess_suite import LONG_TOKENS, InProcessSuite, ask, chat, check_no_model, check_stages, check_unknown_option

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(synthetic: Model) -> AsyncIterator[TransformersEngine]:
    pytest.importorskip("transformers")
    started = TransformersEngine()
    info = await started.start(synthetic, {})
    assert info.notes[0] == "continuous batching"
    assert any("random weights" in note for note in info.notes)
    yield started
    await started.close()
    await started.close()


class TestTransformers(InProcessSuite):
    async def test_stages_lie_between_our_stamps(self, engine: TransformersEngine) -> None:
        for answer in await asyncio.gather(*(ask(engine, chat(index, 12)) for index in range(4))):
            check_stages(answer)

    async def test_another_temperature_is_refused_with_the_option_to_give(self, engine: TransformersEngine) -> None:
        with pytest.raises(EngineError, match=r"--engine-option temperature=0\.7"):
            await ask(engine, chat(1, 4, sampling=Sampling(temperature=0.7)))


async def test_a_temperature_given_as_option_is_honoured(synthetic: Model) -> None:
    engine = TransformersEngine()
    await engine.start(synthetic, {"temperature": "1.0", "seed": "1"})
    try:
        asked = chat(1, 24, sampling=Sampling(temperature=1.0))
        texts = {(await ask(engine, asked)).decoded.text for _ in range(2)}
    finally:
        await engine.close()
    assert len(texts) == 2


async def test_one_at_a_time_streams_samples_and_cancels(synthetic: Model) -> None:
    engine = TransformersEngine()
    info = await engine.start(synthetic, {"batching": "false"})
    assert "one request at a time" in info.notes[0]
    try:
        greedy, other = await asyncio.gather(ask(engine, chat(1, 16)), ask(engine, chat(2, 16)))
        assert (greedy.tokens, other.tokens) == (16, 16)
        assert greedy.recorder.chunk_ns[-1] <= other.recorder.chunk_ns[0]
        seeded = [await ask(engine, chat(3, 16, sampling=Sampling(temperature=1.0, seed=seed))) for seed in (5, 5, 6)]
        assert seeded[0].decoded.text == seeded[1].decoded.text != seeded[2].decoded.text
        stuck = asyncio.create_task(ask(engine, chat(4, LONG_TOKENS)))
        await asyncio.sleep(0.1)
        stuck.cancel()
        assert (await ask(engine, chat(5, 4))).tokens == 4
        assert stuck.cancelled()
    finally:
        await engine.close()
        await engine.close()


async def test_requests_after_close_fail_by_class(synthetic: Model) -> None:
    engine = TransformersEngine()
    await engine.start(synthetic, {})
    unfinished = asyncio.create_task(ask(engine, chat(1, LONG_TOKENS)))
    await asyncio.sleep(0.05)
    await engine.close()
    with pytest.raises(EngineError) as caught:
        await unfinished
    assert caught.value.error_class == "engine_failed"
    with pytest.raises(EngineError):
        await ask(engine, chat(2, 4))


async def test_a_folder_that_is_no_checkpoint_is_named(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("empty")
    engine = TransformersEngine()
    with pytest.raises(EngineUnavailable, match="could not load nothing"):
        await engine.start(Model(name="nothing", path=str(folder)), {})
    await engine.close()


async def test_an_unknown_option_names_the_nearest(synthetic: Model) -> None:
    await check_unknown_option(TransformersEngine(), synthetic, "batchin", "batching")


async def test_a_model_is_needed() -> None:
    await check_no_model(TransformersEngine())


async def test_a_missing_library_names_the_command(monkeypatch: pytest.MonkeyPatch, synthetic: Model) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(EngineUnavailable, match=r"pip install 'bytemlperf-llm\[transformers\]'"):
        await TransformersEngine().start(synthetic, {})
