"""What a run's figures may be credited to: which device, how many of it, and what these cost and draw.

`environment.hardware` of run.json is the machine that the command ran on. Where the engine is a server somewhere else, that machine is
only the client's: the server's hardware is not known, unless the user states it with `--card CARD` or `CARD*COUNT`. A count is only taken
where it can't be wrong: as stated, as the run was told, one GPU in the machine, or the whole sockets of a machine that is not virtual.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any, NamedTuple

from bytemlperf.errors import UserError
from bytemlperf.hardware import cards as api
from bytemlperf.hardware.card import Card
from bytemlperf.hardware.compare import PER_CURRENCY
from bytemlperf.report.text import counted
from bytemlperf.runs.folder import part

REMOTE = "remote"
UNKNOWN = "remote, hardware not known"
FIX = "state it with serve-bench --card CARD or CARD*COUNT"
SECONDS_AN_HOUR = 3600.0
_STATED = re.compile(r"(.+?)(?:\*([1-9]\d{0,5}))?")
_OF_ONE = re.compile(r"per[_ ](device|gpu|rank)\b", re.IGNORECASE)


class Amount(NamedTuple):
    value: float
    currency: str


class Stated(NamedTuple):
    """The user's word: so many of this card."""

    card_id: str
    used: int

    def device(self, known: Mapping[str, Card]) -> Device:
        return Device(known[self.card_id].name, self.card_id, known[self.card_id], self.used)


class Device(NamedTuple):
    """What a run used. `used` None: how many is not known, and nothing is normalised, for the reason in `why`."""

    name: str
    card_id: str | None = None
    card: Card | None = None
    used: int | None = None
    why: str = ""

    def of(self, metric: str) -> Device:
        """What a figure of this name stands on: one device where it is per device."""
        return self._replace(used=1) if self.used and _OF_ONE.search(metric) else self

    @property
    def watts(self) -> float | None:
        """Published TDP of all that were used."""
        watts = api.tdp_watts(self.card) if self.card else None
        return watts * self.used if watts and self.used else None

    @property
    def text(self) -> str:
        """For a reader, such as "8 × NVIDIA H100 SXM5 80GB"."""
        return f"{self.used} × {self.name}" if self.used and self.used > 1 else self.name

    def price(self, basis: str, currency: str | None = None) -> Amount | None:
        """Of all that were used, to buy (`purchase`) or by the `hour`; in the card's first currency unless told."""
        price = api.price(self.card, basis, currency) if self.card else None
        return Amount(price.amount * self.used, price.currency) if price and self.used else None

    def per_watt(self, rate: float) -> float | None:
        """A rate over the TDP: so much per joule."""
        return _over(rate, self.watts)

    def per_price(self, rate: float, currency: str) -> float | None:
        """A rate over the purchase price in thousands."""
        bought = self.price("purchase", currency)
        return _over(rate * PER_CURRENCY, bought and bought.value)

    def per_rent(self, rate: float, currency: str) -> float | None:
        """What one of the currency buys by the hour's price, of what the rate is a second of."""
        rented = self.price("hour", currency)
        return _over(rate * SECONDS_AN_HOUR, rented and rented.value)


def device_of(run: Mapping[str, Any], known: Mapping[str, Card], assigned: Stated | None = None, told: int | None = None) -> Device:
    """The device of a run: the one `assigned` to it, else the one stated with it, else the card that fits the machine that was measured.
    `told` is how many devices the run was told to use (`RunKind.devices_used`)."""
    if word := assigned or stated(run, known):
        return word.device(known)
    if is_remote(run):
        return Device(UNKNOWN, why=FIX)
    hardware = part(run, "environment", "hardware")
    try:
        card = api.match(hardware, known)
    except (AttributeError, TypeError):  # a damaged description
        return Device("unknown", why="the run's hardware can't be read")
    if card is None:
        return Device(described(hardware), why="no spec card fits this machine; assign one with --card")
    identity = next(name for name, other in known.items() if other is card)
    return Device(card.name, identity, card, *_count(hardware, card, told))


