"""llama.cpp in process, on SmolLM2's GGUF as it is and converted. The library is built from source, so these skip where it isn't."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from bytemlperf.errors import UserError
from bytemlperf.models.forms import converted
from engines.contract import EngineUnavailable, Model, Sampling
from engines.llamacpp.engine import LlamaCppEngine, source_of
from tests.engines.inprocess_suite import InProcessSuite, ask, chat, check_no_model, check_unknown_option, settled

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(smollm2: Model) -> AsyncIterator[LlamaCppEngine]:
    pytest.importorskip("llama_cpp")
    started = LlamaCppEngine()
    info = await started.start(smollm2, {"max_num_batched_tokens": "64", "kv_cache_tokens": "9000"})
    assert info.dtype == "Q4_1/Q8_0 weights"
    yield started
    await started.close()
    await started.close()


@pytest.mark.slow
class TestLlamaCpp(InProcessSuite):
    async def test_real_weights_answer_in_words(self, engine: LlamaCppEngine) -> None:
        answer = await ask(engine, chat(1, 24, "What is the capital of France? Answer in one sentence."))
        assert "Paris" in answer.decoded.text

    async def test_an_answer_ends_by_itself_when_it_may(self, engine: LlamaCppEngine) -> None:
        answer = await ask(engine, chat(1, 120, "What is the capital of France? Reply with one word.", Sampling(ignore_eos=False)))
        assert answer.finish.reason == "stop"
        assert answer.tokens < 120

    async def test_a_prompt_of_many_batches_is_whole(self, engine: LlamaCppEngine) -> None:
        answer = await ask(engine, chat(1, 4, "One sentence of many. " * 100))
        assert answer.finish.usage.prompt_tokens > 5 * 64
        assert answer.tokens == 4

    async def test_what_has_no_room_waits_for_those_before_it(self, engine: LlamaCppEngine) -> None:
        large = [asyncio.ensure_future(ask(engine, chat(number, 4_500, sampling=Sampling(temperature=0.5, seed=1)))) for number in range(2)]
        await settled(lambda: engine.stats().get("waiting") == 1.0)
        assert 0.4 < engine.stats()["kv_cache_usage"] < 0.6
        for task in large:
            task.cancel()
        await asyncio.gather(*large, return_exceptions=True)
        await settled(lambda: engine.stats()["kv_cache_usage"] == 0)


@pytest.mark.slow
async def test_the_gguf_is_converted_once_and_named_by_what_it_holds(smollm2: Model) -> None:
    pytest.importorskip("llama_cpp")
    options = {"quantization": "q8_0"}
    form = LlamaCppEngine.conversion(options)
    said: list[str] = []
    model = converted(smollm2, form, said.append)
    assert converted(smollm2, form, pytest.fail).converted == model.converted
    engine = LlamaCppEngine()
    assert (await engine.start(model, options)).dtype == "Q8_0 weights"
    assert "Paris" in (await ask(engine, chat(1, 24, "What is the capital of France? Answer in one sentence."))).decoded.text
    await engine.close()


@pytest.mark.slow
async def test_a_file_that_is_no_gguf_is_one_line(smollm2: Model, tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("llama_cpp")
    broken = tmp_path_factory.mktemp("broken") / "model.gguf"
    broken.write_bytes(b"GGUF, but nothing more")
    with pytest.raises(EngineUnavailable, match=r"can't load model\.gguf"):
        await LlamaCppEngine().start(Model(name="m", path=smollm2.path, gguf_path=str(broken)), {})


async def test_a_model_without_gguf_names_what_works() -> None:
    with pytest.raises(EngineUnavailable, match="has none"):
        source_of(Model(name="m", path="/nowhere"))


async def test_a_quantisation_that_is_none_is_refused_with_those_there_are() -> None:
    with pytest.raises(EngineUnavailable, match="q8_0"):
        LlamaCppEngine.conversion({"quantization": "q9"})
    for form, said in (("awq", "known are gguf, ct2, ort-genai"), ("gguf:q9", "gguf:q8_0"), ("ct2:int8", "give ct2")):
        with pytest.raises(UserError) as refused:
            converted(Model(name="m"), form, pytest.fail)
        assert said in refused.value.fix


async def test_options_are_checked() -> None:
    await check_unknown_option(LlamaCppEngine(), None, "num_threads", "threads")


@pytest.mark.slow
async def test_a_model_is_needed() -> None:
    pytest.importorskip("llama_cpp")
    await check_no_model(LlamaCppEngine())
