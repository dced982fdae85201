"""Prices from runs and cards, and what follows from prices: by hand-made numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bytemlperf.errors import UserError
from bytemlperf.hardware import cards
from micro import registry
from micro.cases.case import Case
from micro.measure.timing import Latency
from micro.predict.costs import Call, Modelled, Price, call_of, price_from, prices
from micro.predict.forward import Step
from micro.predict.prediction import Load, predict
from micro.sweep.row import Row, plain_row
from tests.micro.predict.test_forward import shape

GEMM = Step("a gemm", "gemm", {"M": 16, "K": 64, "N": 64, "dtype": "bfloat16"}, 1)


def every_call_takes(microseconds: float) -> Any:
    def pricing(calls: Sequence[Call]) -> list[Price | str]:
        return [Price(microseconds, "a test") for _ in calls]

    return pricing


def test_ttft_tpot_and_throughput_follow_from_the_calls() -> None:
    found = predict(shape(), Load(batch=4, input_len=32, output_len=9), "bfloat16", every_call_takes(10.0), all_hot=True)
    calls = 1 + 1 + 3 * 5 + 2 * 3 + 3 * 3 + 2  # embedding, norm; qkv, rotary, store, attention, o; norms; mlp; head, choice
    assert found.ttft_ms == pytest.approx(calls * 0.01)
    assert found.tpot_ms == pytest.approx(calls * 0.01)
    assert found.e2e_ms == pytest.approx(calls * 0.01 * 9)
    assert found.output_tokens_per_s == pytest.approx(4 * 9 / (calls * 0.01 * 9) * 1000)
    assert next(part.step.args["cache_len"] for part in found.decode if part.step.op == "flash_attention") == 32 + 3  # 32 to 39, the middle


def test_the_operators_intervals_add_up() -> None:
    def pricing(calls: Sequence[Call]) -> list[Price | str]:
        return [Price(10.0, "a test", bounds_us=(9.0, 30.0)) for _ in calls]

    found = predict(shape(), Load(1, 32, 9), "bfloat16", pricing, all_hot=True)
    assert found.ttft_bounds_ms == (pytest.approx(found.ttft_ms * 0.9), pytest.approx(found.ttft_ms * 3))
    assert predict(shape(), Load(1, 32, 9), "bfloat16", every_call_takes(10.0), all_hot=True).tpot_bounds_ms is None


def test_one_token_has_no_decode() -> None:
    found = predict(shape(), Load(1, 32, 1), "bfloat16", every_call_takes(10.0), all_hot=True)
    assert found.tpot_ms is None
    assert found.e2e_ms == found.ttft_ms


def test_a_missing_operator_or_time_is_an_error_and_never_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no time for gemm.*the fan has stopped"):
        prices([GEMM], lambda _calls: ["the fan has stopped"], all_hot=True)
    monkeypatch.delitem(registry.OPERATORS, "swiglu")
    with pytest.raises(UserError, match="the swiglu needs the operator 'swiglu', which bmp micro does not have"):
        predict(shape(), Load(1, 8, 2), "bfloat16", every_call_takes(1.0), all_hot=True)


def known(m: int, call_us: float, *, hot: bool = True, provider: str = "torch", **more: Any) -> Row:
    case = Case(op="gemm", provider=provider, args={**call_of(GEMM, all_hot=True).args, "M": m, **more})
    latency = Latency(p10=None, p50=call_us, p90=None, p99=None, mean=call_us, min=call_us, max=call_us, ci95_low=None, ci95_high=None, n=1)
    row = plain_row(case, "cpu", "ok", "")
    return msgspec.structs.replace(row, latency_us=latency, buffers="hot: one set of buffers" if hot else "cold")


def test_a_sweep_is_interpolated_on_logarithmic_axes_between_neighbours() -> None:
    call = call_of(GEMM, all_hot=True)
    rows = [known(2, 1.0), known(8, 10.0), known(32, 40.0), known(128, 1e6), known(16, 1.0, K=128)]
    price = price_from(call, rows)
    assert isinstance(price, Price)
    assert price.call_us == pytest.approx(20.0)
    assert (price.source, price.remark) == ("interpolated", "between M=8 and 32")
    same = price_from(call, [*rows, known(16, 7.0, hot=False), known(16, 5.0, hot=True)])
    assert isinstance(same, Price)
    assert (same.call_us, same.source, same.remark) == (5.0, "run", "")
    fastest = price_from(call, [known(16, 7.0), known(16, 6.0, provider="onednn", hot=False)])
    assert isinstance(fastest, Price)
    assert (fastest.call_us, fastest.provider, fastest.remark) == (6.0, "onednn", "measured cold")


def test_nothing_is_extrapolated() -> None:
    call = call_of(GEMM, all_hot=True)
    assert "neither this one nor two around it" in str(price_from(call, [known(2, 1.0), known(8, 2.0)]))
    assert "neither this one nor two around it" in str(price_from(call, [known(8, 1.0, K=128), known(32, 2.0, K=128)]))
    assert price_from(call, []) == "the run has no gemm"


CARD = """
name: Mine
vendor: Me
kind: accelerator
sources: {sheet: {title: Data sheet, publisher: Me, url: "https://example.org/sheet.pdf"}}
peaks: [{dtype: bf16, dense_tflops: 1, source: sheet, where: table 1}]
memory_gbytes_per_s: {value: 100, source: sheet, where: table 1}
links: [{name: Wire, gbytes_per_s: 20, direction: both ways, source: sheet, where: table 2}]
"""


def test_a_card_is_modelled_by_its_roofline_and_its_link(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(CARD)
    pricing = Modelled(cards.find("mine", cards.load(tmp_path)))
    small = call_of(GEMM._replace(args={**GEMM.args, "M": 2}), all_hot=False)
    large = call_of(Step("g", "gemm", {"M": 4096, "K": 4096, "N": 4096, "dtype": "bfloat16"}, 1), all_hot=False)
    summed = call_of(
        Step("s", "all_reduce", {"world_size": 4, "batch_size": 1000, "dim_size": 1000, "dtype": "bfloat16"}, 1), all_hot=False
    )
    single = call_of(Step("f", "gemm", {"M": 16, "K": 64, "N": 64, "dtype": "float32"}, 1), all_hot=False)
    *priced, reason = pricing([small, large, summed, single])
    expected_us = [
        (2 * 64 + 64 * 64 + 2 * 64) * 2 / 100e9 * 1e6,
        2 * 4096**3 / 1e12 * 1e6,
        2e6 * 1.5 / 10e9 * 1e6,  # 2(n−1)/n over 10 GB/s one way
    ]
    assert [price.call_us for price in priced if isinstance(price, Price)] == pytest.approx(expected_us)
    assert reason == "the card of Mine has no dense peak of float32"
