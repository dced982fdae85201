"""Bad input: one line that names cause and fix, exit status 2, no traceback, before the first request."""

from __future__ import annotations

import socket

import pytest

from tests.cli.helpers import CLOSED, QUICK, bmp

CASES = [
    (("serve-bench", "--engine", "vlm"), "unknown engine 'vlm'", "did you mean 'vllm'"),
    (("serve-bench", "--engine", "reference", "--scenario", "chatt"), "no scenario 'chatt'", "did you mean chat"),
    (("serve-bench", "--engine", "vllm", "--model", "smolm2"), "model 'smolm2' is unknown", "did you mean 'smollm2'"),
    (("serve-bench", "--engine", "reference", "--model", "smollm2"), "has no model", "leave out --model"),
    ((*QUICK, "--num-prompts", "0"), "--num-prompts 0", "1 or more"),
    ((*QUICK, "--num-prompts", "many"), "--num-prompts", "--help"),
    ((*QUICK, "--request-rate", "0"), "--request-rate 0", "above 0"),
    ((*QUICK, "--request-rate", "-1"), "--request-rate -1", "above 0"),
    ((*QUICK, "--request-rate", "nan"), "--request-rate nan", "above 0"),
    ((*QUICK, "--request-rate", "inf"), "--request-rate inf", "--num-prompts"),
    ((*QUICK, "--duration", "-3"), "--duration -3", "above 0"),
    ((*QUICK, "--max-concurrency", "0"), "--max-concurrency 0", "1 or more"),
    ((*CLOSED, "--max-concurrency", "2", "--burstiness", "0.5"), "--burstiness", "--request-rate"),
    ((*QUICK, "--ramp-up-strategy", "linear"), "a ramp needs three flags", "--ramp-up-start-rps"),
    (
        (*QUICK, "--request-rate", "3", "--ramp-up-strategy", "linear", "--ramp-up-start-rps", "1", "--ramp-up-end-rps", "2"),
        "contradict",
        "remove",
    ),
    ((*QUICK, "--ramp-up-strategy", "square", "--ramp-up-start-rps", "1", "--ramp-up-end-rps", "2"), "square", "linear"),
    ((*QUICK, "--goodput", "ttft=5"), "not a service level", "ttft:MS"),
    ((*QUICK, "--max-error-rate", "7"), "--max-error-rate 7", "0 to 1"),
    ((*QUICK, "--prometheus-port", "70000"), "--prometheus-port 70000", "65535"),
    ((*QUICK, "--engine-option", "ttf_ms=3"), "'ttf_ms' is unknown", "did you mean 'ttft_ms'"),
    ((*QUICK, "--engine-option", "itl_ms"), "not KEY=VALUE", "KEY=VALUE"),
    ((*QUICK, "--engine-option", 'headers={"X-Key": "secret"'), "headers is not a JSON object", "--header"),
    ((*QUICK, "--engine-option", "headers=[1]"), "headers is not a JSON object", "--header"),
    ((*QUICK, "--base-url", "http://127.0.0.1:1"), "--base-url is for servers", "--engine openai"),
    ((*QUICK, "--result-dir", "x"), "do nothing alone", "--save-result"),
    ((*QUICK, "--save-result", "--metric-percentiles", "150"), "150", "between 0 and 100"),
    ((*QUICK, "--runs-dir", "/proc/none"), "can't make a run folder", "--runs-dir"),
    ((*QUICK, "--nope"), "No such option: --nope", "--help"),
    (("serve-bench", "--engine", "openai", "--base-url", "http://127.0.0.1:9"), "can't reach 127.0.0.1:9", "start the server"),
    (("serve-bench", "--engine", "openai", "--base-url", "http://no-such-host.invalid"), "name not found", "--base-url"),
    (("serve-bench", "--engine", "openai", "--base-url", "http://[::1"), "--base-url is not an address", "brackets"),
    (("serve-bench", "--engine", "openai", "--api-key-file", "/dev/zero"), "not a regular file", "--api-key-file"),
    (("serve-bench", "--engine", "reference", "--otlp", "http://h/?api-key=sk-1"), "'api-key' in its address", "BMP_PUSH_AUTHORIZATION"),
    (("summarize", "."), "has no run.json", "runs directory"),
    (("summarize", "nowhere"), "does not exist", "runs directory"),
    (("engine", "check", "nope"), "unknown engine", "bmp-llm engines"),
    ((*QUICK, "--remote-write", "http://h"), "No such option: --remote-write", "--otlp"),
    (("frobnicate",), "No such command 'frobnicate'", "--help"),
    (("reference-server", "--engine-option", "ttft_ms=-1"), "ttft_ms='-1'", "another value"),
]


@pytest.mark.parametrize(("words", "cause", "fix"), CASES, ids=[" ".join(case[0])[-60:] for case in CASES])
def test_is_one_line_with_cause_and_fix(words, cause, fix, tmp_path):
    ended = bmp(*words, cwd=tmp_path)
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert ended.returncode == 2, ended.stderr
    assert len(errors) == 1, ended.stderr
    assert cause in errors[0]
    assert fix in errors[0]
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    assert not list(tmp_path.glob("runs/*")), "no run folder is left behind"


def test_a_port_in_use_is_named_before_the_engine_starts(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = bmp(*QUICK, "--prometheus-port", str(port), cwd=tmp_path)
        served = bmp("reference-server", "--port", str(port), cwd=tmp_path)
    assert ended.returncode == served.returncode == 2
    assert f"127.0.0.1:{port}" in ended.stderr
    assert "--prometheus-port" in ended.stderr
    assert "starting engine" not in ended.stderr
    assert "--port" in served.stderr


def test_a_scenario_file_with_a_wrong_key_names_line_and_key(tmp_path):
    from importlib.resources import files

    text = (files("scenarios") / "smoke.yaml").read_text().replace("output_tokens:", "output_token:")
    (tmp_path / "mine.yaml").write_text(text)
    ended = bmp("serve-bench", "--engine", "reference", "--scenario", "mine.yaml", cwd=tmp_path)
    assert ended.returncode == 2
    assert "mine.yaml" in ended.stderr
    assert "output_token" in ended.stderr
    assert "did you mean" in ended.stderr
    assert "line" in ended.stderr or "mine.yaml:" in ended.stderr


def test_a_server_that_is_none_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as mute:  # accepts, never answers: closed at once below
        port = mute.getsockname()[1]
    ended = bmp("serve-bench", "--engine", "openai", "--base-url", f"http://127.0.0.1:{port}", cwd=tmp_path)
    assert ended.returncode == 2
    assert "connection refused" in ended.stderr
