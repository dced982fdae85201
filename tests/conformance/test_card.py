"""The capability card: each line right for a server that can and for one that can't; kept, quoted by runs, printed."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from bytemlperf.redaction import Redactor
from bytemlperf_llm.conformance.card import Capability, Card, Subject, card_of
from bytemlperf_llm.conformance.resources import LEAK_HANDLES
from bytemlperf_llm.conformance.subject import Asked
from bytemlperf_llm.conformance.table import PROBES, capability, leaks
from bytemlperf_llm.loadgen.engine_start import start_engine
from engines.contract import Decoded, EngineError, EngineInfo, Finish, Usage
from engines.openai.engine import OpenAIEngine
from tests.cli.helpers import bmp, run_folder
from tests.conformance.capable_server import Capable
from tests.engines.small_server import answering
from tests.launch.test_launch import REFERENCE, free_port

NOT_AVAILABLE = {"stages"}
"""Of any server."""


async def card(server: Capable, names: set[str] | None = None) -> dict[str, Capability]:
    async with answering(server) as small:
        engine = OpenAIEngine()
        try:
            asked = Asked(engine, await start_engine(engine, None, {"base_url": small.url}, Redactor()))
            await asked.settle()
            found = [await capability(probe, asked) for probe in PROBES if names is None or probe.name in names]
        finally:
            await engine.close()
    return {each.name: each for each in found if each is not None}


async def test_a_server_that_can_do_everything_has_every_line():
    found = await card(Capable())
    assert {name: one.detail for name, one in found.items() if one.status != "yes" and name not in NOT_AVAILABLE} == {}
    assert found["stages"].status == "not available"
    assert found["HTTP version"].detail == "HTTP/1.1"
    assert "4,096" in found["model list"].detail
    assert "running, waiting" in found["metrics page"].detail
    assert found["stop reasons"].detail == "length, stop"


LOST = (
    *("streaming order", "usage", "max_tokens", "ignore_eos", "min_tokens", "stop strings", "stop reasons", "several answers (n)"),
    *("logprobs", "seeds", "greedy alone", "tools", "too long a prompt", "errors", "keep-alive", "compression", "metrics page"),
)


@pytest.mark.parametrize("lacking", LOST)
async def test_what_a_server_lacks_is_no(lacking):
    found = (await card(Capable(lacking), {lacking}))[lacking]
    assert found.status == "no"
    assert found.detail
    assert found.broken == (lacking == "max_tokens")


@pytest.mark.parametrize("untold", ["reasoning", "cached tokens"])
async def test_what_a_server_does_not_tell_is_not_available(untold):
    assert (await card(Capable(untold), {untold}))[untold].status == "not available"


class Leaky:
    """Opens a file for each request, streams in one chunk, repeats nothing."""

    weights, options_type = "none", object

    def __init__(self) -> None:
        self.kept: list[socket.socket] = []
        self.count = 0

    async def generate(self, request: Any, recorder: Any) -> Finish:
        self.kept.append(socket.socket())
        self.count += 1
        recorder.sent()
        recorder.chunk(f"{self.count} " * request.max_tokens)
        return Finish(reason="length", usage=Usage(prompt_tokens=3, output_tokens=request.max_tokens))

    def decode(self, payloads: Any) -> Decoded:
        return Decoded(tokens_per_chunk=[len(payload.split()) for payload in payloads], text="".join(payloads))

    async def close(self) -> None:
        for each in self.kept:
            each.close()


async def test_an_engine_that_breaks_the_contract_or_leaks_is_told():
    asked = Asked(Leaky(), EngineInfo(name="leaky", reports=["usage", "stages"]))  # type: ignore[arg-type]
    found = {
        probe.name: await capability(probe, asked) for probe in PROBES if probe.name in ("streaming", "stages", "greedy alone", "usage")
    }
    assert {name: (one.status, one.broken) for name, one in found.items() if one} == {
        "streaming": ("no", True),
        "stages": ("no", True),
        "greedy alone": ("no", False),
        "usage": ("yes", False),
    }
    leaked = await leaks(asked, 5 * LEAK_HANDLES)
    assert leaked.status == "no"
    assert "files +" in leaked.detail
    assert (await leaks(asked, 0)).status == "not available"
    await asked.engine.close()


async def test_an_error_of_the_engine_is_a_line_not_an_end():
    class Failing(Leaky):
        async def generate(self, request: Any, recorder: Any) -> Finish:
            raise EngineError("engine_failed", "out of memory")

    asked = Asked(Failing(), EngineInfo(name="failing"))  # type: ignore[arg-type]
    line = await capability(next(probe for probe in PROBES if probe.name == "seeds"), asked)
    assert line == Capability(name="seeds", status="no", detail="engine_failed: out of memory")


def test_a_card_is_found_again_and_says_what_runs_cannot_tell(tmp_path, monkeypatch):
    monkeypatch.setenv("BMP_CACHE", str(tmp_path))
    subject = Subject(engine="openai", address="127.0.0.1:8000", model="m", version="1")
    assert card_of(subject) is None
    lines = (
        Capability(name="reasoning", status="not available", detail="the server sends no reasoning field"),
        Capability(name="usage", status="yes", detail="as streamed"),
        Capability(name="n", status="no", detail="1 answer"),
    )
    kept = Card(subject=subject, checked_at="2026-12-01T00:00:00+00:00", capabilities=lines)
    kept.keep(tmp_path)
    assert card_of(subject) == kept
    assert kept.missing() == (
        "not available, by the capability card of 2026-12-01: time to first answer token (the server sends no reasoning field)"
    )
    assert json.loads((tmp_path / "capability.json").read_text())["subject"]["version"] == "1"
    subject.file.write_text("{")
    assert card_of(subject) is None


def test_a_check_of_the_reference_engine_passes_and_is_a_run(tmp_path):
    ended = bmp("engine", "check", "reference", "--requests", "40", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "clean shutdown" in ended.stdout
    folder = run_folder(ended.stdout, tmp_path)
    lines = {line["name"]: line for line in json.loads((folder / "capability.json").read_text())["capabilities"]}
    assert lines["stages"]["status"] == lines["no leak"]["status"] == lines["clean shutdown"]["status"] == "yes"
    assert (folder / "report.html").exists()
    assert bmp("verify", str(folder), cwd=tmp_path).returncode == 0


def test_a_server_that_is_launched_is_checked_stopped_and_quoted_by_the_next_run(tmp_path):
    cache = {"BMP_CACHE": str(tmp_path / "cache")}
    at = f"http://127.0.0.1:{free_port()}"
    ended = bmp("engine", "check", "--launch", REFERENCE, "--base-url", at, "--requests", "0", "--json", cwd=tmp_path, env=cache)
    assert ended.returncode == 0, ended.stderr
    lines = json.loads(ended.stdout)["capabilities"]
    assert lines["clean shutdown"]["status"] == "yes"
    assert lines["no leak"]["status"] == "not available"
    load = ("--scenario", "smoke", "--num-prompts", "4", "--request-rate", "50", "--no-report")
    ran = bmp("serve-bench", "--launch", REFERENCE, "--base-url", at, *load, cwd=tmp_path, env=cache)
    notes = json.loads((run_folder(ran.stdout, tmp_path) / "run.json").read_text())["engine"]["notes"]
    assert any("time to first answer token (the server sends no reasoning field)" in note for note in notes)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "nothing to check"),
        (("no-such-engine",), "unknown engine"),
        (("--base-url", "http://127.0.0.1:1"), "can't reach"),
        (("reference", "--requests", "-1"), "below 0"),
    ],
)
def test_what_cannot_be_checked_is_one_line(words, said, tmp_path: Path):
    ended = bmp("engine", "check", *words, cwd=tmp_path)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
