"""system_power.json: the provisioned power of a system (MLPerf Endpoints rules 4.5 and Appendix E), from our hardware cards.

Node power is the sum of its parts, each the TDP that the vendor's own document states, as our card cites it; a part without one stays
absent, and the checker then takes MLCommons' own default, where there is one. Without a scale-up network or several nodes:
System Power = (1 + overhead) × (CPUs + accelerators), overhead 0.3 for liquid and 0.5 for air cooling.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from bytemlperf.hardware.card import Card
from bytemlperf_llm.mlperf.disclosure import System

OVERHEAD = {"air": 0.5, "liquid": 0.3}


class Sourced(msgspec.Struct, frozen=True, kw_only=True):
    """Watts, and the public document that states them."""

    value_w: float
    source_type: str
    source: str


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """CPUs or accelerators of one node."""

    model: str | None = None
    count_per_node: int
    tdp_per_unit: Sourced | None = None

    @property
    def watts(self) -> float | None:
        return None if self.tdp_per_unit is None else self.count_per_node * self.tdp_per_unit.value_w


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """A scale-up network: none is counted."""

    method: str = "none"


class Components(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One node. A node without accelerators states one figure for both."""

    cpu: Part | None = None
    accelerator: Part | None = None
    combined_cpu_accelerator: Sourced | None = None
    scale_up_network: Network

    @property
    def watts(self) -> float | None:
        if self.combined_cpu_accelerator is not None:
            return self.combined_cpu_accelerator.value_w
        parts = [None if part is None else part.watts for part in (self.cpu, self.accelerator)]
        return None if None in parts else sum(filter(None, parts))


class NodeSet(msgspec.Struct, frozen=True, kw_only=True):
    """Nodes of one kind."""

    node_set_id: int = 0
    system_node_ensemble_id: int = 0
    nodes_provisioned: int
    power_method: str = "component_sum"
    components: Components


class SystemPower(msgspec.Struct, frozen=True, kw_only=True):
    """The file. Several nodes need a scale-out network, which no card describes: then the submitter states the file."""

    system_desc_id: str
    cooling: str
    node_sets: list[NodeSet]
    scale_out: dict[str, bool]

    @property
    def provisioned_kw(self) -> float | None:
        """As the rules compute it; None where a part's power is absent."""
        (nodes,) = self.node_sets
        watts = nodes.components.watts
        return None if watts is None else round((1 + OVERHEAD[self.cooling]) * nodes.nodes_provisioned * watts / 1000, 2)


class Devices(NamedTuple):
    """What is in one node; a card is None where none is known."""

    cpu: Card | None
    cpu_model: str | None
    cpus: int
    accelerator: Card | None
    accelerators: int


def system_power(system: System, system_id: str, devices: Devices) -> SystemPower | None:
    """None where nothing of a node's power is public, or several nodes make the system."""
    cpu, accelerator = _tdp(devices.cpu), _tdp(devices.accelerator)
    if system.node.number_of_nodes > 1 or (cpu is None and accelerator is None and not devices.cpu_model):
        return None
    if devices.accelerators:
        components = Components(
            scale_up_network=Network(),
            cpu=Part(model=_name(devices.cpu, devices.cpu_model), count_per_node=devices.cpus, tdp_per_unit=cpu),
            accelerator=Part(model=_name(devices.accelerator, None), count_per_node=devices.accelerators, tdp_per_unit=accelerator),
        )
    elif cpu is not None:
        components = Components(
            combined_cpu_accelerator=msgspec.structs.replace(cpu, value_w=devices.cpus * cpu.value_w), scale_up_network=Network()
        )
    else:
        return None
    nodes = NodeSet(nodes_provisioned=system.node.number_of_nodes, components=components)
    return SystemPower(system_desc_id=system_id, cooling=system.cooling, node_sets=[nodes], scale_out={"present": False})


def _tdp(card: Card | None) -> Sourced | None:
    """As the vendor's own document states it: the rules take no other's word."""
    if card is None or card.tdp_watts is None:
        return None
    source = card.sources[card.tdp_watts.source]
    if not source.url.startswith("http") or not source.publisher.startswith(card.vendor) or "reported by" in source.publisher:
        return None
    return Sourced(value_w=card.tdp_watts.value, source_type="vendor_spec", source=source.url)


def _name(card: Card | None, model: str | None) -> str | None:
    return card.name if card is not None else model
