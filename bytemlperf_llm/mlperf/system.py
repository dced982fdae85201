"""system_desc.json: the system of a submission (MLPerf Endpoints rules 8.2), as stated and as the runs know it."""

from __future__ import annotations

from typing import Any

import msgspec

from bytemlperf.hardware import cards, measured
from bytemlperf.hardware.card import Card
from bytemlperf.runs.folder import part
from bytemlperf_llm.mlperf.disclosure import NOT_STATED, Disclosure
from bytemlperf_llm.mlperf.power import Devices

GIB = 1 << 30


def devices_of(run: dict[str, Any], disclosure: Disclosure) -> Devices:
    """As stated; else by --card of the run; else by the machine that an engine ran on in process."""
    node, hardware, known = disclosure.system.node, measured.hardware_of(run), cards.load()
    stated = measured.stated(run, known)
    gpus = hardware.get("gpus") or []
    accelerator: Card | None = None
    count = 0
    if node.accelerator_card is not None:
        accelerator, count = cards.find(node.accelerator_card, known), node.accelerators_per_node or 1
    elif stated is not None and known[stated.card_id].kind != "cpu":
        accelerator, count = known[stated.card_id], node.accelerators_per_node or stated.used
    elif gpus:
        accelerator, count = cards.match(hardware, known), node.accelerators_per_node or len(gpus)
    cpu_model = node.host_processor_model_name or part(hardware, "cpu").get("model")
    cpu = cards.match_name(cpu_model, known) if cpu_model else None
    cpus = node.host_processors_per_node or part(hardware, "cpu").get("sockets") or 1
    if stated is not None and known[stated.card_id].kind == "cpu":
        cpu, cpus = known[stated.card_id], stated.used
    return Devices(cpu, cpu_model or (cpu.name if cpu else None), cpus, accelerator, count)


def system_description(run: dict[str, Any], disclosure: Disclosure, devices: Devices, c_max: int) -> dict[str, Any]:
    """All but `tps_utilization`, which is a point's own."""
    system, engine = disclosure.system, part(run, "engine")
    nodes = system.node.number_of_nodes
    described = {
        "division": disclosure.division,
        "system_name": system.name,
        "shortened_system_name": system.short_name,
        "system_availability_status": system.availability,
        "availability_url": system.availability_url,
        "target_availability_date": system.target_availability_date,
        "max_supported_concurrency": c_max,
        "system_size": f"{devices.accelerators * nodes} accelerators" if devices.accelerators else f"{devices.cpus * nodes} CPUs",
        "system_node_ensemble_count": 1,
        "system_node_ensemble_total": nodes,
        "serving_framework": system.serving_framework or _framework(engine),
        "endpoint_url": "in process" if not measured.is_remote(run) else "OpenAI API over HTTP",
        "node_types": [_node(run, disclosure, devices)],
        "cooling": system.cooling,
    }
    parallel = {name: getattr(system, name) for name in ("tensor_parallel", "pipeline_parallel", "expert_parallel", "data_parallel")}
    return {name: value for name, value in (described | parallel | {"disaggregated": False}).items() if value is not None}


def _framework(engine: dict[str, Any]) -> str:
    name = str(engine.get("name") or NOT_STATED)
    version = engine.get("versions", {}).get(name) if isinstance(engine.get("versions"), dict) else None
    return f"{name} {version}" if version else name


def _node(run: dict[str, Any], disclosure: Disclosure, devices: Devices) -> dict[str, Any]:
    """Stated keys before what the run's machine tells, where that is what was measured."""
    hardware, stated = measured.hardware_of(run), disclosure.system.node
    cpu, memory = part(hardware, "cpu"), part(hardware, "memory")
    cores, sockets = cpu.get("physical_cores"), cpu.get("sockets") or 1
    bytes_ = memory.get("total_bytes")
    told = {
        "host_processor_core_count": cores // sockets if cores else None,
        "host_processor_vcpu_count": cpu.get("logical_cores"),
        "host_memory_capacity": f"{bytes_ / GIB:.0f} GiB" if isinstance(bytes_, int) else None,
        "operating_system": part(hardware, "os").get("name"),
    }
    node: dict[str, Any] = {name: value for name, value in told.items() if value is not None} | msgspec.to_builtins(stated)
    node.pop("accelerator_card", None)
    node.pop("accelerators_per_node", None)
    node |= {"system_node_ensemble_id": 0, "number_of_nodes": stated.number_of_nodes, "host_processors_per_node": devices.cpus}
    node["cooling"] = disclosure.system.cooling
    for name in ("host_memory_configuration", "host_network_card_count", "driver", "filesystem"):
        node.setdefault(name, getattr(stated, name))
    if devices.cpu_model:
        node["host_processor_model_name"] = devices.cpu_model
    node["accelerator_info"] = [_accelerator(devices, stated.accelerator_interconnect)] if devices.accelerators else []
    node.pop("accelerator_interconnect", None)
    return node


def _accelerator(devices: Devices, interconnect: str | None) -> dict[str, Any]:
    card = devices.accelerator
    described = {
        "accelerator_model_name": card.name if card else NOT_STATED,
        "accelerators_per_node": devices.accelerators,
        "accelerator_memory_capacity": f"{card.memory_gb.value:g} GB" if card and card.memory_gb else None,
        "accelerator_memory_type": (card.memory_type or None) if card else None,
        "accelerator_interconnect": interconnect,
    }
    return {name: value for name, value in described.items() if value is not None}
