"""Measured TTFT and TPOT beside the hardware's bound, by hand-made numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from bytemlperf.hardware.peaks import Peak, Peaks
from bytemlperf.models.shape import ModelShape
from bytemlperf.report.gather import view_run
from bytemlperf.runs.kinds import Table, Text
from bytemlperf_llm.metrics.bound import Limits, arithmetic_of, bits_of, bound_of
from bytemlperf_llm.run import limits as limits_module
from bytemlperf_llm.run.limits import limits_of
from engines.contract import Model
from tests.report.made import llm_records, llm_run_json, write_run

SHAPE = ModelShape(
    name="made",
    model_type="llama",
    layers=10,
    hidden=1000,
    intermediate=3000,
    heads=10,
    kv_heads=10,
    head_dim=100,
    vocabulary=10_000,
    dtype="bfloat16",
)
WEIGHTS = 10 * (4 * 1000 * 1000 + 3 * 1000 * 3000) + 10_000 * 1000
PEAK, BANDWIDTH = 1e12, 100e9
LIMITS = Limits(shape=SHAPE, dtype="bfloat16", device="a made card", flops_per_s=PEAK, bytes_per_s=BANDWIDTH)


def summary(ttft_ms: float, tpot_ms: float, tokens_per_s: float = 0.0, **tokens: int) -> dict[str, Any]:
    """Of 10 answers with 100 tokens in and 21 out."""
    return {
        "metrics": {"ttft": {}, "service_ttft": {"mean": ttft_ms * 1e6}, "tpot": {"mean": tpot_ms * 1e6}},
        "outcomes": {"ok": 10},
        "tokens": {"prompt_tokens": 1000, "output_tokens": 210, **tokens},
        "rates": {"output_token_throughput": {"value": tokens_per_s}},
    }


def bound(of: dict[str, Any], limits: Limits = LIMITS) -> Any:
    return bound_of({"limits": msgspec.to_builtins(limits)}, of)


def test_mfu_of_the_prefill_and_mbu_of_the_decode_follow_from_the_shape() -> None:
    found = bound(summary(ttft_ms=100.0, tpot_ms=5.0))
    flops = 2 * (100 * (WEIGHTS - 10**7) + 10**7) + 4 * 10 * 1000 * (100 * 101 / 2)
    assert found.prefill.mfu == pytest.approx(flops / 0.1 / PEAK)
    assert found.prefill.bound_ms == pytest.approx(flops / PEAK * 1e3)
    read_bytes = 2 * (WEIGHTS + 2 * 10 * 1000 * (100 + 10.5 + 1))
    assert (found.decode.batch, found.decode.cached) == (1.0, 110.5)
    assert found.decode.mbu == pytest.approx(read_bytes / 0.005 / BANDWIDTH)
    assert found.sentence == (
        "prefill 26% of peak FLOP/s (MFU), engine overhead 74% of TTFT; decode 57% of memory bandwidth (MBU), hardware limit"
    )


def test_streams_that_decode_together_read_the_weights_once() -> None:
    found = bound(summary(100.0, 10.0, tokens_per_s=400.0))
    assert found.decode.batch == pytest.approx(4.0)
    assert found.decode.mbu == pytest.approx(2 * (WEIGHTS + 4 * 2 * 10 * 1000 * 111.5) / 0.010 / BANDWIDTH)


def test_what_the_prefix_cache_had_is_no_work_and_more_than_possible_is_said() -> None:
    cold, warm = bound(summary(100.0, 5.0)), bound(summary(100.0, 5.0, cached_tokens=500))
    assert (warm.prefill.new, warm.prefill.cached) == (50.0, 50.0)
    assert warm.prefill.mfu == pytest.approx(cold.prefill.mfu / 2, rel=0.05)
    assert "decode 284% of memory bandwidth (MBU), more than a made card can do" in bound(summary(100.0, 1.0)).sentence


def test_quantised_weights_are_as_wide_as_they_are_named() -> None:
    quantised = msgspec.structs.replace(LIMITS, dtype="Q4_1/Q8_0 weights, bfloat16 arithmetic")
    assert [bits_of(name) for name in ("bfloat16", "Q4_1/Q8_0", "awq 4-bit", "IQ2_XXS", "none")] == [16, 4, 4, 2, None]
    assert [arithmetic_of(name) for name in ("float32", quantised.dtype)] == ["float32", "bfloat16"]
    assert bound(summary(100.0, 5.0), quantised).decode.mbu == pytest.approx((WEIGHTS / 2 + 4 * 10**4 * 111.5) / 0.005 / BANDWIDTH)


@pytest.mark.parametrize(
    ("limits", "of", "why"),
    [
        (msgspec.structs.replace(LIMITS, why="nobody knows"), summary(1, 1), "nobody knows"),
        (msgspec.structs.replace(LIMITS, flops_per_s=None), summary(1, 1), "a made card has no known peak of bfloat16"),
        (msgspec.structs.replace(LIMITS, bytes_per_s=None), summary(1, 1), "the memory bandwidth of a made card is not known"),
        (LIMITS, summary(1, 1) | {"tokens": {"prompt_tokens": None}}, "the server doesn't count prompt tokens; give --tokenizer"),
    ],
)
def test_what_is_not_known_is_said(limits: Limits, of: dict[str, Any], why: str) -> None:
    found = bound(of, limits)
    assert found.sentence == f"not available: {why}"
    assert found.prefill is None


def test_a_runs_page_has_the_row_where_the_model_is_known_and_none_where_not(tmp_path: Path) -> None:
    run = llm_run_json() | {"limits": msgspec.to_builtins(LIMITS)}
    sections = view_run(write_run(tmp_path / "known", run, llm_records(100))).sections
    sentence, table = [section for section in sections if section.group == "Engine or hardware"]
    assert isinstance(sentence, Text)
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == ["TTFT, prefill", "TPOT, decode"]
    assert "% of memory bandwidth (MBU)" in sentence.body
    unknown = view_run(write_run(tmp_path / "unknown", llm_run_json(), llm_records(100)))
    assert not [section for section in unknown.sections if section.group == "Engine or hardware"]


CONFIG = """{"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
"vocab_size": 256, "torch_dtype": "bfloat16"}"""


def described(model: str | None = None, card: str | None = None, device: str = "remote", **options: str) -> dict[str, Any]:
    engine = {"device": device, "remote": device == "remote", "dtype": "" if device == "remote" else "bfloat16"}
    return {"config": {"flags": {"model": model, "device": card}, "engine_options": options}, "engine": engine}


def test_a_servers_model_is_known_by_its_folder_and_its_hardware_by_its_card(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(CONFIG)
    assert limits_of(described("somebody/elses-model"), None) is None
    assert limits_of(described(), None) is None
    unknown = limits_of(described(str(tmp_path)), None)
    assert unknown is not None
    assert unknown.why == "the server's hardware is not known; state it with serve-bench --card CARD or CARD*COUNT"
    stated = limits_of(described(str(tmp_path), "h100-sxm5*2"), None)
    assert stated is not None
    assert (stated.dtype, stated.device, stated.why) == ("bfloat16", "2 × NVIDIA H100 SXM5 80GB", "")
    assert (stated.flops_per_s, stated.bytes_per_s) == (pytest.approx(2 * 989.4e12, rel=0.01), pytest.approx(2 * 3.35e12, rel=0.01))


def test_an_engine_on_this_cpu_has_the_peaks_that_were_measured_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "config.json").write_text(CONFIG)
    model = Model(name="mine", path=str(tmp_path))
    unknown = limits_of(described(device="cpu"), model)
    assert unknown is not None
    assert "measure them with: bmp micro gemm -a dtype=bfloat16 --threads" in unknown.why
    peak = Peak(per_s=1e11, case="", provider="", samples=1, measured_at="")
    peaks = Peaks(identity={}, flops={"bfloat16": peak}, memory={"stream_read": peak})
    monkeypatch.setattr(limits_module, "kept", lambda _identity: peaks)
    known = limits_of(described(device="cpu"), model)
    assert known is not None
    assert (known.shape.name, known.flops_per_s, known.bytes_per_s, known.why) == ("mine", 1e11, 1e11, "")
