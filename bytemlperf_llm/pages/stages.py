"""Where the time went: the stages of a request, in a usual one and in the slowest ones.

A request's time is cut at the stamps planned → sent → queued → scheduled → first token → last token →
delivered. Where the engine gives no stamps of its own, durations that the server told of its queue and prefill cut out of the time to the
first token what it names; without them what the client saw is all: planned → sent → first token → last token (of vectors and scores: the
response). Shares are sums over a group of requests divided by their summed latency, so that they add up to 1.
"""

from __future__ import annotations

from typing import NamedTuple

from bytemlperf.lazy import numpy
from bytemlperf.report.blocks import bars
from bytemlperf.report.text import number
from bytemlperf.runs.kinds import Plot, Section, Table, Text
from bytemlperf.statistics.columns import ABSENT, Column, Floats, Mask
from bytemlperf.units import NS_PER_MS
from bytemlperf_llm.metrics.definitions import STAGES
from bytemlperf_llm.metrics.server_tally import COLUMN
from bytemlperf_llm.pages.columns import RunColumns

GROUP = "Where the time went"
USUAL = (0.45, 0.55)
SLOWEST = ((459, 0.99, "slowest 1 %"), (44, 0.9, "slowest 10 %"), (0, 0.75, "slowest quarter"))
"""From so many requests on, the slowest are those beyond this share: as many as a p99, a p90 needs."""

WORTH_SAYING = 0.05
MOSTLY = 0.9
"""Of so many answered requests the stages must be known; the others' are what the client saw."""

STAGES_SHOWN = {
    "waiting to be sent": ("@7", "was due, but not sent yet"),
    "reaching the engine": ("@5", "was on its way to the engine"),
    "network, front end": ("@5", "was in the network or in the server's front end"),
    "engine queue": ("@1", "waited in the engine's queue"),
    "prefill": ("@2", "was being prefilled, up to its first token"),
    "to the first token": ("@2", "waited for its first token"),
    "to the response": ("@2", "waited for its response"),
    "decode": ("@0", "was decoding, token by token"),
    "delivery": ("@4", "had its last token on its way back"),
}
"""Colour of each, and what a request did in it."""

ENGINE_STAGES = ("reaching the engine", "engine queue", "prefill", "decode", "delivery")


class Stage(NamedTuple):
    """One stage: its name, and its duration in every answered request, ms."""

    name: str
    values_ms: Floats


class Group(NamedTuple):
    """Some requests: their stages' shares of their time, and the mean of that time, ms."""

    name: str
    shares: dict[str, float]
    mean_ms: float


def stages_of(columns: RunColumns) -> tuple[list[Stage], str]:
    """The stages of answered requests, in order, and where they come from, in a sentence."""
    rows, streams = columns.answered, columns.streams
    seen = [numpy.nan_to_num(columns.between(*ends)[rows]) for ends in (("sent", "due"), ("first", "sent"), ("last", "first"))]
    waiting, to_first, decode = seen
    parts, known, source = _own(columns, to_first)
    if not len(known) or known.mean() < MOSTLY:
        until = "first token" if streams else "response"
        source = f"The engine reports no timestamps: the stages before the {until} can't be separated."
        to_end = numpy.nan_to_num(columns.between("last", "sent")[rows])
        client = {"to the first token": to_first, "decode": decode} if streams else {"to the response": to_end}
        return [Stage(name, values) for name, values in ({"waiting to be sent": waiting} | client).items()], source
    cut = {"waiting to be sent": waiting} | {name: numpy.where(known, values, 0.0) for name, values in parts.items()}
    if unknown := int((~known).sum()):
        source += f" {unknown:,} of {len(known):,} requests have none."
        cut["to the first token"] = numpy.where(known, cut.get("to the first token", 0.0), to_first)
    cut["decode"] = numpy.where(known, parts.get("decode", decode), decode)
    return [Stage(name, cut[name]) for name in STAGES_SHOWN if name in cut], source


