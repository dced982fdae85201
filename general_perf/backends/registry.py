"""Backends by name, from the entry-point group `bytemlperf.backends`."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from bytemlperf_llm.checked_yaml import nearest
from bytemlperf_llm.errors import UserError
from general_perf.backends.contract import Backend

GROUP = "bytemlperf.backends"


def backend_names() -> list[str]:
    """Names of all installed backends."""
    return sorted(_found())


def backend(name: str) -> Backend:
    """A backend by name. Raises UserError for an unknown one, ImportError where its package is not there."""
    found = _found()
    if name not in found:
        raise UserError(f"backend '{name}' is unknown", nearest(name, found))
    loaded: Backend = found[name].load()()
    return loaded


def check_names(names: list[str]) -> list[str]:
    """The names, with `all` spelled out. Raises UserError for an unknown one."""
    found = _found()
    for name in names:
        if name != "all" and name not in found:
            raise UserError(f"backend '{name}' is unknown", nearest(name, [*found, "all"]))
    spelled = [each for name in names for each in (sorted(found) if name == "all" else [name])]
    return list(dict.fromkeys(spelled))


def _found() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
