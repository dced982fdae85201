"""The comparison as Markdown, and its place in the page between two markers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- compare-peers: begin -->", "<!-- compare-peers: end -->"
ABSENT = "–"
MISSED = 0.95  # a client that offers less than this share of the asked rate is marked


def page(text: str, found: dict[str, Any]) -> str:
    """`text` with what stands between the markers replaced. Raises ValueError without them."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} … {END} in the page")
    return f"{before}{BEGIN}\n\n{markdown(found)}\n{END}{after}"


def write(path: Path, found: dict[str, Any]) -> None:
    """Put the comparison into the page at `path`, and all its figures and commands into the JSON file beside it."""
    path.write_text(page(path.read_text(), found))
    path.with_suffix(".json").write_text(json.dumps(_rounded(found), ensure_ascii=False, indent=1) + "\n")


def add(path: Path, found: dict[str, Any]) -> None:
    """Put a comparison of some clients below the one that the page has; an earlier one of the same clients goes."""
    whole: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    names = [row["name"] for row in found["clients"]]
    others = [each for each in whole.get("further", []) if [row["name"] for row in each["clients"]] != names]
    write(path, whole | {"further": [*others, found]})


def markdown(found: dict[str, Any]) -> str:
    """Tables and commands. Every client has its row in every table, with a reason where there is no figure."""
    parts = _tables(found, "###")
    for further in found.get("further", []):
        names = ", ".join(row["name"] for row in further["clients"])
        parts += [f"### Measured by themselves: {names}\n", *_tables(further, "####")]
    return "\n".join(parts)


def _tables(found: dict[str, Any], level: str) -> list[str]:
    clients = found["clients"]
    parts = [_head(found), f"{level} Cost\n", _cost(clients)]
    for rate in found["rates"]:
        parts += [f"{level} Truth at {rate:g} requests/s\n", _truth(clients, rate)]
    return [*parts, f"{level} Commands\n", _commands(clients)]


def _head(found: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return (
        f"Measured {found['date']} on {found['cpu']}, {found['cores']} cores (client on one, server on another), "
        f"load {found['load_before']:.1f} before the start, in {found['took_s'] / 60:.0f} minutes. {versions}.\n"
        + (f"{found['note']}\n" if found.get("note") else "")
    )


def _cost(clients: Sequence[dict[str, Any]]) -> str:
    columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("start-up, CPU-s", lambda row: _cell(row, "cost", "start_up_cpu_s", "{:.2f}")),
        ("CPU-s per million tokens", lambda row: _cell(row, "cost", "cpu_s_per_million_tokens", "{:.1f}")),
        ("tokens/s, paced", lambda row: _cell(row, "peak", "tokens_per_s", "{:,.0f}")),
        ("tokens/s, unpaced", lambda row: _cell(row, "unpaced", "tokens_per_s", "{:,.0f}")),
        ("one-token responses/s", lambda row: _cell(row, "one_token", "requests_per_s", "{:,.0f}")),
        ("peak memory, MB (requests)", _memory),
    ]
    return _grid([("client", lambda row: row["name"]), *columns], clients)


def _memory(row: dict[str, Any]) -> str:
    if "peak_mb" not in row.get("peak", {}):
        return ABSENT
    return f"{row['peak']['peak_mb']:,.0f} ({row['peak']['requests']:,})"


def _truth(clients: Sequence[dict[str, Any]], rate: float) -> str:
    rows = [
        {"name": row["name"], "run": row.get("truth", {}).get(f"{rate:g}", {"failed": row.get("failed", "not run")})} for row in clients
    ]
    return _grid(
        [
            ("client", lambda row: row["name"]),
            ("actual/s", lambda row: _offered(row["run"], rate)),
            ("dispersion", lambda row: _number(row["run"].get("dispersion"), "{:.2f}")),
            ("TTFT p50 / p99, reported − true, ms", lambda row: _difference(row["run"], "ttft_ms", "true_ttft_ms")),
            ("request by request", lambda row: _pair(row["run"].get("joined_ttft_error_ms"))),
            ("ITL p50 / p99, reported − true, ms", lambda row: _difference(row["run"], "itl_ms", "true_itl_ms")),
            ("ITL is", lambda row: row["run"].get("itl_of", ABSENT)),
        ],
        rows,
    )


def _offered(run: dict[str, Any], rate: float) -> str:
    if "failed" in run:
        return str(run["failed"])
    mark = " **(short)**" if run["offered_per_s"] < MISSED * rate else ""
    own = run.get("verdict")
    said = f" ({own}, it says)" if own not in (None, "valid") else ""
    return f"{run['offered_per_s']:,.1f}{mark}{said}"


def _difference(run: dict[str, Any], reported: str, true: str) -> str:
    if reported not in run:
        return ABSENT
    pairs = zip(run[reported], run[true], strict=True)
    return _pair([None if told is None or known is None else told - known for told, known in pairs])


def _pair(values: Sequence[float | None] | None) -> str:
    return ABSENT if values is None else " / ".join(_number(value, "{:+,.2f}") for value in values)


def _cell(row: dict[str, Any], part: str, key: str, form: str) -> str:
    run = row.get(part) or {}
    if "failed" in row and key == "start_up_cpu_s":
        return str(row["failed"])
    return str(run["failed"]) if "failed" in run else _number(run.get(key), form)


def _number(value: float | None, form: str) -> str:
    return ABSENT if value is None else form.format(value)


def _grid(columns: Sequence[tuple[str, Callable[[dict[str, Any]], str]]], rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| " + " | ".join(name for name, _ in columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(cell(row).replace("|", "\\|").replace("\n", " ") for _, cell in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _commands(clients: Sequence[dict[str, Any]]) -> str:
    """One command a client, of the last run that worked at a rate, else in closed loop; the others differ in numbers."""
    lines = []
    for row in clients:
        runs = [*row.get("truth", {}).values(), row.get("peak") or {}]
        command = next((run["command"] for run in runs if "command" in run), None)
        if command:
            lines.append(f"- {row['name']}{': ' + row['note'] if row.get('note') else ''}\n\n      {command}\n")
    return "\n".join(lines)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
