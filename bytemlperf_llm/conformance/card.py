"""The capability card: what an engine or a server was found to do, kept for the runs that come after it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from bytemlperf.hardware.kept import path_of, write
from bytemlperf.runs.folder import write_json
from engines.contract import Engine, EngineError, EngineInfo, Exchange
from engines.untrusted import decode_json

NAME = "capability.json"
VERSION_TIMEOUT_S = 10.0
Status = Literal["yes", "no", "not available"]

MISSED_BY = {
    "reasoning": "time to first answer token",
    "usage": "token counts as the server has them",
    "cached tokens": "cached tokens of each request",
    "stages": "queue and prefill time of each request",
    "metrics page": "the server's own gauges",
}
"""Capabilities, and what a run can't tell where one is missing."""


class Capability(msgspec.Struct, frozen=True, kw_only=True):
    """One line: `detail` is what was seen, or why not. Where a `required` one is missing the contract is broken."""

    name: str
    status: Status
    detail: str
    required: bool = False

    @property
    def broken(self) -> bool:
        return self.required and self.status == "no"


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """Whose card it is: an engine in this process, or the server at an address; `version` as it tells it."""

    engine: str
    address: str = ""
    model: str = ""
    version: str = ""

    @property
    def file(self) -> Path:
        """Where its card is kept; the version is in the card."""
        return path_of("card", [self.engine, self.address, self.model])


class Card(msgspec.Struct, frozen=True, kw_only=True):
    subject: Subject
    checked_at: str
    capabilities: tuple[Capability, ...]

    def keep(self, folder: Path) -> None:
        """Into a run's folder, and where later runs look for it; a cache that can't be written keeps none."""
        write_json(folder / NAME, msgspec.to_builtins(self))
        with suppress(OSError):
            write(self.subject.file, self)

    def missing(self) -> str:
        """What runs can't tell, and why, in one sentence; "" where all can be told."""
        lacking = {card.name: card.detail for card in self.capabilities if card.status != "yes" and card.name in MISSED_BY}
        said = [f"{MISSED_BY[name]} ({detail})" for name, detail in lacking.items()]
        return f"not available, by the capability card of {self.checked_at[:10]}: {'; '.join(said)}" if said else ""


def subject_of(name: str, info: EngineInfo, address: str, version: str = "") -> Subject:
    versions = ", ".join(f"{package} {number}" for package, number in info.versions.items())
    return Subject(engine=name, address=address, model=info.model, version=version if address else versions)


def card_of(subject: Subject) -> Card | None:
    """The one that was kept of this engine or server in any version; None where there is none that can be read."""
    try:
        return decode_json(subject.file.read_bytes(), Card)
    except (OSError, ValueError):
        return None


async def server_version(engine: Engine) -> str:
    """As its /version page or its Server header tells it; "" where neither does."""
    try:
        page: Exchange = await asyncio.wait_for(engine.exchange("/version", {}, {}), VERSION_TIMEOUT_S)  # type: ignore[attr-defined]
        told = decode_json(page.body).get("version", "") if page.status == 200 else ""
    except (EngineError, TimeoutError):
        return ""
    except (ValueError, AttributeError):
        told = ""
    return str(told or page.headers.get("server", ""))[:80]
