"""Counters of made-up machines, and what their differences say."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from micro.measure.conditions import Conditions, Snapshot, between, parse_gpu_state, snapshot
from micro.peaks.machine import default_threads, last_level_cache_bytes

EMPTY = Snapshot(at_s=0.0, mhz=None, throttles=None, quota_us=None, busy_s=None, steal_s=None, own_s=0.0, preempted=0, gpu=None)


def test_what_others_used_is_the_machine_less_ourselves() -> None:
    before = EMPTY._replace(mhz=3000.0, throttles=7, quota_us=0, busy_s=100.0, steal_s=1.0, own_s=5.0)
    after = EMPTY._replace(at_s=2.0, mhz=2000.0, throttles=9, quota_us=500_000, busy_s=107.0, steal_s=2.0, own_s=8.0, preempted=3)
    found = between(before, after)
    assert (found.others_cpus, found.stolen_cpus, found.throttled, found.quota_s, found.preempted) == (2.0, 0.5, 2, 0.5, 3)
    assert found.remark() == (
        "throttled, the container's quota took 0.5 s, the hypervisor took 0.5 CPUs, other processes used 2.0 CPUs, clock 3000 to 2000 MHz"
    )


def test_what_the_machine_hides_is_absent_and_not_zero() -> None:
    found = between(EMPTY, EMPTY._replace(at_s=1.0))
    assert (found.throttled, found.others_cpus, found.mhz, found.gpu_celsius) == (None, None, [], None)
    assert Conditions(seconds=1.0).remark() == ""


def test_a_gpu_that_is_throttled_says_so() -> None:
    state = parse_gpu_state("1410, 0x0000000000000004, 67\n")
    assert state == (1410.0, 4, 67.0)
    assert parse_gpu_state("[N/A], [N/A], 40") is None
    found = between(EMPTY._replace(gpu=(1980.0, 1, 40.0)), EMPTY._replace(at_s=1.0, gpu=state))
    assert (found.throttled, found.mhz, found.gpu_celsius) == (4, [1980.0, 1410.0], 67.0)
    idle = between(EMPTY, EMPTY._replace(at_s=1.0, gpu=(1980.0, 1, 40.0)))
    assert idle.remark() == ""


def test_files_of_the_kernel_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu  100 0 200 900 10 0 50 25 0 0\ncpu0 1\n")
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "proc"))
    monkeypatch.setattr(psutil, "cpu_freq", lambda *, percpu: [SimpleNamespace(current=2500.0) for _ in range(512)])
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.stat").write_text("usage_usec 5\nthrottled_usec 1500\n")
    taken = snapshot(root=tmp_path)
    assert (taken.busy_s, taken.steal_s, taken.mhz, taken.quota_us, taken.throttles) == (3.5, 0.25, 2500.0, 1500, None)


def siblings(root: Path, groups: list[str]) -> None:
    for cpu, text in enumerate(groups):
        (root / f"cpus/cpu{cpu}/topology").mkdir(parents=True)
        (root / f"cpus/cpu{cpu}/topology/thread_siblings_list").write_text(text + "\n")


def test_threads_are_physical_cores_within_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    siblings(tmp_path, ["0,4", "1,5", "2,6", "3,7", "0,4", "1,5", "2,6", "3,7"])
    for node, cpus in enumerate(("0-1,4-5", "2-3,6-7")):
        (tmp_path / f"nodes/node{node}").mkdir(parents=True)
        (tmp_path / f"nodes/node{node}/cpulist").write_text(cpus)
    (tmp_path / "group").mkdir()
    places = {"cpus": tmp_path / "cpus", "nodes": tmp_path / "nodes", "cgroup": tmp_path / "group"}
    assert default_threads(set(range(8)), **places) == (4, "physical cores, on 2 NUMA nodes")
    assert default_threads({0, 1, 4}, **places) == (2, "physical cores")
    (tmp_path / "group/cpu.max").write_text("250000 100000\n")
    assert default_threads(set(range(8)), **places) == (2, "the container's quota")
    (tmp_path / "group/cpu.max").write_text("max 100000\n")
    assert default_threads(set(range(8)), **places)[0] == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert default_threads(set(range(8)), **places) == (3, "OMP_NUM_THREADS")


def test_the_cache_to_turn_through_is_all_that_the_threads_may_fill(tmp_path: Path) -> None:
    for cpu, shared in enumerate(("0-1", "0-1", "2-3", "2-3")):
        for index, size in ((0, "48K"), (3, "32768K")):
            cache = tmp_path / f"cpu{cpu}/cache/index{index}"
            cache.mkdir(parents=True)
            (cache / "size").write_text(f"{size}\n")
            (cache / "shared_cpu_list").write_text(f"{shared if index else cpu}\n")
    assert last_level_cache_bytes(0, tmp_path, set(range(4))) == 64 << 20, "two chiplets"
    assert last_level_cache_bytes(1, tmp_path, set(range(4))) == last_level_cache_bytes(0, tmp_path, {0, 1}) == 32 << 20
    assert last_level_cache_bytes(0, tmp_path / "nowhere", {0}) == 64 << 20, "unknown"
