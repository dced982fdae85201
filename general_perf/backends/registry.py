"""Backends by name, from `bytemlperf.extensions`, and the options of ours."""

from __future__ import annotations

from collections.abc import Sequence

from bytemlperf.errors import UserError, nearest
from bytemlperf.extensions import BACKENDS
from general_perf.backends.contract import Backend

YES_OR_NO = ("true", "false")
MODES = ("default", "max-autotune", "max-autotune-no-cudagraphs", "reduce-overhead")
INT8 = ("static", "dynamic")
OPTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "onnxruntime": {"provider": (), "optimization": ("disable", "basic", "extended", "all"), "opset": (), "dynamic": YES_OR_NO},
    "openvino": {"hint": ("LATENCY", "THROUGHPUT", "CUMULATIVE_THROUGHPUT"), "dynamic": YES_OR_NO},
    "torch-eager": {"int8": INT8, "dynamic": YES_OR_NO},
    "torch-inductor": {"mode": MODES, "int8": INT8, "dynamic": YES_OR_NO},
    "torch-export": {"dynamic": YES_OR_NO},
}
"""Options of ours with their values, none where any may be; `torch-export` is a format of `bmp convert`."""


def backend_names() -> list[str]:
    """Names of all installed backends."""
    return sorted(BACKENDS.all())


def backend(name: str) -> Backend:
    """A backend by name. Raises UserError for one that is unknown or can't be loaded."""
    loaded: Backend = BACKENDS.load(name)()
    return loaded


def check_names(names: Sequence[str]) -> list[str]:
    """The names, with `all` spelled out. Raises UserError for an unknown one."""
    BACKENDS.check(names, also=("all",))
    spelled = [choice for name in names for choice in (backend_names() if name == "all" else [name])]
    return list(dict.fromkeys(spelled))


def check_options(backends: list[str], given: dict[str, str]) -> None:
    """Every --backend-option is one that a backend of the run knows. Raises UserError. A vendor's backend checks its own."""
    if any(name not in OPTIONS for name in backends):
        return
    known = {key: values for name in backends for key, values in OPTIONS[name].items()}
    for key, value in given.items():
        if key not in known:
            raise UserError(f"--backend-option {key} is unknown to {', '.join(backends)}", nearest(key, known))
        if known[key] and value not in known[key]:
            raise UserError(f"--backend-option {key}={value} is unknown", nearest(value, known[key]))
