"""Which files a run leaves besides the run folder's own, by the flags."""

from __future__ import annotations

from pathlib import Path

from bytemlperf_llm.plan import Flags


def check_exports(flags: Flags) -> None:
    """Before anything starts: could they be written? Raises UserError."""
    if flags.csv or flags.parquet:
        from bytemlperf_llm.export.tables import require_polars

        require_polars()


def write_exports(folder: Path, flags: Flags) -> None:
    """Write what was asked for."""
