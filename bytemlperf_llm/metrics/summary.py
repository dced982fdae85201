"""summary.json: everything a run says, as a pure function of its records and its facts.

`summarize(records, facts)` is `summary_of(Accumulator(None, Targets(facts)).add_all(records), facts)`: the live path
feeds an accumulator as it goes, `bmp-llm summarize` feeds one from the record log, and both end
in the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import msgspec

from bytemlperf.arrivals.delivered import tail_lateness
from bytemlperf.lazy import numpy
from bytemlperf.runs.verdicts import VerdictName
from bytemlperf.statistics.columns import ABSENT, Column, total_of
from bytemlperf.statistics.metric import Metric, describe
from bytemlperf.statistics.statistics import INTERVAL_DEFINITION, PERCENTILE_DEFINITION, parse_percentile, percentile
from bytemlperf_llm.metrics import recount
from bytemlperf_llm.metrics.accumulator import OUTCOMES, OWN_LIMIT, Accumulator, Failure
from bytemlperf_llm.metrics.client_error import ClientError
from bytemlperf_llm.metrics.definitions import FORMULAS, STAGES
from bytemlperf_llm.metrics.describe import describe_tokens
from bytemlperf_llm.metrics.facts import RunFacts, normalised
from bytemlperf_llm.metrics.faults import Fault, find_faults
from bytemlperf_llm.metrics.fluidity import Fluidity, Targets, fluidity_of
from bytemlperf_llm.metrics.groups import ClassGroup, Fairness, Group, classes_of, endpoints_of, fairness_of
from bytemlperf_llm.metrics.load import Load, client_lateness, measure_load, offered_requests
from bytemlperf_llm.metrics.outages import Outage, find_outages
from bytemlperf_llm.metrics.prefix import PrefixCache
from bytemlperf_llm.metrics.rates import (
    Goodput,
    Rate,
    SteadyState,
    Window,
    goodput,
    in_flight_steps,
    steady_state,
    throughput,
    until_idle,
    whole_window,
)
from bytemlperf_llm.metrics.reasoning import Reasoning, reasoning_of
from bytemlperf_llm.metrics.recount import Counted
from bytemlperf_llm.metrics.server_times import ServerTimes, server_times_of
from bytemlperf_llm.metrics.sessions import Sessions, idle_ns, sessions_of
from bytemlperf_llm.metrics.speculation import Speculation
from bytemlperf_llm.metrics.stalls import Stalls, find_stalls
from bytemlperf_llm.metrics.tokens import Tokens, token_warnings
from bytemlperf_llm.metrics.verdict import (
    LENGTH_TOLERANCE,
    Evidence,
    autocorrelation_warnings,
    judge,
    length_warnings,
    load_warnings,
    outcome_warnings,
)
from bytemlperf_llm.record.record import RequestRecord

FORMAT_VERSION = 1

LATENCIES = ("ttft", "service_ttft", "tpot", "e2e", "service_e2e", "ntpot")
"""Metrics of a whole request, given again with requests that never ended counted as infinite."""


class Summary(msgspec.Struct, kw_only=True):
    """The content of summary.json. `outcomes` always sums to `scheduled`: requests without a
    record count as dropped. Metrics that no record has are absent. `client_error`, `prefix` and `speculation` come from run.json too,
    which may hold a calibration of the machine, and what is known of its prefix cache and its drafts."""

    format_version: int = FORMAT_VERSION
    verdict: VerdictName
    reasons: list[str]
    warnings: list[str]
    scheduled: int
    outcomes: dict[str, int]
    failures: dict[str, Failure]
    outages: list[Outage]
    faults: list[Fault]
    metrics: dict[str, Metric]
    rates: dict[str, Rate]
    goodput: Goodput | None
    steady_state: SteadyState
    load: Load
    tokens: Tokens
    stage_shares: dict[str, float] | None
    client_error: ClientError | None = None
    sessions: Sessions | None = None
    classes: dict[str, ClassGroup] = {}
    fairness: Fairness | None = None
    endpoints: dict[str, Group] = {}
    prefix: PrefixCache | None = None
    stalls: Stalls | None = None
    fluidity: Fluidity | None = None
    reasoning: Reasoning | None = None
    server_times: ServerTimes | None = None
    speculation: Speculation | None = None
    percentile_definition: str = PERCENTILE_DEFINITION
    interval_definition: str = INTERVAL_DEFINITION


def summarize(records: Iterable[RequestRecord], facts: RunFacts, counted: Counted | None = None) -> Summary:
    """The summary of a run's records, in any order, and of the answers that were recounted."""
    return summary_of(Accumulator(counted, Targets(facts)).add_all(records), facts)


