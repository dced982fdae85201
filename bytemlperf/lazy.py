"""Packages that are imported at their first use: a command that doesn't need one doesn't wait for it."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Lazy:
    """Stands for a package until an attribute of it is asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)


numpy: Any = Lazy("numpy")
psutil: Any = Lazy("psutil")
