"""What of the page a run's end shows in a terminal, and the next command that is worth trying."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.runs.kinds import Section, Table, Text
from bytemlperf.runs.verdicts import SOUND
from bytemlperf_llm.metrics.client_error import ClientError, sentence
from bytemlperf_llm.pages.bound import bound_sections
from bytemlperf_llm.pages.causes import cause_lines
from bytemlperf_llm.pages.groups import group_sections
from bytemlperf_llm.pages.latency import ANSWERS, DETAILS, latency_table
from bytemlperf_llm.pages.load import failure_table, fault_sections, result_table, schedule_table, steady_note
from bytemlperf_llm.pages.prefix import prefix_sections
from bytemlperf_llm.pages.sessions import session_sections

ENOUGH_REQUESTS = {"99": 459, "99.9": 4603}
"""The fewest requests whose order statistics carry a percentile at 99 % confidence: log(0.01) / log(p)."""


NEAR = 0.05
"""A latency from sent that is so near to the one from due says nothing of its own."""


def terminal_sections(run: dict[str, Any], summary: dict[str, Any]) -> list[Section]:
    """Latencies and what was reached; failures and outages where there were any. Whether the load was on target is a detail where it
    was, and so are latencies without the client's own wait where there was none."""
    title = "latency, ms (percentiles by nearest rank; 95 % interval below each figure)"
    on_target = summary["verdict"] in SOUND
    load = msgspec.structs.replace(schedule_table(summary), title="", note="", detail=on_target)
    more = latency_table(summary, DETAILS)
    sections: list[Section] = [
        msgspec.structs.replace(latency_table(summary, ANSWERS), title=title, note=""),
        msgspec.structs.replace(more, title="more latencies, ms", note="", detail=on_target and not _waited(summary)),
        result_table(summary),
        *group_sections(summary),
        *(_bare(section, "sessions: ") for section in session_sections(summary)),
        *(_bare(section) for section in prefix_sections(summary)),
        load,
    ]
    sections += [failure_table(summary, most=1)] if summary.get("failures") else []
    sections += fault_sections(summary, 0)
    error = msgspec.convert(summary["client_error"], ClientError) if summary.get("client_error") else None
    notes = run.get("engine", {}).get("notes", [])
    return [
        *sections,
        *cause_lines(summary),
        *_said("until", summary.get("until", {}).get("sentence", "")),
        *(msgspec.structs.replace(section, title="engine or hardware") for section in bound_sections(summary)[:1]),
        *_said("steady state", steady_note(summary), detail=on_target),
        *(_said("client measurement error", sentence(error), detail=error.ttft_p50_ms is not None) if error else ()),
        *_said("scenario", f"{run['config']['scenario']['name']}, schedule {run['schedule_sha256'][:12]}", detail=True),
        *(Text(body=note, style="warning") for note in notes if "random weights" in note),
    ]


def _said(title: str, body: str, *, detail: bool = False) -> list[Text]:
    return [Text(title=title, body=body, detail=detail)] if body else []


def _waited(summary: dict[str, Any]) -> bool:
    """Whether requests waited in the client so long that it shows in the latency."""
    name = "ttft" if "ttft" in summary["metrics"] else "e2e"
    means = [summary["metrics"].get(each, {}).get("mean") for each in (name, f"service_{name}")]
    due, sent = (mean if isinstance(mean, int | float) else 0.0 for mean in means)
    return bool(due - sent > NEAR * due)


def _bare(section: Table, kind: str = "") -> Table:
    return msgspec.structs.replace(section, title=section.title and f"{kind}{section.title.lower()}", note="")


def next_command(run: dict[str, Any], summary: dict[str, Any], folder: Path) -> tuple[str, str]:
    """One thing worth trying, by what the run showed, and why: mostly its own command with something more."""
    words, why = _advice(run, summary, folder)
    return shlex.join(words), why


def _advice(run: dict[str, Any], summary: dict[str, Any], folder: Path) -> tuple[list[str], str]:
    command = [str(word) for word in run.get("command") or ["bmp-llm", "serve-bench"]]
    verdict, end = summary["verdict"], run.get("end") or {}
    if verdict in ("invalid", "failing"):
        if summary["outcomes"]["dropped"] and not summary.get("sessions") and (not end or end.get("stopped_by_user") or end.get("failure")):
            return ["bmp-llm", "resume", str(folder)], "send the rest"
        if verdict == "failing":
            return ["bmp-llm", "doctor"], "check the installation, and read the server's own log"
        if summary["outcomes"]["ok"]:
            return ["bmp-llm", "doctor", "--calibrate"], "what this client can carry on this machine"
        return ["bmp-llm", "doctor"], "check the installation"
    if verdict == "overloaded":
        return [*_without(command, "--request-rate"), "--request-rate", "auto"], "70 % of the server's capacity"
    rate = run["config"]["scenario"]["arrival"]["rate"]
    claims = summary["metrics"].get("ttft", {}).get("percentiles", {})
    missing = [(percent, requests) for percent, requests in ENOUGH_REQUESTS.items() if claims.get(percent) == "insufficient"]
    if missing and rate and not summary.get("sessions"):
        percent, requests = missing[0]
        longer = _without(command, "--request-rate", "--num-prompts", "--duration")
        return [*longer, "--request-rate", f"{rate:g}", "--num-prompts", str(requests)], f"enough for a p{percent}"
    if "--prometheus-port" in command:
        return ["bmp-llm", "verify", str(folder)], "unchanged since the run?"
    return [*command, "--prometheus-port", "9400"], "watch it live"


def _without(command: list[str], *flags: str) -> list[str]:
    """The command without these flags and their values."""
    kept: list[str] = []
    words = iter(command)
    for word in words:
        if word in flags:
            next(words, None)
        elif word.partition("=")[0] not in flags:
            kept.append(word)
    return kept
