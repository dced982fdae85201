"""The LLM serving suite. `open` and `serve_bench` are its Python interface (`bytemlperf_llm.api`), imported when they are used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bytemlperf_llm.api import Run, serve_bench
    from bytemlperf_llm.api import open_run as open

__all__ = ["Run", "open", "serve_bench"]

_API = {"open": "open_run", "serve_bench": "serve_bench", "Run": "Run"}


def __getattr__(name: str) -> Any:
    if name not in _API:
        raise AttributeError(f"module 'bytemlperf_llm' has no attribute {name!r}")
    from bytemlperf_llm import api

    return getattr(api, _API[name])
