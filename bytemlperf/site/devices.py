"""Which device a run used, and how many: what prices and watts are multiplied by.

A spec card is taken where the user states it, or where the description of the machine that was measured matches one
(`hardware.cards.match`): never the client machine for a server. A count is only taken where it can't be wrong: one
GPU in the machine, or the whole sockets of a machine that is not virtual. Anything else has no normalised figures, with
the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Any, NamedTuple

from bytemlperf.errors import UserError
from bytemlperf.hardware import cards as api
from bytemlperf.hardware import measured
from bytemlperf.hardware.card import Card
from bytemlperf.runs.folder import part


class Device(NamedTuple):
    """`used` None: how many were used is not known. `why` says why figures aren't normalised."""

    name: str
    card_id: str | None = None
    used: int | None = None
    why: str = ""


class Assignment(NamedTuple):
    """The user's word: runs whose folder or label fits `pattern` used so many of the card."""

    pattern: str
    card_id: str
    used: int


def parse_assignments(texts: Sequence[str], known: Mapping[str, Card]) -> list[Assignment]:
    """`PATTERN=CARD` or `PATTERN=CARD*COUNT`. Raises UserError."""
    assignments = []
    for text in texts:
        pattern, _, device = text.partition("=")
        if not pattern or not re.fullmatch(r"[^*]+(\*([1-9]\d{0,5})?)?", device):
            raise UserError(f"--card {text!r} is not PATTERN=CARD or PATTERN=CARD*COUNT", "write for example --card '*h100*=h100*8'")
        assignments.append(Assignment(pattern, *measured.parse_device(device, known)))
    return assignments


def device_of(folder_name: str, label: str, run: dict[str, Any], known: Mapping[str, Card], assigned: Sequence[Assignment]) -> Device:
    """The device of one run."""
    fitting = (assignment for assignment in assigned if fnmatch(folder_name, assignment.pattern) or fnmatch(label, assignment.pattern))
    if stated := next(fitting, None) or measured.stated(run, known):
        return Device(known[stated.card_id].name, stated.card_id, stated.used)
    if measured.is_remote(run):
        return Device(measured.UNKNOWN, why=measured.FIX)
    hardware = part(run, "environment", "hardware")
    try:
        card = api.match(hardware, known)
    except (AttributeError, TypeError):  # a damaged description
        return Device("unknown", why="the run's hardware can't be read")
    if card is None:
        return Device(described(hardware), why="no spec card fits this machine; assign one with --card")
    identity = next(name for name, other in known.items() if other is card)
    count, why = _count(hardware, card)
    return Device(card.name, identity, count, why)


def described(hardware: dict[str, Any]) -> str:
    """The machine in a few words."""
    gpus = hardware.get("gpus")
    if isinstance(gpus, list) and gpus and isinstance(gpus[0], dict):
        return f"{len(gpus)} × {gpus[0].get('name')}" if len(gpus) > 1 else str(gpus[0].get("name"))
    cpu = part(hardware, "cpu")
    if not cpu.get("model"):
        return "unknown"
    cores = cpu.get("usable_cores") or cpu.get("logical_cores")
    return f"{cpu['model']}, {cores} cores" if cores else str(cpu["model"])


def _count(hardware: dict[str, Any], card: Card) -> tuple[int | None, str]:
    if card.kind == "cpu":
        cpu = part(hardware, "cpu")
        if cpu.get("virtual") or cpu.get("quota_cores") or cpu.get("usable_cores") != cpu.get("logical_cores"):
            return None, "the run had only a part of the CPU; assign what it had with --card"
        return (int(cpu["sockets"]), "") if cpu.get("sockets") else (None, "the number of sockets is not known; assign it with --card")
    devices = hardware.get("gpus") or hardware.get("accelerators") or ()
    if len(devices) == 1:
        return 1, ""
    return None, f"the machine has {len(devices)} devices and the run doesn't say how many it used; assign it with --card"
