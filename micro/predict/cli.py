"""`bmp predict`: parse, wire, nothing else."""

from __future__ import annotations

from bytemlperf.command.flags import with_flags
from micro.predict.flags import Flags


@with_flags
def predict(flags: Flags) -> None:
    """Predict TTFT, TPOT and throughput of a model from its operators."""
    from micro.predict.run import run

    run(flags)
