"""A short calibration by itself, before the first run over HTTP that has none to take its error bar from."""

from __future__ import annotations

import os

from bytemlperf.errors import UserError
from bytemlperf_llm.calibration.cache import CALIBRATED_ENGINE, keep, load
from bytemlperf_llm.calibration.ladder import Say, run_calibration
from bytemlperf_llm.metrics.client_error import COMMAND
from bytemlperf_llm.plan.plan import Plan

RATES = (20.0, 100.0, 500.0, 1_000.0)
STEP_S = 1.5
SKIP = ("BMP_CALIBRATE", "0")
"""An environment variable, for whoever can't give --no-calibrate."""


def calibrate_first(plan: Plan, say: Say) -> None:
    """Measure briefly, and keep it, where the plan's engine is one that calibrations are of and this machine has none. What goes wrong with
    it is said, and no reason not to run."""
    engine = plan.engine
    other = engine.name != CALIBRATED_ENGINE or engine.options.get("transport") == "aiohttp"
    if other or not plan.output.calibrate or os.environ.get(SKIP[0]) == SKIP[1] or load()[0] is not None:
        return
    seconds = len(RATES) * (STEP_S + 1)
    say(f"calibrating this client, once on this machine, about {seconds:.0f} s (--no-calibrate skips it; longer and finer: {COMMAND})")
    try:
        keep(run_calibration(lambda text: say(f"calibrating: {text}"), RATES, STEP_S))
    except UserError as error:
        say(f"not calibrated: {error.cause}; {error.fix}")
