"""Engines by name, from `bytemlperf.extensions`, and what a listing says of them."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.extensions import ENGINES
from engines.contract import Availability, Engine


class EngineListing(NamedTuple):
    """One line of `bmp-llm engines`."""

    name: str
    summary: str
    availability: Availability
    options: dict[str, str]


def engine_class(name: str) -> type[Engine]:
    """The class behind a name. Raises UserError for an unknown one, or one that can't be loaded."""
    loaded: type[Engine] = ENGINES.load(name)
    return loaded


def list_engines() -> list[EngineListing]:
    """All engines, those that can't start here too, with what they miss."""
    return [_listing(name) for name in ENGINES.all()]


def _listing(name: str) -> EngineListing:
    try:
        found = engine_class(name)
    except UserError as error:
        return EngineListing(name, "", Availability(missing=error.cause, fix=error.fix), {})
    summary = (found.__doc__ or "").strip().partition("\n")[0]
    ask = getattr(found, "requirements", None)
    availability = ask() if ask is not None else Availability()
    return EngineListing(name, summary, availability, _options(found))


def _options(engine: type[Engine]) -> dict[str, str]:
    fields = msgspec.structs.fields(engine.options_type)
    return {field.name: "" if field.required else str(field.default) for field in fields}
