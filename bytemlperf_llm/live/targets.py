"""The service levels of a scenario, as metrics take them."""

from __future__ import annotations

from bytemlperf_llm.metrics.facts import SloMs
from bytemlperf_llm.plan.scenario import Scenario, Slo


def slo_ms(slo: Slo) -> SloMs:
    return SloMs(ttft=slo.ttft_ms, tpot=slo.tpot_ms, e2e=slo.e2e_ms, session=slo.session_ms)


def targets_of(scenario: Scenario) -> dict[str | None, SloMs]:
    """Those of requests by class, None without one; nothing where none are set."""
    slos: dict[str | None, Slo] = {None: scenario.slo, **{name: keys.slo or scenario.slo for name, keys in scenario.classes.items()}}
    return {name: levels for name, slo in slos.items() if (levels := slo_ms(slo).of_requests()) != SloMs()}
