"""Free memory as the kernel and the control group tell it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from bytemlperf.child.limits import available_memory_bytes, machine_busy_s
from bytemlperf.errors import UserError
from training.plan.memory import Estimate, check_memory


def test_what_the_control_group_uses_already_is_not_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1 << 20))
    monkeypatch.setattr("bytemlperf.child.limits.CGROUP", tmp_path)
    assert available_memory_bytes() == 1 << 20
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("999000\n")
    (tmp_path / "memory.stat").write_text("anon 900000\ninactive_file 64\nactive_file 90\n")
    assert available_memory_bytes() == 1064
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory_bytes() == 1 << 20


def test_training_refuses_what_fits_the_machine_and_not_what_its_control_group_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=64 << 30))
    monkeypatch.setattr("bytemlperf.child.limits.CGROUP", tmp_path)
    for name, content in (("max", 8 << 30), ("current", 6 << 30), ("stat", "inactive_file 0")):
        (tmp_path / f"memory.{name}").write_text(f"{content}\n")
    parts = dict.fromkeys(("gradients_bytes", "optimizer_bytes", "activations_bytes", "temporary_bytes", "process_bytes"), 0)
    needed = Estimate(weights_bytes=3 << 29, **parts)
    check_memory(needed, ranks_here=1, device="cpu", gpu_bytes=None)
    with pytest.raises(UserError, match=r"3\.0 GiB .* needed for 2 ranks .* 2\.0 GiB there"):
        check_memory(needed, ranks_here=2, device="cpu", gpu_bytes=None)


def test_the_machines_work_includes_what_a_hypervisor_took(monkeypatch: pytest.MonkeyPatch) -> None:
    times = SimpleNamespace(user=10.0, nice=1.0, system=2.0, idle=500.0, iowait=60.0, irq=0.25, softirq=0.5, steal=0.25, guest=7.0)
    monkeypatch.setattr("psutil.cpu_times", lambda: times)
    assert machine_busy_s() == 14.0