def _own(columns: RunColumns, to_first: Floats) -> tuple[dict[str, Floats], Mask, str]:
    """What the engine says of its stages, ms, of which answered requests it is known, and how it says it."""
    rows = columns.answered
    stamps = dict(zip(ENGINE_STAGES, (columns.raw(name)[rows] for name in STAGES), strict=True))
    known = numpy.logical_and.reduce([part != ABSENT for part in stamps.values()])
    if known.any():
        return {name: part / NS_PER_MS for name, part in stamps.items()}, known, "Split at the engine's own timestamps."
    told = {
        name: columns.raw(COLUMN.format(own))[rows]
        for name, own in (("engine queue", "queue"), ("prefill", "prefill"))
        if COLUMN.format(own) in columns.acc.columns
    }
    parts = {name: part / NS_PER_MS for name, part in told.items()}
    rest = to_first - sum(parts.values(), 0.0 * to_first)
    known = numpy.logical_and.reduce([part != ABSENT for part in told.values()]) & (rest >= 0) if told else rest < 0
    parts["network, front end" if "prefill" in parts else "to the first token"] = rest
    return parts, known & columns.streams, "Split by the durations that the server told of each request; the rest is what the client saw."


def _group_rows(latency_ms: Floats, low: float, high: float) -> Column:
    """The requests whose rank lies between two shares; at least one."""
    order = numpy.argsort(latency_ms, kind="stable")
    begin = min(int(low * len(order)), len(order) - 1)
    return order[begin : max(begin + 1, int(numpy.ceil(high * len(order))))]


def shares(stages: list[Stage], rows: Column) -> dict[str, float]:
    """Each stage's part of the summed time of these requests."""
    sums = {stage.name: float(stage.values_ms[rows].sum()) for stage in stages}
    whole = sum(sums.values())
    return {name: value / whole if whole > 0 else 0.0 for name, value in sums.items()}


def stage_sections(columns: RunColumns) -> list[Section]:
    """A sentence, a plot and a table; nothing where nothing was answered."""
    if not columns.answered.any():
        return []
    stages, source = stages_of(columns)
    e2e, ttft = (columns.latencies[name][columns.answered] for name in ("e2e", "ttft"))
    beyond, slow_name = next((share, name) for least, share, name in SLOWEST if len(e2e) >= least)
    until_first = [stage for stage in stages if stage.name not in ("decode", "delivery")]
    of_first = [
        ("first token, typical", until_first, _group_rows(ttft, *USUAL), ttft),
        (f"first token, {slow_name}", until_first, _group_rows(ttft, beyond, 1.0), ttft),
    ]
    groups = [
        *(of_first if columns.streams else []),
        ("whole response, typical", stages, _group_rows(e2e, *USUAL), e2e),
        (f"whole response, {slow_name}", stages, _group_rows(e2e, beyond, 1.0), e2e),
    ]
    found = [Group(name, shares(parts, rows), float(latency[rows].mean())) for name, parts, rows, latency in groups]
    sentence = " ".join([_sentence(group) for group in found[1::2]])
    return [Text(body=sentence, group=GROUP), _plot(found), _table(found, source)]


def _sentence(group: Group) -> str:
    what, _, which = group.name.partition(", ")
    ranked = sorted(((share, stage) for stage, share in group.shares.items()), reverse=True)
    told = [f"{share:.0%} of the time it {STAGES_SHOWN[stage][1]}" for share, stage in ranked[:2] if share >= WORTH_SAYING]
    return f"{what.capitalize()}, {which}: {', '.join(told)}." if told else ""


def _plot(found: list[Group]) -> Plot:
    rows = [f"{group.name} ({number(group.mean_ms)} ms)" for group in reversed(found)]
    data = []
    for stage in found[-1].shares:
        widths = [group.shares[stage] * 100 if stage in group.shares else None for group in reversed(found)]
        data.append(bars(stage, widths, rows, "%{x:.1f} % " + stage, color=STAGES_SHOWN[stage][0], lying=True))
    layout = {
        "barmode": "stack",
        "bargap": 0.35,
        "xaxis": {"title": "share of the time, %", "range": [0, 100]},
        "yaxis": {"title": ""},
        "legend": {"traceorder": "normal"},
    }
    told = (f"{group.name}: " + ", ".join(f"{stage} {share:.0%}" for stage, share in group.shares.items()) for group in found)
    return Plot(title="Share of each stage", data=data, layout=layout, alt="; ".join(told), height=250, group=GROUP)


def _table(found: list[Group], source: str) -> Table:
    stages = list(found[-1].shares)
    rows = [
        [group.name, group.mean_ms, *(f"{group.shares[stage]:.1%}" if stage in group.shares else None for stage in stages)]
        for group in found
    ]
    note = f"{source} Typical: the requests between the 45th and the 55th percentile. Shares of summed time."
    return Table(title="Stages in figures", columns=["requests", "mean, ms", *stages], rows=rows, note=note, folded=True, group=GROUP)
