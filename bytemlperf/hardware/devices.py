"""Accelerators other than through nvidia-smi, NUMA nodes and links, as the kernel shows them below /sys.

Nothing is measured and no tool is started: names, memory, link widths and speeds are what drivers
declare. Every function takes the root to read below, so that a test can hand it a made tree.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

SYS = Path("/sys")
PCI_IDS = (Path("/usr/share/misc/pci.ids"), Path("/usr/share/hwdata/pci.ids"))

VENDORS = {
    "0x10de": "NVIDIA",
    "0x1002": "AMD",
    "0x8086": "Intel",
    "0x1da3": "Intel",  # Habana Labs
    "0x1d0f": "AWS",
    "0x19e5": "Huawei",
    "0x1ae0": "Google",
    "0x17cb": "Qualcomm",
    "0x1d95": "Graphcore",
}
"""PCI vendor ids of those who make accelerators."""

DISPLAY, COMPUTE_3D, ACCELERATOR = "0x0300", "0x0302", "0x1200"
"""PCI classes: VGA controller, 3D controller, processing accelerator."""

DISPLAY_VENDORS = ("0x10de", "0x1002", "0x8086")
"""Whose VGA controllers can compute; others' are consoles of servers and virtual machines."""

NAME_FILES = ("product_name", "device_type", "info/architecture/device_name")
"""Below the device: amdgpu, habanalabs, neuron."""

NAMED_BELOW = ("accel/accel*/device", "neuron_device/neuron*", "habanalabs/hl*")
MEMORY_FILES = ("mem_info_vram_total", "lmem_total_bytes")


def accelerators(root: Path = SYS) -> list[dict[str, object]]:
    """PCI devices that compute: vendor, name, pci, driver, memory_bytes, numa_node, integrated, link.

    Keys hold None where the driver says nothing. NVIDIA's appear here too, with `gpus` of `discover()`
    telling more where their driver is loaded.
    """
    return [_accelerator(device) for device in sorted((root / "bus/pci/devices").glob("*")) if _computes(device)]


def numa(root: Path = SYS) -> list[dict[str, object]]:
    """NUMA nodes: node, cpus (the kernel's list), memory_bytes, distances to all nodes."""
    nodes = sorted((root / "devices/system/node").glob("node[0-9]*"), key=lambda path: int(path.name[4:]))
    return [
        {
            "node": int(node.name[4:]),
            "cpus": text_of(node / "cpulist") or None,
            "memory_bytes": _node_memory(text_of(node / "meminfo")),
            "distances": [int(distance) for distance in text_of(node / "distance").split()],
        }
        for node in nodes
    ]


def network_links(root: Path = SYS) -> list[dict[str, object]]:
    """Links to other machines: physical Ethernet ports and InfiniBand ports with a link. Rates in Gbit/s, as declared."""
    ethernet = ((port.name, "ethernet", (_number(port / "speed") or 0) / 1000, port) for port in sorted((root / "class/net").glob("*")))
    infiniband = (
        (f"{port.parents[1].name}/{port.name}", "infiniband", _leading_number(text_of(port / "rate")) or 0, port.parents[1])
        for port in sorted((root / "class/infiniband").glob("*/ports/*"))
        if "ACTIVE" in text_of(port / "state")
    )
    return [
        {"name": name, "kind": kind, "gbits_per_s": rate, "numa_node": _numa_node(port / "device")}
        for name, kind, rate, port in (*ethernet, *infiniband)
        if rate > 0 and (kind == "infiniband" or (port / "device").exists())
    ]


def _computes(device: Path) -> bool:
    kind, vendor = text_of(device / "class")[:6], text_of(device / "vendor")
    return vendor in VENDORS and (kind in (COMPUTE_3D, ACCELERATOR) or (kind == DISPLAY and vendor in DISPLAY_VENDORS))


def _accelerator(device: Path) -> dict[str, object]:
    vendor, number = text_of(device / "vendor"), text_of(device / "device")
    driver = device / "driver"
    return {
        "vendor": VENDORS[vendor],
        "name": _declared_name(device) or _listed_name(vendor, number) or f"{VENDORS[vendor]} {vendor}:{number}",
        "pci": device.name,
        "driver": driver.resolve().name if driver.exists() else None,
        "memory_bytes": _memory(device),
        "numa_node": _numa_node(device),
        # Graphics of the CPU's own package sit on the root bus.
        "integrated": vendor == "0x8086" and device.name.startswith("0000:00:"),
        "link": _pci_link(device),
    }


def _declared_name(device: Path) -> str | None:
    folders = [device, *(below for pattern in NAMED_BELOW for below in sorted(device.glob(pattern)))]
    return next((name for folder in folders for file in NAME_FILES if (name := text_of(folder / file))), None)


def _memory(device: Path) -> int | None:
    folders = [device, *sorted(device.glob("drm/card*"))]
    return next((size for folder in folders for file in MEMORY_FILES if (size := _number(folder / file))), None)


def _pci_link(device: Path) -> dict[str, object] | None:
    """What the slot runs at now and could at most: gigatransfers a second and lanes."""
    now, most = _leading_number(text_of(device / "current_link_speed")), _leading_number(text_of(device / "max_link_speed"))
    lanes, lanes_most = _number(device / "current_link_width"), _number(device / "max_link_width")
    if not now and not most:
        return None
    return {"kind": "pcie", "gtransfers_per_s": now, "max_gtransfers_per_s": most, "lanes": lanes, "max_lanes": lanes_most}


def _listed_name(vendor: str, device: str) -> str | None:
    """The device's name in the distribution's pci.ids, None without that file."""
    for path in PCI_IDS:
        with suppress(OSError), path.open(encoding="utf-8", errors="replace") as file:
            inside = False
            for line in file:
                if not line.startswith(("\t", "#", "\n")):
                    inside = line.startswith(vendor.removeprefix("0x"))
                elif inside and line.startswith(f"\t{device.removeprefix('0x')}  "):
                    return line.strip().partition("  ")[2]
    return None


def _numa_node(device: Path) -> int | None:
    node = _number(device / "numa_node")
    return node if node is not None and node >= 0 else None


def _node_memory(meminfo: str) -> int | None:
    total = re.search(r"MemTotal:\s+(\d+) kB", meminfo)
    return int(total[1]) * 1024 if total else None


def _number(path: Path) -> int | None:
    text = text_of(path)
    return int(text) if re.fullmatch(r"-?\d+", text) else None


def _leading_number(text: str) -> float | None:
    number = re.match(r"\d+(\.\d+)?", text)
    return float(number[0]) if number else None


def text_of(path: Path) -> str:
    """A file's text without the blanks around it; empty where it is absent or refuses (some attributes fail when read)."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
