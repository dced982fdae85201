"""Free memory as the kernel and the control group tell it."""

from __future__ import annotations

from pathlib import Path

from bytemlperf.child.limits import available_memory_bytes


def test_what_the_control_group_uses_already_is_not_free(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 2048 kB\nMemAvailable: 1024 kB\n")
    assert available_memory_bytes(meminfo, tmp_path) == 1 << 20
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("999000\n")
    assert available_memory_bytes(meminfo, tmp_path) == 1000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory_bytes(meminfo, tmp_path) == 1 << 20
    assert available_memory_bytes(tmp_path / "none", tmp_path / "none") is None
