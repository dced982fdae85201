"""`bmp-llm doctor --calibrate`: the client measurement error of this machine."""

from __future__ import annotations

import sys

from bytemlperf.command.console import print_sections, terminal
from bytemlperf_llm.calibration import cache as calibration_cache
from bytemlperf_llm.calibration.ladder import run_calibration
from bytemlperf_llm.calibration.table import calibration_sections


def run_calibrate() -> int:
    """Measure the client's own error on this machine, keep and print it. Raises UserError when it can't."""
    calibration = run_calibration(lambda text: print(f"calibrating: {text}", file=sys.stderr, flush=True))
    path = calibration_cache.keep(calibration)
    print_sections(terminal(), calibration_sections(calibration))
    print(f"kept in {path}; every run on this machine now reports its client measurement error")
    return 0
