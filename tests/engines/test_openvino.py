"""OpenVINO GenAI in process, on SmolLM2's GGUF. One start-up serves all tests that need it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from engines.contract import EngineError, EngineUnavailable, Model, Sampling
from engines.openvino.engine import OpenVinoEngine, OpenVinoOptions, device_properties, source_of
from engines.steps import StepLoop
from tests.engines.inprocess_suite import LONG_TOKENS, InProcessSuite, ask, chat, check_no_model, check_unknown_option

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(smollm2: Model) -> AsyncIterator[OpenVinoEngine]:
    pytest.importorskip("openvino_genai")
    started = OpenVinoEngine()
    info = await started.start(smollm2, {})
    assert info.dtype.startswith("Q4_1/Q8_0 weights, ")
    assert info.notes[0] == "continuous batching"
    assert info.notes[1].endswith(".gguf")
    yield started
    await started.close()
    await started.close()


@pytest.mark.slow
class TestOpenVino(InProcessSuite):
    async def test_real_weights_answer_in_words(self, engine: OpenVinoEngine) -> None:
        answer = await ask(engine, chat(1, 24, "What is the capital of France? Answer in one sentence."))
        assert "Paris" in answer.decoded.text

    async def test_an_answer_ends_by_itself_when_it_may(self, engine: OpenVinoEngine) -> None:
        answer = await ask(engine, chat(1, 120, "What is the capital of France?", Sampling(ignore_eos=False)))
        assert answer.finish.reason == "stop"
        assert answer.tokens < 120

    async def test_stats_see_running_requests(self, engine: OpenVinoEngine) -> None:
        tasks = [asyncio.create_task(ask(engine, chat(index, 48))) for index in range(3)]
        most = 0.0
        while not all(task.done() for task in tasks):
            most = max(most, engine.stats().get("running", 0.0))
            await asyncio.sleep(0.001)
        assert most >= 1
        assert 0 < engine.stats()["kv_cache_usage_max"] < 1

    async def test_zz_closing_fails_what_is_unfinished(self, engine: OpenVinoEngine) -> None:
        """Last of this file: it ends the pipeline that the others share."""
        unfinished = asyncio.create_task(ask(engine, chat(1, LONG_TOKENS)))
        await asyncio.sleep(0.1)
        await engine.close()
        with pytest.raises(EngineError) as caught:
            await unfinished
        assert caught.value.error_class == "engine_failed"
        with pytest.raises(EngineError):
            await ask(engine, chat(2, 4))


class BrokenStepper:
    """Takes requests, then fails in its first step."""

    def add(self, _job: Any) -> None:
        return None

    def step(self) -> None:
        raise RuntimeError("out of luck")


class Listening:
    """Stands for a Stream: keeps how the request failed."""

    def __init__(self) -> None:
        self.failed = asyncio.get_running_loop().create_future()

    def fail(self, error_class: str, detail: str) -> None:
        if not self.failed.done():
            self.failed.set_result((error_class, detail))


async def test_a_failing_step_fails_every_request_and_the_next() -> None:
    loop = StepLoop(BrokenStepper(), asyncio.get_running_loop(), "broken")  # type: ignore[arg-type]
    streams = [Listening(), Listening()]
    for stream in streams:
        loop.submit([1], 1, chat(1, 4), stream)  # type: ignore[arg-type]
    assert await streams[0].failed == ("engine_failed", "RuntimeError: out of luck")
    assert (await streams[1].failed)[0] == "engine_failed"
    await asyncio.to_thread(loop.stop)
    with pytest.raises(EngineError):
        loop.submit([1], 1, chat(1, 4), Listening())  # type: ignore[arg-type]


async def test_a_model_without_gguf_or_ir_names_what_works() -> None:
    with pytest.raises(EngineUnavailable, match=r"'synthetic' has neither.*--model smollm2"):
        await OpenVinoEngine().start(Model(name="synthetic", path="/nowhere"), {})


async def test_an_ir_folder_goes_before_the_gguf(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("ir")
    model = Model(name="mine", path=str(folder), gguf_path="/some/file.gguf")
    assert str(source_of(model)) == "/some/file.gguf"
    (folder / "openvino_model.xml").write_text("<net/>")
    assert source_of(model) == folder


async def test_options_become_openvinos_properties() -> None:
    properties = device_properties(OpenVinoOptions(threads=3, dtype="bfloat16", kv_cache_dtype="u8"))
    assert properties == {"INFERENCE_NUM_THREADS": 3, "INFERENCE_PRECISION_HINT": "bf16", "KV_CACHE_PRECISION": "u8"}
    assert device_properties(OpenVinoOptions(device="GPU")) == {}


async def test_an_unknown_option_names_the_nearest() -> None:
    await check_unknown_option(OpenVinoEngine(), None, "num_threads", "threads")


async def test_a_model_is_needed() -> None:
    await check_no_model(OpenVinoEngine())


async def test_a_missing_library_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(EngineUnavailable, match=r"pip install 'bytemlperf-llm\[openvino\]'"):
        await OpenVinoEngine().start(Model(name="m", gguf_path="/some.gguf"), {})
