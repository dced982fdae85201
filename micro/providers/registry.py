"""The table of built-in providers, and those of other packages."""

from __future__ import annotations

from importlib.metadata import entry_points

from bytemlperf_llm.errors import UserError
from micro.providers.contract import Provider
from micro.providers.numpy_blas import numpy_blas
from micro.providers.torch_based import compiled, eager, onednn

ENTRY_POINT_GROUP = "bytemlperf.micro_providers"

PROVIDERS: dict[str, Provider] = {
    "torch": Provider("torch eager, as torch dispatches it", eager),
    "torch_compile": Provider("torch.compile of the same expression", compiled),
    "onednn": Provider("oneDNN's linear with packed weights (AMX where there is one)", onednn),
    "numpy": Provider("numpy's BLAS, a control", numpy_blas, ("numpy",)),
}


def provider_names() -> list[str]:
    """Built-in ones first."""
    return [*PROVIDERS, *(name for name in sorted(entry_points(group=ENTRY_POINT_GROUP).names) if name not in PROVIDERS)]


def find_provider(name: str) -> Provider:
    """By name, built-in or of another package. Raises UserError."""
    if name in PROVIDERS:
        return PROVIDERS[name]
    found = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in found:
        raise UserError(f"there is no provider '{name}'", f"known here: {', '.join(provider_names())}")
    provider = found[name].load()
    if not isinstance(provider, Provider):
        raise UserError(f"provider '{name}' is no micro.providers.contract.Provider", "mend the package that names it")
    return provider
