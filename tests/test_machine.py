"""Free memory as the kernel and the control group tell it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from bytemlperf.child.limits import available_memory_bytes


def test_what_the_control_group_uses_already_is_not_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1 << 20))
    assert available_memory_bytes(tmp_path) == 1 << 20
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("999000\n")
    assert available_memory_bytes(tmp_path) == 1000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory_bytes(tmp_path) == 1 << 20