def summary_of(acc: Accumulator, facts: RunFacts) -> Summary:
    """The summary of everything added so far."""
    facts = normalised(facts)
    scheduled = len(acc) if facts.scheduled_requests is None else facts.scheduled_requests
    unrecorded = max(0, scheduled - len(acc))
    delays, capped = client_lateness(acc, facts.max_concurrency)
    load = measure_load(acc, facts, capped, delays)
    metrics = _metrics(acc, facts, delays)
    steps = in_flight_steps(acc)
    whole = whole_window(acc) or Window(start_ns=0, end_ns=0)
    idle = None if facts.sessions is None else idle_ns(acc.sessions, open_loop=facts.open_loop)
    steady = steady_state(acc, steps, whole) if idle is None else until_idle(whole, idle)
    tokens = _tokens(acc)
    sent = offered_requests(acc)
    evidence = _evidence(acc, scheduled, load, tail_lateness(delays), "ttft" if "ttft" in metrics else "e2e")
    verdict, classes, outages = judge(facts, evidence), classes_of(acc, facts, steady), find_outages(acc)
    effective = [(name, metric.count, metric.effective_count) for name, metric in metrics.items() if name in ("ttft", "tpot", "e2e")]
    return Summary(
        verdict=verdict.verdict,
        reasons=verdict.reasons,
        warnings=[
            *outcome_warnings(acc.outcomes, scheduled, unrecorded),
            *load_warnings(facts, load, sent),
            *token_warnings(tokens, acc.outcomes["ok"]),
            *(length_warnings(*_off_length(acc), acc.outcomes["ok"]) if facts.ignore_eos else []),
            *recount.warnings(tokens.recount, tokens.answers_without_usage + tokens.answers_usage_not_taken),
            *autocorrelation_warnings(effective),
        ],
        scheduled=max(scheduled, len(acc)),
        outcomes={name: acc.outcomes[name] + (unrecorded if name == "dropped" else 0) for name in OUTCOMES},
        failures=acc.failures.table(),
        outages=outages,
        faults=find_faults(acc, facts, outages),
        metrics=metrics,
        rates=throughput(acc, steady),
        goodput=goodput(acc, steady, facts.slo_ms, facts.classes),
        steady_state=steady,
        load=load,
        tokens=tokens,
        stage_shares=_stage_shares(acc),
        sessions=sessions_of(acc, facts, steady.window),
        classes=classes,
        fairness=fairness_of(classes),
        endpoints=endpoints_of(acc, facts, steady),
        stalls=find_stalls(acc),
        fluidity=fluidity_of(acc.columns, acc.rows("ok")),
        reasoning=reasoning_of(acc),
        server_times=server_times_of(acc, facts.percentiles),
    )


def _evidence(acc: Accumulator, scheduled: int, load: Load, tail_lateness_ns: int | None, latency: str) -> Evidence:
    repeated, ok_rows = len(acc) - len(numpy.unique(acc.columns["index"])), acc.rows("ok")
    latencies = numpy.sort(acc.request_values(latency, ok_rows))
    return Evidence(
        outcomes=acc.outcomes,
        scheduled=scheduled,
        unrecorded=max(0, scheduled - len(acc)),
        contradictions=max(repeated, len(acc) - scheduled),
        sent_requests=offered_requests(acc),
        load=load,
        tail_lateness_ns=tail_lateness_ns,
        median_latency_ns=percentile(latencies, parse_percentile("50")) if len(latencies) else None,
        client_failures=acc.failures.counts[OWN_LIMIT],
        answers_without_token=int((acc.columns["last"][ok_rows] == ABSENT).sum()),
        parents_failed=acc.sessions.dropped_turns,
    )


