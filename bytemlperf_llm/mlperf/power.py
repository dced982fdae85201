"""system_power.json: the provisioned power of a system (MLPerf Endpoints rules 4.5 and Appendix E), from our hardware cards.

System Power = (1 + overhead) × (CPUs + accelerators + scale-up network), overhead 0.3 for liquid and 0.5 for air cooling. Each part is the
TDP that the vendor's own document states, as our card cites it; a part without one stays absent, and the checker then takes MLCommons'
default, where there is one. NVLink between accelerators is estimated from its bandwidth, at the default of Appendix D.1; links without a
switch count nothing. Several nodes have a scale-out network, which no card describes: their file is the submitter's to state.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from bytemlperf.hardware.card import Card
from bytemlperf_llm.mlperf.disclosure import System

OVERHEAD = {"air": 0.5, "liquid": 0.3}
NVLINK_PJ_PER_BIT = 5
"""As in the worked examples of the rules: 14.4 TB/s × 8 bit × 5 pJ/bit = 576 W."""


class Devices(NamedTuple):
    """What is in one node; a card is None where none is known."""

    cpu: Card | None
    cpu_model: str | None
    cpus: int
    accelerator: Card | None
    accelerators: int


class Power(NamedTuple):
    """The file, its total where every part is known, and whether a part is MLCommons' default."""

    descriptor: dict[str, Any]
    kilowatts: float | None
    estimated: bool


def system_power(system: System, system_id: str, devices: Devices) -> Power | None:
    """None where nothing of a node's power is public, or several nodes make the system."""
    cpu, accelerator = _tdp(devices.cpu), _tdp(devices.accelerator)
    if system.node.number_of_nodes > 1 or (cpu is None and accelerator is None):
        return None
    network, network_w = _scale_up(devices)
    components: dict[str, Any] = {"scale_up_network": network}
    if devices.accelerators:
        components["cpu"] = _part(devices.cpu, devices.cpu_model, devices.cpus, cpu)
        components["accelerator"] = _part(devices.accelerator, None, devices.accelerators, accelerator)
        watts = [devices.cpus * cpu["value_w"] if cpu else None, devices.accelerators * accelerator["value_w"] if accelerator else None]
    else:
        assert cpu is not None
        watts = [devices.cpus * cpu["value_w"]]
        components["combined_cpu_accelerator"] = cpu | {"value_w": watts[0]}
    known = [value for value in watts if value is not None]
    nodes = {"node_set_id": 0, "system_node_ensemble_id": 0, "nodes_provisioned": 1, "power_method": "component_sum"}
    return Power(
        {
            "system_desc_id": system_id,
            "cooling": system.cooling,
            "node_sets": [nodes | {"components": components}],
            "scale_out": {"present": False},
        },
        round((1 + OVERHEAD[system.cooling]) * (sum(known) + network_w) / 1000, 2) if len(known) == len(watts) else None,
        network_w > 0 or len(known) < len(watts),
    )


def _tdp(card: Card | None) -> dict[str, Any] | None:
    """As the vendor's own document states it: the rules take no other's word."""
    if card is None or card.tdp_watts is None:
        return None
    source = card.sources[card.tdp_watts.source]
    if not source.url.startswith("http") or not source.publisher.startswith(card.vendor) or "reported by" in source.publisher:
        return None
    return {"value_w": card.tdp_watts.value, "source_type": "vendor_spec", "source": source.url}


def _part(card: Card | None, model: str | None, count: int, tdp: dict[str, Any] | None) -> dict[str, Any]:
    described = {"model": card.name if card is not None else model, "count_per_node": count, "tdp_per_unit": tdp}
    return {name: value for name, value in described.items() if value is not None}


def _scale_up(devices: Devices) -> tuple[dict[str, Any], float]:
    """The network between the accelerators of a node, and its watts."""
    links = devices.accelerator.links if devices.accelerator is not None and devices.accelerators > 1 else ()
    nvlink = next((link for link in links if link.name.startswith("NVLink")), None)
    if nvlink is None:
        return {"method": "none"}, 0.0
    terabytes = round(devices.accelerators * nvlink.gbytes_per_s / 1000, 6)
    energy = {"value_pj": NVLINK_PJ_PER_BIT, "source_type": "mlc_default", "source": "D.1"}
    network = {"method": "bandwidth_estimate", "aggregate_bandwidth_tbps": terabytes, "energy_per_bit_pj": energy}
    return network, terabytes * 8 * NVLINK_PJ_PER_BIT
