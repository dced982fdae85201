"""Servers that a command starts: presets and command lines, and a real one from start to end."""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path

import pytest

from bytemlperf.errors import UserError
from bytemlperf.redaction import Redactor
from bytemlperf_llm.launch.presets import PRESETS, command_of, filled, needs_model, secrets_of
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.plan import resolve
from bytemlperf_llm.run.trust import unconfirmed
from engines.contract import Model
from tests.cli.helpers import bmp

PYTHON = f"{sys.executable} -P -c"
REFERENCE = f"{PYTHON} 'from bytemlperf_llm.cli import main; main()' reference-server --host {{host}} --port {{port}}"
MODEL = Model(name="m", path="/models/m")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def closed(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_fills_in_and_listens_on_the_address_alone(preset):
    model = Model(name="m", path="/models/m", gguf_path="/models/m.gguf")
    words = filled(command_of(preset), model, "m", "127.0.0.1", 8123)
    assert not [word for word in words if "{" in word]
    assert "127.0.0.1" in " ".join(words)
    assert "8123" in " ".join(words)


def test_a_command_line_is_taken_as_the_shell_would_and_a_word_is_a_preset_or_refused():
    assert command_of("vllm serve 'a b' --port {port}") == ["vllm", "serve", "a b", "--port", "{port}"]
    assert filled(["x", "{model}", "--at={host}:{port}", "{other}"], MODEL, "m", "h", 1) == ["x", "/models/m", "--at=h:1", "{other}"]
    assert needs_model(command_of("vllm"))
    assert not needs_model(command_of("ollama"))
    for bad in ("vlm", "unquoted '"):
        with pytest.raises(UserError):
            command_of(bad)
    with pytest.raises(UserError, match="no GGUF file"):
        filled(command_of("llamacpp"), MODEL, "m", "h", 1)


def test_values_of_keys_are_secrets():
    assert secrets_of(["vllm", "serve", "--api-key", "k1", "--hf-token=t1", "--port", "8000", "--keyed", "-x"]) == ["k1", "t1"]


def test_a_plan_that_starts_a_server_asks_it_with_its_own_tokenizer_and_a_folder_can_start_none():
    plan = resolve(Flags(launch="vllm", model="synthetic"))
    assert (plan.engine.name, plan.engine.launch) == ("openai", "vllm")
    assert plan.load.scenario.prompts.tokenizer
    config = {"scenario": {"name": "a", "description": "b"}, "scenario_folder": "builtin"}
    assert "--launch rm -rf x" in unconfirmed(Flags(launch="rm -rf x").recorded(), resolve_config(config))


def resolve_config(config: dict[str, object]) -> dict[str, object]:
    from bytemlperf.checked import plain
    from bytemlperf_llm.plan import scenario

    return config | {"scenario": plain(scenario.load("smoke"))}


def run(tmp_path: Path, launch: str, *more: str):
    port = free_port()
    words = ("--base-url", f"http://127.0.0.1:{port}", "--scenario", "smoke", "--num-prompts", "6", "--request-rate", "50", "--no-report")
    return port, bmp("serve-bench", "--launch", launch, *words, *more, cwd=tmp_path)


def test_a_server_is_started_measured_recorded_and_stopped(tmp_path):
    port, ended = run(tmp_path, REFERENCE + " --engine-option ttft_ms=5", "--metadata", "a=b")
    assert ended.returncode == 0, ended.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    launched = json.loads((folder / "run.json").read_text())["launched"]
    assert launched["command"][-4:] == ["--port", str(port), "--engine-option", "ttft_ms=5"]
    assert launched["ready_s"] > 0
    assert launched["ended"] == ""
    assert (folder / "logs" / "server.log").exists()
    assert closed(port)


def test_a_server_that_ends_says_its_last_words(tmp_path):
    _, ended = run(tmp_path, f"{PYTHON} 'raise SystemExit(\"no such GPU\")'")
    assert ended.returncode == 2
    assert "the server ended while it started: no such GPU" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_server_that_dies_during_the_run_is_said_and_its_requests_are_failures(tmp_path):
    code = 'import threading, os; threading.Timer(6, lambda: (print("out of memory", flush=True), os._exit(3))).start()'
    launch = f"{PYTHON} '{code}; from bytemlperf_llm.cli import main; main()' reference-server --host {{host}} --port {{port}}"
    _, ended = run(tmp_path, launch, "--request-rate", "2", "--num-prompts", "40")
    assert ended.returncode == 4, ended.stderr  # failing
    (folder,) = (tmp_path / "runs").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["outcomes"]["failed"] > 0
    assert any("exit status 3: out of memory" in warning for warning in summary["warnings"])


def test_a_port_in_use_and_another_machine_are_refused_before_anything_starts(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        at = f"http://127.0.0.1:{taken.getsockname()[1]}"
        ended = bmp("serve-bench", "--launch", "sleep 60", "--base-url", at, "--scenario", "smoke", cwd=tmp_path)
    assert ended.returncode == 2
    assert "listens on" in ended.stderr
    away = bmp("serve-bench", "--launch", "sleep 60", "--base-url", "http://192.0.2.1:8000", "--scenario", "smoke", cwd=tmp_path)
    assert away.returncode == 2
    assert "on this machine" in away.stderr


def test_one_that_never_answers_is_given_up_and_stopped(tmp_path):
    began_s = time.monotonic()
    _, ended = run(tmp_path, "sleep 600", "--ready-check-timeout-sec", "1")
    assert ended.returncode == 2
    assert "did not answer" in ended.stderr
    assert time.monotonic() - began_s < 300  # it isn't waited for


def test_keys_of_its_command_line_are_in_no_output(tmp_path):
    _, ended = run(tmp_path, REFERENCE.replace("reference-server", "reference-server --api-key sk-87654321"))
    outputs = [ended.stdout, ended.stderr, *(path.read_text(errors="replace") for path in tmp_path.rglob("run.json"))]
    assert not [text for text in outputs if "sk-87654321" in text]
    assert Redactor(["sk-87654321"])("sk-87654321") != "sk-87654321"
