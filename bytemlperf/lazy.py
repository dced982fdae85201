"""Packages that are imported at their first use: a command that doesn't need one doesn't wait for it."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class Lazy(ModuleType):
    """Stands for a package until an attribute of it is asked for; a module itself, which torch.compile can look into. With `keep` an
    attribute is looked up once: quicker, but one that is replaced later isn't seen."""

    def __init__(self, name: str, *, keep: bool = False) -> None:
        super().__init__(name)
        self._keep = keep

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(import_module(self.__name__), attribute)
        if self._keep:
            setattr(self, attribute, value)
        return value


numpy: Any = Lazy("numpy", keep=True)
onnx: Any = Lazy("onnx")
onnxruntime: Any = Lazy("onnxruntime")
psutil: Any = Lazy("psutil")
torch: Any = Lazy("torch", keep=True)
zstd: Any = Lazy("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
