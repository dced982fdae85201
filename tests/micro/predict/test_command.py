"""`bmp predict` from end to end: real operators on this machine, kept, and a real engine beside them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bytemlperf.errors import UserError
from micro.predict.flags import Flags
from micro.predict.run import run

QUICK = ["--model", "synthetic", "--input-len", "32", "--output-len", "4", "--seconds", "0.02", "--threads", "1"]


def bmp(*args: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", "from bytemlperf.app import main; main()", *args],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def predicted(*args: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(bmp("predict", *QUICK, *args, "--json").stdout)
    return document


@pytest.mark.slow
def test_operators_are_measured_kept_and_compared_with_a_real_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setenv("BMP_CACHE", str(tmp_path / "cache"))
    first = predicted("--precision", "float32")
    for name, pass_ms in (("prefill", first["ttft_ms"]), ("decode", first["tpot_ms"])):
        assert all(part["call_us"] > 0 for part in first[name])
        assert sum(part["calls"] * part["call_us"] for part in first[name]) == pytest.approx(pass_ms * 1000)
        assert {part["source"] for part in first[name]} == {"measured"}
    again = predicted("--precision", "float32", "--check", "transformers", "--runs-dir", str(tmp_path / "runs"))
    assert {part["source"] for part in again["prefill"]} == {"measured before"}
    assert again["ttft_ms"] == first["ttft_ms"]
    summary = json.loads((Path(again["check"]["run"]) / "summary.json").read_text())
    figures = {figure["name"]: figure for figure in again["check"]["figures"]}
    assert figures["TTFT"]["measured"] == summary["metrics"]["ttft"]["mean"] / 1e6
    assert figures["TPOT"]["error"] == pytest.approx(again["engine"]["tpot_ms"] / (summary["metrics"]["tpot"]["mean"] / 1e6) - 1)
    assert again["engine"]["between"]["layers"] == 2
    assert again["engine"]["tpot_ms"] > again["tpot_ms"]
    assert again["check"]["dtype"] == "float32"
    assert summary["outcomes"]["ok"] == 8


@pytest.mark.slow
def test_times_are_taken_from_a_sweep_of_the_operators_that_it_writes_down(tmp_path: Path) -> None:
    model = [*QUICK[:6], "--precision", "float32"]
    workload = bmp("predict", *model, "--workload", str(tmp_path / "cases.json")).stdout.strip()
    sweep = ["--hot", "--threads", "1", "--seconds", "0.02", "--runs-dir", str(tmp_path), "-q"]
    folder = bmp("micro", "run", workload, *sweep).stdout.strip()
    document = json.loads(bmp("predict", *model, "--from-run", folder, "--json").stdout)
    assert {part["source"] for part in document["prefill"] + document["decode"]} == {"run"}
    rows = [json.loads(line) for line in (Path(folder) / "records.jsonl").read_text().splitlines()]
    gemms = {row["latency_us"]["p50"] for row in rows if row["op"] == "gemm"}
    assert {part["call_us"] for part in document["prefill"] if part["op"] == "gemm"} <= gemms
    longer = bmp("predict", *QUICK[:2], "--input-len", "64", "--output-len", "4", "--precision", "float32", "--from-run", folder, expect=2)
    assert longer.stderr.startswith("error: no time for ")
    assert "have neither this one nor two around it" in longer.stderr


def test_a_card_needs_no_torch_and_prints_both_passes() -> None:
    done = bmp("predict", *QUICK[:6], "--card", "h100", "--precision", "bfloat16")
    assert "roofline of NVIDIA H100" in done.stdout
    assert "prefill: 1 x 32 tokens" in done.stdout
    assert "decode: a token each over 33 in the cache" in done.stdout
    assert "predicted: TTFT" in done.stdout


def test_what_no_device_could_hold_is_refused(tmp_path: Path) -> None:
    sizes = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "vocab_size": 128256}
    heads = {"num_attention_heads": 64, "num_key_value_heads": 8}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "torch_dtype": "bfloat16", **sizes, **heads}))
    model = ["--model", str(tmp_path), "--input-len", "1024", "--output-len", "128", "--card", "h100"]
    assert bmp("predict", *model, expect=2).stderr.startswith(
        "error: 141 GB of weights and 0.377 GB of KV cache a rank are more than the 80"
    )
    assert "8 ranks" in bmp("predict", *model, "--tp", "8").stdout


FLAGS = Flags(model="synthetic", seconds=0.02, json=True)


@pytest.mark.parametrize(
    ("flags", "cause"),
    [
        (FLAGS.changed(input_len=4000), "4128 tokens are more than the 2048 that synthetic was made for"),
        (FLAGS.changed(card="h1000"), "there is no card 'h1000'"),
        (FLAGS.changed(check="sglang"), "--check sglang: no such engine to compare with"),
        (FLAGS.changed(check="vllm", threads=7), "vllm binds \\d+ threads here, not 7"),
        (FLAGS.changed(engine="sglang"), "--engine sglang: no such engine to predict"),
        (FLAGS.changed(engine="vllm", check="transformers"), "--engine vllm: no such engine to predict"),
        (FLAGS.changed(engine="vllm", card="h100"), "--engine is measured on this machine"),
        (FLAGS.changed(engine="vllm", output_len=1), "which one output token has not"),
        (FLAGS.changed(check="vllm", card="h100"), "--check compares with an engine on this machine"),
        (FLAGS.changed(from_run=Path("/nowhere"), card="h100"), "--card and --from-run are two different sources"),
        (FLAGS.changed(precision="int3"), "--precision 'int3' is unknown"),
        (FLAGS.changed(from_run=Path("/nowhere")), "/nowhere is not a run folder"),
        (FLAGS.changed(device="tpu"), "there is no device 'tpu'"),
        (FLAGS.changed(tp=3), "--tp 3 does not divide synthetic's 2 attention heads"),
        (FLAGS.changed(providers=("nobody",)), "unknown provider 'nobody'"),
        (FLAGS.changed(workload=Path("/nowhere/cases.json")), "can't write /nowhere/cases.json"),
    ],
)
def test_what_cant_be_is_said_before_anything_is_measured(flags: Flags, cause: str) -> None:
    with pytest.raises(UserError, match=cause):
        run(flags)


def test_bad_input_is_one_line() -> None:
    done = bmp("predict", "--model", "/nowhere", expect=2)
    assert done.stderr.startswith("error: model folder '/nowhere' does not exist"), done.stderr
    assert len(done.stderr.splitlines()) == 1
