"""Devices, NUMA nodes and links read from made /sys trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from bytemlperf.hardware import devices
from bytemlperf.hardware.devices import accelerators, network_links, numa


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


def pci(root: Path, address: str, kind: str, vendor: str, device: str, **more: str) -> None:
    place = f"bus/pci/devices/{address}"
    write(
        root,
        {
            f"{place}/class": kind,
            f"{place}/vendor": vendor,
            f"{place}/device": device,
            **{f"{place}/{key}": text for key, text in more.items()},
        },
    )


def test_an_amd_accelerator_names_itself_and_its_memory(tmp_path: Path):
    pci(
        tmp_path,
        "0000:05:00.0",
        "0x120000",
        "0x1002",
        "0x74a1",
        product_name="AMD Instinct MI300X OAM",
        mem_info_vram_total="206141652992",
        numa_node="1",
        current_link_speed="32.0 GT/s PCIe",
        max_link_speed="32.0 GT/s PCIe",
        current_link_width="16",
        max_link_width="16",
    )
    (device,) = accelerators(tmp_path)
    assert device["vendor"] == "AMD"
    assert device["name"] == "AMD Instinct MI300X OAM"
    assert device["memory_bytes"] == 206141652992
    assert device["numa_node"] == 1
    assert device["link"] == {"kind": "pcie", "gtransfers_per_s": 32.0, "max_gtransfers_per_s": 32.0, "lanes": 16, "max_lanes": 16}


def test_gaudi_and_neuron_are_named_by_their_drivers(tmp_path: Path):
    pci(tmp_path, "0000:33:00.0", "0x120000", "0x1da3", "0x1020", **{"accel/accel0/device/device_type": "GAUDI2"})
    pci(tmp_path, "0000:34:00.0", "0x120000", "0x1d0f", "0x7164", **{"neuron_device/neuron0/info/architecture/device_name": "Trainium2"})
    assert [device["name"] for device in accelerators(tmp_path)] == ["GAUDI2", "Trainium2"]


def test_consoles_and_other_cards_are_no_accelerators(tmp_path: Path):
    pci(tmp_path, "0000:01:00.0", "0x030000", "0x1a03", "0x2000")  # a server's console
    pci(tmp_path, "0000:00:03.0", "0x030000", "0x1d0f", "0x1111")  # a virtual machine's console
    pci(tmp_path, "0000:02:00.0", "0x020000", "0x8086", "0x1592")  # a network card
    assert accelerators(tmp_path) == []


def test_graphics_of_the_cpu_is_integrated_and_a_name_comes_from_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    listed = tmp_path / "pci.ids"
    listed.write_text("# comment\n8086  Intel Corporation\n\t0bd5  Ponte Vecchio XT\n\t4680  AlderLake-S GT1\n1002  AMD\n\t4680  another\n")
    monkeypatch.setattr(devices, "PCI_IDS", (tmp_path / "absent", listed))
    pci(tmp_path, "0000:00:02.0", "0x030000", "0x8086", "0x4680")
    pci(tmp_path, "0000:29:00.0", "0x030200", "0x8086", "0x0bd5")
    found = accelerators(tmp_path)
    assert [(device["name"], device["integrated"]) for device in found] == [("AlderLake-S GT1", True), ("Ponte Vecchio XT", False)]


def test_numa_nodes_with_cpus_memory_and_distances(tmp_path: Path):
    for node, cpus in ((0, "0-63"), (10, "64-127")):
        write(
            tmp_path,
            {
                f"devices/system/node/node{node}/cpulist": cpus,
                f"devices/system/node/node{node}/meminfo": f"Node {node} MemTotal:       1024 kB\nNode {node} MemFree:  5 kB",
                f"devices/system/node/node{node}/distance": "10 32",
            },
        )
    assert numa(tmp_path) == [
        {"node": 0, "cpus": "0-63", "memory_bytes": 1 << 20, "distances": [10, 32]},
        {"node": 10, "cpus": "64-127", "memory_bytes": 1 << 20, "distances": [10, 32]},
    ]


def test_links_to_other_machines(tmp_path: Path):
    write(tmp_path, {"class/net/eth0/device/numa_node": "0", "class/net/eth0/speed": "200000"})
    write(tmp_path, {"class/net/eth1/device/numa_node": "0", "class/net/eth1/speed": "-1"})  # no cable
    write(tmp_path, {"class/net/lo/speed": "10"})  # no device
    write(tmp_path, {"class/infiniband/mlx5_0/ports/1/rate": "400 Gb/sec (4X NDR)", "class/infiniband/mlx5_0/ports/1/state": "4: ACTIVE"})
    write(tmp_path, {"class/infiniband/mlx5_1/ports/1/rate": "10 Gb/sec", "class/infiniband/mlx5_1/ports/1/state": "1: DOWN"})
    assert network_links(tmp_path) == [
        {"name": "eth0", "kind": "ethernet", "gbits_per_s": 200.0, "numa_node": 0},
        {"name": "mlx5_0/1", "kind": "infiniband", "gbits_per_s": 400.0, "numa_node": None},
    ]


def test_nothing_there_is_nothing_told(tmp_path: Path):
    assert (accelerators(tmp_path), numa(tmp_path), network_links(tmp_path)) == ([], [], [])
