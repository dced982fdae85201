"""Every probe, in the order of the card."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Literal, NamedTuple

from bytemlperf_llm.conformance import engine_probes as by_contract
from bytemlperf_llm.conformance import server_probes as by_request
from bytemlperf_llm.conformance.card import Capability
from bytemlperf_llm.conformance.resources import leaks_nothing
from bytemlperf_llm.conformance.subject import TIMEOUT_S, Asked, Lacks, Untold
from engines.contract import EngineError

NO_REQUEST_FIELD = "the contract of engines has no field for it"
OF_SERVERS = "of servers"


class Probe(NamedTuple):
    """`required` of engines in this process, or of all. `asks` is None where an engine in this process can't be asked, for this reason;
    with OF_SERVERS it has no such line at all."""

    name: str
    asks: Callable[[Asked], Awaitable[str]] | None
    of_server: Callable[[Asked], Awaitable[str]] | None = None
    required: Literal["no", "in process", "always"] = "no"
    reason: str = NO_REQUEST_FIELD


def of_servers(name: str, of_server: Callable[[Asked], Awaitable[str]]) -> Probe:
    return Probe(name, None, of_server, reason=OF_SERVERS)


PROBES = (
    Probe("describes itself", by_contract.describes_itself, required="always"),
    Probe("stamps", by_contract.stamps, required="always"),
    Probe("decoding", by_contract.decodes, required="always"),
    Probe("streaming", by_contract.streams, required="always"),
    of_servers("streaming order", by_request.orders_events),
    Probe("usage", by_contract.reports_usage, required="in process"),
    Probe("max_tokens", by_contract.counts_tokens, required="always"),
    Probe("ignore_eos", by_contract.ignores_eos, required="in process"),
    Probe("min_tokens", None, by_request.keeps_to_min_tokens),
    Probe("stop strings", None, by_request.stops_at_strings),
    Probe("stop reasons", by_contract.gives_reasons),
    Probe("several answers (n)", None, by_request.gives_several),
    Probe("logprobs", None, by_request.gives_logprobs),
    Probe("seeds", by_contract.repeats_seeds),
    Probe("greedy alone", by_contract.greedy_alone),
    Probe("greedy in a batch", by_contract.greedy_in_batch),
    Probe("tools", by_contract.takes_tools, by_request.calls_tools),
    Probe("reasoning", None, by_request.tells_reasoning, reason="reasoning comes as text"),
    Probe("cached tokens", by_contract.tells_cached),
    Probe("stages", by_contract.reports_stages, required="in process"),
    Probe("requests at once", by_contract.runs_concurrently, required="always"),
    Probe("cancelling", by_contract.frees_cancelled, required="always"),
    Probe("too long a prompt", by_contract.refuses_too_long),
    of_servers("errors", by_request.classes_errors),
    of_servers("keep-alive", by_request.keeps_alive),
    of_servers("HTTP version", by_request.speaks_http),
    of_servers("compression", by_request.compresses),
    of_servers("model list", by_request.lists_models),
    of_servers("metrics page", by_request.has_metrics),
    Probe("unknown options", by_contract.refuses_bad_options, required="always"),
)
LEAKS, SHUTDOWN = "no leak", "clean shutdown"


async def capability(probe: Probe, asked: Asked) -> Capability | None:
    """The line of one probe; None where the card has none. Never raises for what an engine or a server does."""
    ask = (probe.of_server or probe.asks) if asked.remote else probe.asks
    if ask is None and probe.reason == OF_SERVERS:
        return None
    required = probe.required == "always" or (probe.required == "in process" and not asked.remote)
    if ask is None:
        return Capability(name=probe.name, status="not available", detail=probe.reason)
    return await tried(probe.name, ask, asked, required=required)


async def leaks(asked: Asked, requests: int) -> Capability:
    return await tried(LEAKS, partial(leaks_nothing, requests=requests), asked, timeout_s=None)


async def tried(
    name: str, ask: Callable[[Asked], Awaitable[str]], asked: Asked, *, required: bool = False, timeout_s: float | None = TIMEOUT_S
) -> Capability:
    try:
        return Capability(name=name, status="yes", detail=await asyncio.wait_for(ask(asked), timeout_s), required=required)
    except Untold as untold:
        return Capability(name=name, status="not available", detail=str(untold), required=required)
    except Lacks as lacking:
        return Capability(name=name, status="no", detail=str(lacking), required=required)
    except EngineError as error:
        return Capability(name=name, status="no", detail=f"{error.error_class}: {error.detail}", required=required)
    except TimeoutError:
        return Capability(name=name, status="no", detail=f"nothing within {timeout_s:g} s", required=required)
