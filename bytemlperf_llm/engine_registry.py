"""Finding engines: the entry-point group `bytemlperf.engines`, built-in ones included."""

from __future__ import annotations

import difflib
from importlib.metadata import EntryPoint, entry_points
from typing import NamedTuple

from bytemlperf.errors import UserError
from engines.contract import ENTRY_POINT_GROUP, Availability, Engine


class EngineListing(NamedTuple):
    """One line of `bmp-llm engines`."""

    name: str
    summary: str
    availability: Availability
    options: dict[str, str]


def engine_entry_points() -> dict[str, EntryPoint]:
    """Every engine's entry point by name."""
    return {entry.name: entry for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name)}


def engine_class(name: str) -> type[Engine]:
    """The class behind a name. Raises UserError for an unknown one, or one that can't be imported."""
    known = engine_entry_points()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(known)}"
        raise UserError(f"unknown engine '{name}'", f"{hint} (see bmp-llm engines)")
    try:
        loaded: type[Engine] = known[name].load()
    except Exception as error:
        raise UserError(
            f"engine '{name}' can't be loaded from {known[name].value}: {type(error).__name__}: {error}",
            "reinstall the package that provides it",
        ) from None
    return loaded


def list_engines() -> list[EngineListing]:
    """All engines, those that can't start here too, with what they miss."""
    return [_listing(name) for name in engine_entry_points()]


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
    import msgspec

    fields = msgspec.structs.fields(engine.options_type)
    return {field.name: "" if field.required else str(field.default) for field in fields}
