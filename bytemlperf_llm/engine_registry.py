"""Engines by name."""

from __future__ import annotations

from bytemlperf.extensions import ENGINES
from engines.contract import Engine


def engine_class(name: str) -> type[Engine]:
    """The class behind a name. Raises UserError for an unknown one, or one that can't be loaded."""
    loaded: type[Engine] = ENGINES.load(name)
    return loaded
