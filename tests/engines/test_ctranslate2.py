"""CTranslate2 in process, on SmolLM2 as its own converter writes it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from bytemlperf.models.forms import converted
from engines.contract import Model, Sampling
from engines.ctranslate2.engine import CTranslate2Engine
from tests.engines.inprocess_suite import InProcessSuite, ask, chat, check_no_model, check_unknown_option

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(smollm2: Model) -> AsyncIterator[CTranslate2Engine]:
    pytest.importorskip("ctranslate2")
    started = CTranslate2Engine()
    info = await started.start(converted(smollm2, started.conversion({}), print), {})
    assert info.dtype == "float32"
    yield started
    await started.close()
    await started.close()


@pytest.mark.slow
class TestCTranslate2(InProcessSuite):
    async def test_real_weights_answer_in_words(self, engine: CTranslate2Engine) -> None:
        answer = await ask(engine, chat(1, 24, "What is the capital of France? Answer in one sentence."))
        assert "Paris" in answer.decoded.text

    async def test_an_answer_ends_by_itself_when_it_may(self, engine: CTranslate2Engine) -> None:
        answer = await ask(engine, chat(1, 120, "What is the capital of France? Reply with one word.", Sampling(ignore_eos=False)))
        assert answer.finish.reason == "stop"
        assert answer.tokens == answer.finish.usage.output_tokens < 120


@pytest.mark.slow
async def test_int8_is_said_and_answers(smollm2: Model) -> None:
    pytest.importorskip("ctranslate2")
    options, engine = {"compute_type": "int8"}, CTranslate2Engine()
    info = await engine.start(converted(smollm2, engine.conversion(options), print), options)
    assert "int8" in info.dtype
    assert (await ask(engine, chat(1, 24, "What is the capital of France?"))).tokens == 24
    await engine.close()


async def test_options_and_model_are_checked() -> None:
    pytest.importorskip("ctranslate2")
    await check_unknown_option(CTranslate2Engine(), None, "num_threads", "threads")
    await check_no_model(CTranslate2Engine())
