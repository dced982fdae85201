"""Sessions on the page and in the terminal: how they ended, how long they took and why."""

from __future__ import annotations

from typing import Any

from bytemlperf.report.blocks import metric_cells
from bytemlperf.report.text import number
from bytemlperf.runs.kinds import Table
from bytemlperf.units import NS_PER_S

GROUP = "Sessions"
TITLES = {
    "session_time": "whole time",
    "session_model": "model",
    "session_tool": "tools and thinking",
    "session_queue": "queue in the client",
}
ANSWERS = {"recorded": "the recorded responses are fed back", "live": "the engine's own responses are fed back"}
SPARE = ("p95", "p99.9", "p90")


def session_sections(summary: dict[str, Any]) -> list[Table]:
    """Nothing for a run of single requests."""
    sessions = summary.get("sessions")
    if not sessions:
        return []
    return [_result_table(sessions), *([_time_table(sessions)] if sessions["metrics"] else [])]


def _result_table(sessions: dict[str, Any]) -> Table:
    outcomes = ", ".join(f"{count:,} {name}" for name, count in sessions["outcomes"].items() if count)
    rows = [["sessions", f"{sessions['sessions']:,}: {outcomes}"], ["turns", f"{sessions['turns']:,}"]]
    if sessions["dropped_turns"]:
        rows.append(["turns dropped: parent failed", f"{sessions['dropped_turns']:,}"])
    if sessions["requested_rate"] is not None:
        rows.append(["rate target / actual", f"{number(sessions['requested_rate'])} / {number(sessions['offered_rate'])} sessions/s"])
    rows.append(["completed", f"{number(sessions['completed_per_s'])} sessions/s"])
    if good := sessions["goodput"]:
        share = "–" if good["share"] is None else f"{good['share']:.1%}"
        rows.append([f"goodput (session≤{good['limit_ms']:g} ms)", f"{number(good['sessions_per_s'])} sessions/s, {share}"])
    if path := sessions["critical_path"]:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in path.items())
        rows.append(["critical path", shares])
    return Table(title="", columns=["", ""], rows=rows, note=f"{ANSWERS[sessions['answers']].capitalize()}.", group=GROUP)


def _time_table(sessions: dict[str, Any]) -> Table:
    metrics = sessions["metrics"]
    percents = list(metrics["session_time"]["percentiles"])
    rows = [[TITLES[name], *metric_cells(metric, percents, NS_PER_S), metric["count"]] for name, metric in metrics.items()]
    note = (
        "Of sessions whose turns all succeeded. Model, tools and queue are of the critical path, which goes back from the turn that ended "
        "last, each time to the parent that ended last; they sum to the whole time."
    )
    columns = ["", "mean", *(f"p{percent}" for percent in percents), "n"]
    return Table(title="Seconds", columns=columns, rows=rows, note=note, group=GROUP, spare=SPARE)
