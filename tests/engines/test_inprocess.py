"""What the in-process engines share, without any engine."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bytemlperf_llm.loadgen.recorder import RequestRecorder
from engines import inprocess
from engines.contract import EngineError, Finish, Message, Model, Request
from engines.processor import cpu_bfloat16_flag


class WordTokenizer:
    """Stands for a Hugging Face tokenizer: one token a word, and notes the thread it ran in."""

    def __init__(self) -> None:
        self.threads: list[int] = []

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        self.threads.append(threading.get_ident())
        return {"input_ids": list(range(len(text.split())))}

    def apply_chat_template(self, messages: list[dict[str, str]], **_options: Any) -> str:
        if messages[0]["content"] == "impossible":
            raise ValueError("roles must alternate")
        return "<user> " + messages[0]["content"] + " <assistant>"


def asking(content: str) -> Request:
    return Request(index=0, id="a", max_tokens=1, messages=(Message(role="user", content=content),))


@pytest.mark.parametrize(("words", "inline"), [(10, True), (1000, False)])
async def test_only_long_prompts_leave_the_event_loop(words: int, inline: bool) -> None:
    raw = WordTokenizer()
    token_ids = await inprocess.ChatTokenizer(raw).encode(asking("word " * words))
    assert len(token_ids) == words + 2
    assert (raw.threads == [threading.get_ident()]) is inline


async def test_a_template_that_refuses_fails_the_request() -> None:
    with pytest.raises(EngineError, match="roles must alternate"):
        await inprocess.ChatTokenizer(WordTokenizer()).encode(asking("impossible"))


def test_the_context_holds_prompt_and_answer_exactly() -> None:
    inprocess.check_context(90, 10, 100)
    inprocess.check_context(90, 10_000, None)
    with pytest.raises(EngineError) as caught:
        inprocess.check_context(90, 11, 100)
    assert caught.value.error_class == "context_length"


async def test_a_stream_stamps_from_another_thread_and_ignores_what_comes_late() -> None:
    recorder = RequestRecorder()
    stream = inprocess.Stream(recorder)
    loop = asyncio.get_running_loop()

    def produce() -> None:
        inprocess.post(loop, stream.chunk, [1, 2])
        inprocess.post(loop, stream.finish, Finish(reason="length"))
        inprocess.post(loop, stream.chunk, [3])
        inprocess.post(loop, stream.fail, "engine_failed", "too late")

    await asyncio.to_thread(produce)
    assert (await stream.wait()).reason == "length"
    assert recorder.payloads == [[1, 2]]
    assert len(recorder.chunk_ns) == 1


def test_posting_to_a_closed_loop_is_nobodys_business() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    called: list[int] = []
    inprocess.post(loop, called.append, 1)
    assert called == []


async def test_a_cancelled_start_discards_what_it_built() -> None:
    proceed, discarded = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def build() -> str:
        proceed.wait(10)
        return "engine"

    kept: list[str] = []

    def discard(built: str) -> None:
        kept.append(built)
        loop.call_soon(discarded.set)

    starting = asyncio.create_task(inprocess.build_in_thread(build, discard))
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    proceed.set()
    await discarded.wait()
    assert kept == ["engine"]


def test_standard_output_is_given_back(capfd: pytest.CaptureFixture[str]) -> None:
    with inprocess.stdout_to_stderr():
        os.write(1, b"chatter of a library\n")
    os.write(1, b"a result\n")
    captured = capfd.readouterr()
    assert captured.out == "a result\n"
    assert captured.err == "chatter of a library\n"


@pytest.mark.parametrize(
    ("cpuinfo", "flag"),
    [
        ("processor: 0\nflags\t\t: fpu avx512f avx512_bf16 amx_tile\n", "avx512_bf16"),
        ("flags : fpu amx_bf16\n", "amx_bf16"),
        ("Features\t: fp asimd bf16\n", "bf16"),
        ("flags : fpu avx2 avx512f\nmodel name : bf16\n", None),
    ],
)
def test_bfloat16_arithmetic_is_read_from_cpuinfo(tmp_path: Path, cpuinfo: str, flag: str | None) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert cpu_bfloat16_flag(tmp_path / "cpuinfo") == flag
    assert cpu_bfloat16_flag(tmp_path / "missing") is None


def test_telemetry_is_off_and_the_hub_too_for_a_local_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DO_NOT_TRACK", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", environment := {"DO_NOT_TRACK": "0"})
    inprocess.quiet_environment(Model(name="org/name"))
    assert environment == {"DO_NOT_TRACK": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
    inprocess.quiet_environment(Model(name="mine", path="/somewhere"))
    assert environment["HF_HUB_OFFLINE"] == "1"


def test_tokens_per_chunk_and_text_of_token_ids() -> None:
    class Joining(inprocess.ChatTokenizer):
        def text(self, token_ids: Sequence[int]) -> str:
            return "-".join(map(str, token_ids))

    engine = inprocess.InProcessEngine()
    assert engine.decode([]).text == ""
    engine._tokenizer = Joining(None)
    decoded = engine.decode([[1], [2, 3], []])
    assert decoded.tokens_per_chunk == [1, 2, 0]
    assert decoded.text == "1-2-3"