def _count(hardware: dict[str, Any], card: Card, told: int | None) -> tuple[int | None, str]:
    if card.kind == "cpu":
        cpu = part(hardware, "cpu")
        if cpu.get("virtual") or cpu.get("quota_cores") or cpu.get("usable_cores") != cpu.get("logical_cores"):
            return None, "the run had only a part of the CPU; assign what it had with --card"
        return (int(cpu["sockets"]), "") if cpu.get("sockets") else (None, "the number of sockets is not known; assign it with --card")
    devices = hardware.get("gpus") or hardware.get("accelerators") or ()
    if told or len(devices) == 1:
        return told or 1, ""
    return None, f"the machine has {len(devices)} devices and the run doesn't say how many it used; assign it with --card"


def described(hardware: dict[str, Any]) -> str:
    """The machine in a few words."""
    gpus = hardware.get("gpus")
    if isinstance(gpus, list) and gpus and isinstance(gpus[0], dict):
        return f"{len(gpus)} × {gpus[0].get('name')}" if len(gpus) > 1 else str(gpus[0].get("name"))
    cpu = part(hardware, "cpu")
    if not cpu.get("model"):
        return "unknown"
    cores = cpu.get("usable_cores") or cpu.get("logical_cores")
    return f"{cpu['model']}, {counted(cores, 'core')}" if cores else str(cpu["model"])


def parse_device(text: str, known: Mapping[str, Card]) -> Stated:
    """`CARD` or `CARD*COUNT`, the card by id, name or alias. Raises UserError that names the nearest."""
    match = _STATED.fullmatch(text.strip())
    if match is None:
        raise UserError(f"--card {text!r} is not a known card", "give CARD or CARD*COUNT, such as h100*8, of bmp hardware list")
    return Stated(api.card_id(match[1], known), int(match[2] or 1))


class Assignment(NamedTuple):
    """Runs with a name that fits `pattern` used this."""

    pattern: str
    device: Stated

    def fits(self, *names: str) -> bool:
        return any(fnmatch(name, self.pattern) for name in names)


def assignments_of(texts: Iterable[str], known: Mapping[str, Card]) -> list[Assignment]:
    """`CARD` or `CARD*COUNT`, of all runs, or after `PATTERN=` of those that fit it, which go before. Raises UserError."""
    assignments = []
    for text in texts:
        pattern, equals, device = text.rpartition("=")
        if equals and not pattern:
            raise UserError(f"--card {text!r} has no runs before =", "write PATTERN=CARD or PATTERN=CARD*COUNT, such as '*h100*=h100*8'")
        assignments.append(Assignment(pattern or "*", parse_device(device, known)))
    return sorted(assignments, key=lambda assignment: assignment.pattern == "*")


def assigned_to(names: Sequence[str], assignments: Sequence[Assignment]) -> Stated | None:
    """What is assigned to a run with these names; None where nothing is."""
    return next((assignment.device for assignment in assignments if assignment.fits(*names)), None)


def stated(run: Mapping[str, object], known: Mapping[str, Card]) -> Stated | None:
    """What the run's own --card says; None without one, or where no card of that name is known here."""
    text = part(run, "config", "flags").get("device")
    if not isinstance(text, str):
        return None
    try:
        return parse_device(text, known)
    except UserError:
        return None


def device_text(run: Mapping[str, object], subject: Mapping[str, object]) -> str:
    """The device of run.json's `subject` (engine, backend, trainer) for a reader: as stated, as the subject says, or that it
    isn't known; "" where there is nothing to say."""
    if part(run, "config", "flags").get("device") is not None:
        known = api.load()
        if (own := stated(run, known)) is not None:
            return f"{own.device(known).text} (as stated)"
    if is_remote(run):
        return UNKNOWN
    device = str(subject.get("device") or "")
    return "" if device == "none" else device


def is_remote(run: Mapping[str, object]) -> bool:
    """Whether a server was measured over a network, loopback included."""
    engine = part(run, "engine")
    return engine.get("remote") is True or engine.get("device") == REMOTE


def hardware_of(run: Mapping[str, object]) -> dict[str, Any]:
    """The hardware that was measured, as run.json describes it; empty where it isn't known."""
    return {} if is_remote(run) else part(run, "environment", "hardware")


def _over(value: float, by: float | None) -> float | None:
    return value / by if by else None