def _metrics(acc: Accumulator, facts: RunFacts, delays: Column) -> dict[str, Metric]:
    ok_rows, all_rows = acc.rows("ok"), acc.rows()
    censored = acc.outcomes["failed"] + acc.outcomes["cancelled"] + acc.outcomes["in_flight"]
    rank = numpy.argsort(all_rows)  # each row's place among them

    def of_requests(name: str, rows: Column, infinite: int | None = None, unit: str = "ns") -> Metric | None:
        return describe(acc.request_values(name, rows), unit, FORMULAS[name], facts.percentiles, infinite)

    itl = describe_tokens("itl", acc.itl, rank, facts.percentiles)
    handoff = acc.itl.firsts(rank) if facts.roles else ()
    found = {
        "ttft": of_requests("ttft", ok_rows, censored),
        "service_ttft": of_requests("service_ttft", ok_rows, censored),
        "time_to_first_reasoning_token": of_requests("time_to_first_reasoning_token", ok_rows),
        "time_to_first_answer_token": of_requests("time_to_first_answer_token", ok_rows),
        "tpot": of_requests("tpot", ok_rows, censored),
        "itl": itl,
        "handoff": describe(handoff, "ns", FORMULAS["handoff"], facts.percentiles, None),
        "inter_chunk_latency": _inter_chunk(acc, itl, rank, facts),
        "e2e": of_requests("e2e", ok_rows, censored),
        "service_e2e": of_requests("service_e2e", ok_rows, censored),
        "ntpot": of_requests("ntpot", ok_rows, censored),
        "max_stall": of_requests("max_stall", ok_rows),
        "schedule_lateness": of_requests("schedule_lateness", all_rows),
        "client_lateness": describe(delays, "ns", FORMULAS["client_lateness"], facts.percentiles, None),
        **{stage: of_requests(stage, ok_rows) for stage in STAGES},
        **{name: of_requests(name, ok_rows, unit="tokens") for name in ("reasoning_tokens", "answer_tokens")},
    }
    return {name: metric for name, metric in found.items() if metric is not None}


def _inter_chunk(acc: Accumulator, itl: Metric | None, rank: Column, facts: RunFacts) -> Metric | None:
    if itl is not None and acc.inter_chunk is acc.itl:
        return msgspec.structs.replace(itl, formula=FORMULAS["inter_chunk_latency"])
    return describe_tokens("inter_chunk_latency", acc.inter_chunk, rank, facts.percentiles)


def _tokens(acc: Accumulator) -> Tokens:
    columns, ok_rows = acc.columns, acc.rows("ok")
    unknown = int((columns["prompt"][ok_rows] == ABSENT).sum())
    return msgspec.structs.replace(
        acc.tokens.tokens,
        prompt_tokens=None if unknown else total_of(columns["prompt"][ok_rows]),
        output_tokens=total_of(columns["output"][ok_rows]),
        stream_tokens=acc.stream_tokens,
        answers_without_prompt_count=unknown,
        usage_disagreement=acc.tokens.disagreement,
        batched_token_share=float(Fraction(acc.batched_tokens, acc.stream_tokens)) if acc.stream_tokens else None,
        stream_chunks=acc.stream_chunks,
        recount=None if acc.recount is None else acc.recount.result(),
    )


def _off_length(acc: Accumulator) -> tuple[int, int]:
    """Answers shorter and longer than asked for by more than the tolerance."""
    asked, output = (acc.columns[name][acc.rows("ok")].tolist() for name in ("asked", "output"))
    pairs = [(a, b) for a, b in zip(asked, output, strict=True) if a > 0]
    shorter, longer = (sum(sign * (b - a) > LENGTH_TOLERANCE * a for a, b in pairs) for sign in (-1, 1))
    return shorter, longer


def _stage_shares(acc: Accumulator) -> dict[str, float] | None:
    """Share of each stage in the end-to-end time of the answers that have all stages, their wait
    to be sent included; the shares sum to 1."""
    columns = acc.columns
    rows = acc.rows("ok")
    for name in ("sent", *STAGES):
        rows = rows[columns[name][rows] != ABSENT]
    totals = {name: total_of(columns[name][rows]) for name in ("sent", "due", *STAGES)}
    totals = {"schedule": totals.pop("sent") - totals.pop("due"), **totals}
    whole = sum(totals.values())
    return {name: float(Fraction(value, whole)) for name, value in totals.items()} if whole > 0 else None
