"""What a run's figures may be credited to.

`environment.hardware` of run.json is the machine that the command ran on. Where the engine is a server
somewhere else, that machine is only the client's: the server's hardware is not known, unless the user
states it with `serve-bench --card CARD` or `CARD*COUNT`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from bytemlperf.errors import UserError
from bytemlperf.hardware import cards as api
from bytemlperf.hardware.card import Card
from bytemlperf.runs.folder import part

REMOTE = "remote"
UNKNOWN = "remote, hardware unknown"
FIX = "state it with serve-bench --card CARD or CARD*COUNT"
_STATED = re.compile(r"(.+?)(?:\*([1-9]\d{0,5}))?")


class Stated(NamedTuple):
    """The user's word: so many of this card."""

    card_id: str
    used: int

    def text(self, known: Mapping[str, Card]) -> str:
        """For a reader, such as "8 × NVIDIA H100 SXM5 80GB"."""
        name = known[self.card_id].name
        return name if self.used == 1 else f"{self.used} × {name}"


def parse_device(text: str, known: Mapping[str, Card]) -> Stated:
    """`CARD` or `CARD*COUNT`, the card by id, name or alias. Raises UserError that names the nearest."""
    match = _STATED.fullmatch(text.strip())
    if match is None:
        raise UserError(f"--card {text!r} is not a known card", "give CARD or CARD*COUNT, such as h100*8, of bmp hardware list")
    return Stated(api.card_id(match[1], known), int(match[2] or 1))


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
            return f"{own.text(known)} (as stated)"
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
