"""The terms that a page explains where it uses them, in the words of docs/glossary.md."""

from __future__ import annotations

import re

TERMS = {
    "TTFT": "time to first token: first token − due",
    "TPOT": "time per output token: (last − first token) / (tokens − 1)",
    "NTPOT": "E2E / output tokens",
    "ITL": "inter-token latency: the time between two tokens of a stream",
    "E2E": "end-to-end latency: last token − due",
    "send delay": "sent − due: the client's own part of a latency",
    "goodput": "requests a second that meet every service level; failures miss",
    "SLO": "a limit on TTFT, TPOT, E2E or a session's time that each request is held against",
    "fluidity": "the share of token deadlines that a response met, with slack carried on: 1 is a reader who never waits",
    "interactivity": "tokens a second that one user sees: 1 / TPOT",
    "insufficient": "the sample is too small for this percentile to be claimed",
    "acceptance": "of speculative decoding: tokens a step, 1 + accepted / drafts; accepted / drafted tokens",
    "KV cache": "keys and values of attention that an engine keeps of each request; when it is full, requests wait or are preempted",
    "prefix cache": "the KV cache of prompts' beginnings, reused by later prompts that begin alike",
    "critical path": "in a session, the turns and tools whose times sum to its whole time",
    "fairness": "Jain's index of the classes' goodput over their target rate: 1 is equal",
    "debt": "of a fault: by how long requests were late together, until they were in time again",
    "knee": "the point of a latency curve from which more load brings more waiting than throughput",
    "steady state": "the part of a run without ramps at its beginning and end",
    "bus bandwidth": "bytes a second that a collective moves over the slowest link, comparable between collectives and numbers of ranks",
    "MFU": "memory bandwidth and FLOP/s in use, over the machine's peak",
    "MBU": "memory bandwidth and FLOP/s in use, over the machine's peak",
}
_FIRST = re.compile(r"(?<![\w])(" + "|".join(sorted(map(re.escape, TERMS), key=len, reverse=True)) + r")(?![\w])", re.IGNORECASE)
_BY_LOWER = {term.lower(): term for term in TERMS}


def term_in(label: str) -> str:
    """The first term that a label has; empty where it has none."""
    found = _FIRST.search(label)
    return _BY_LOWER[found[1].lower()] if found else ""


def term_id(term: str) -> str:
    """Of the element that explains it."""
    return "term-" + term.lower().replace(" ", "-")
