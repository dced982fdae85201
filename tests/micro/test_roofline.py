"""Shares of peaks, worked out by hand."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bytemlperf.hardware.peaks import Roof
from micro.command.run import sheet_roof
from micro.roofline import bound, efficiency, shares
from micro.sweep.row import Row
from tests.micro.made import latency

ROOF = Roof(flops_per_s={"float32": 1e12}, bytes_per_s=1e11, link_bytes_per_s=4e9)


def record(**changed: Any) -> Row:
    row = Row(
        op="gemm",
        provider="torch",
        args={},
        key="gemm",
        device="cpu",
        status="ok",
        flops=10**9,
        flops_dtype="float32",
        bytes=10**7,
        write_bytes=0,
        latency_us=latency(2000.0),
        buffers="cold: 3 sets",
        intensity=100.0,
    )
    return msgspec.structs.replace(row, **changed)


def test_mfu_mbu_and_the_roof_that_binds() -> None:
    found = shares(ROOF, record())  # 1e9 FLOPs in 2 ms are 0.5 TFLOP/s, 1e7 bytes 5 GB/s
    assert found == pytest.approx({"mfu": 0.5, "mbu": 0.05, "roof": 0.5})
    row = record(efficiency=efficiency({"measured": ROOF}, record()))
    assert bound(row) == "compute"
    slow = record(flops=10**7, intensity=1.0, latency_us=latency(200.0))
    assert shares(ROOF, slow) == pytest.approx({"mfu": 0.05, "mbu": 0.5, "roof": 0.5})
    assert bound(msgspec.structs.replace(slow, efficiency=efficiency({"measured": ROOF}, slow))) == "memory"


def test_buffers_of_a_cache_have_no_share_of_memory() -> None:
    hot = record(buffers="hot: one set of buffers", intensity=1.0)
    assert set(shares(ROOF, hot)) == {"mfu"}
    assert set(shares(ROOF, record(buffers="warm: 3 sets"))) == {"mfu", "roof"}  # memory can't bind right of the ridge


def test_memory_is_held_against_its_own_share_of_writes() -> None:
    roof = Roof(bytes_per_s=10e9, by_writes=[(0.0, 20e9), (1 / 3, 10e9), (0.5, 8e9)])
    assert roof.memory_bytes_per_s(0.0) == 20e9
    assert roof.memory_bytes_per_s(1 / 3) == 10e9
    assert roof.memory_bytes_per_s(0.9) == 8e9
    assert roof.memory_bytes_per_s(1 / 6) == pytest.approx(1 / (0.5 / 20e9 + 0.5 / 10e9))
    reads = record(flops=0, flops_dtype="", bytes=2 * 10**7, latency_us=latency(1000.0))
    assert shares(roof, reads) == pytest.approx({"mbu": 1.0, "roof": 1.0})


def test_collectives_have_a_share_of_the_link_alone() -> None:
    assert shares(ROOF, record(bus_bw_gbs=1.0)) == pytest.approx({"cbu": 0.25})
    assert shares(Roof(), record(bus_bw_gbs=1.0)) == {}


def test_nothing_is_said_where_a_peak_is_unknown() -> None:
    assert efficiency({}, record()) is None
    assert "roof" not in shares(ROOF, record(flops_dtype="int8", intensity=1.0))
    assert shares(ROOF, record(latency_us=None)) == {}
    assert Roof().ridge("float32") is None


def test_a_spec_card_becomes_a_roof() -> None:
    from bytemlperf.hardware import cards

    roof = sheet_roof(cards.find("nvidia-h100-sxm5"))
    assert roof.flops_per_s["bfloat16"] == 989e12
    assert roof.flops_per_s["tfloat32"] == 494.5e12
    assert "float32" in roof.flops_per_s
    assert roof.bytes_per_s == 3350e9
    assert roof.link_bytes_per_s == 450e9  # 900 both ways
