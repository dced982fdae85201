"""`bmp-llm quality`: one row a run, its speed beside how much of the reference's responses it gives."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bytemlperf.command.console import print_sections, print_text, terminal
from bytemlperf.errors import UserError
from bytemlperf.report.text import number
from bytemlperf.runs.conditions import of_one_run
from bytemlperf.runs.folder import part, read_run_of
from bytemlperf.runs.kinds import Figure, Section, Table, run_kind
from bytemlperf.runs.records import RunRecords
from bytemlperf.runs.suite import summarise_suite
from bytemlperf.units import NS_PER_MS
from bytemlperf_llm.plan.scenario import scenario_of, seed_of
from bytemlperf_llm.quality.agreement import GARBAGE, Agreement, Share, agreement_of
from bytemlperf_llm.record.record import RequestRecord

WORDS_EDGES = (1, 4, 16, 64, 256)
SAME_WORK = ("prompts", "classes", "output_tokens", "sampling")


def quality(runs: Sequence[Path], reference: Path, again: Path | None, fail_if: Sequence[str], *, as_json: bool) -> int:
    """Print it; 0, 1 where a response is garbage or a condition holds. Raises UserError."""
    known = _described(reference)
    rows = [_row(folder, known, reference, again) for folder in runs]
    failures = [f"{row.folder}: {text}" for row in rows for text in _unmet(row.found, fail_if)]
    if as_json:
        shown = [{"folder": str(row.folder), **_shown(row.found)} for row in rows]
        print(json.dumps({"reference": str(reference), "runs": shown, "fail_if": failures}))
    else:
        console = terminal()
        print_sections(console, _sections(rows, noisy=again is not None))
        for text in failures:
            print_text(console, text, title="failed")
    return int(bool(failures) or any(row.found.verdict == GARBAGE for row in rows))


class Row(NamedTuple):
    """A run beside the reference."""

    folder: Path
    run: dict[str, Any]
    summary: dict[str, Any]
    found: Agreement


def _row(folder: Path, known: dict[str, Any], reference: Path, again: Path | None) -> Row:
    """Raises UserError."""
    for other in (folder, again):
        if other is not None:
            _refuse_others(known, _described(other), other, reference)
    found = agreement_of(_records(folder), _records(reference), None if again is None else _records(again))
    if found is None:
        raise UserError(f"{folder} and {reference} have no answered request in common", "give runs that were not stopped so early")
    return Row(folder, _described(folder), summarise_suite(folder), found)


def _described(folder: Path) -> dict[str, Any]:
    return read_run_of(folder, "llm", "give a folder of `bmp-llm serve-bench`")


def _records(folder: Path) -> RunRecords[RequestRecord]:
    return RunRecords(folder, run_kind("llm").record)


def _refuse_others(known: dict[str, Any], run: dict[str, Any], folder: Path, reference: Path) -> None:
    """Only greedy responses to the same prompts compare. Raises UserError."""
    ours, theirs = scenario_of(run), scenario_of(known)
    if ours.sampling.temperature > 0:
        raise UserError(f"{folder} drew its tokens (temperature {ours.sampling.temperature:g})", "run both with temperature 0")
    apart = [name for name in SAME_WORK if getattr(ours, name) != getattr(theirs, name)]
    if seed_of(run) != seed_of(known):
        apart.append("seed")
    if apart:
        raise UserError(
            f"{folder} sent other requests than {reference}: {', '.join(apart)}", "run both with the same scenario, lengths and seed"
        )


def _unmet(found: Agreement, conditions: Iterable[str]) -> list[str]:
    """`agreement < 98` (per cent), `length_ratio < 0.9`. Raises UserError."""
    figures = {
        "agreement": Figure(key="quality", metric="agreement", value=100 * found.equal.value, unit="%", better="higher"),
        "length_ratio": Figure(key="quality", metric="length_ratio", value=found.length_ratio, unit="", better="neither"),
    }
    unmet = []
    for text in conditions:
        condition = of_one_run(text.replace("%", ""))
        if condition.metric not in figures:
            raise UserError(f"--fail-if {text!r} names no figure of quality", f"give {' or '.join(figures)}")
        if fault := condition.fault(figures[condition.metric]):
            unmet.append(f"{condition.text}: {fault}")
    return unmet


def _shown(found: Agreement) -> dict[str, Any]:
    shares = {"agreement": found.equal, "noise": found.noise}
    named = {name: share and {"value": share.value, "ci95": share.interval, "n": share.n} for name, share in shares.items()}
    return {**msgspec.to_builtins(found), **named, "first_difference_words": _histogram(found.first_difference_words)}


def _histogram(words: Sequence[int]) -> dict[str, int]:
    """How many parted within so many words; "more" beyond the last edge."""
    named = dict.fromkeys((*map(str, WORDS_EDGES), "more"), 0)
    for place in words:
        named[next((str(edge) for edge in WORDS_EDGES if place < edge), "more")] += 1
    return named


def _percent(share: Share | None) -> str:
    if share is None:
        return ""
    low, high = share.interval
    return f"{share.value:.1%}\n{low:.1%} – {high:.1%}"


def _sections(rows: Sequence[Row], *, noisy: bool) -> list[Section]:
    noise = ["reference again"] if noisy else []
    columns = ["run", "engine", "tokens/s", "TPOT p50, ms", "agreement", *noise, "words until they part", "length", "verdict"]
    note = (
        "agreement: responses that are the reference's to the byte, with Wilson's 95 % interval; length: output tokens over the reference's"
    )
    table = Table(title="Quality", columns=columns, rows=[_cells(row, noisy=noisy) for row in rows], note=note)
    ends = [
        [row.run["label"], name, f"{ours:,}", f"{theirs:,}"]
        for row in rows
        for name, (ours, theirs) in {**row.found.stops, **row.found.faults}.items()
        if ours or theirs
    ]
    return [table, Table(title="How responses ended", columns=["run", "", "responses", "reference"], rows=ends)]


def _cells(row: Row, *, noisy: bool) -> list[str]:
    engine, found = part(row.run, "engine"), row.found
    rate = part(row.summary, "rates", "output_token_throughput").get("value")
    tpot_ns = part(row.summary, "metrics", "tpot", "percentiles").get("50")
    return [
        row.run["label"],
        " ".join(str(engine.get(key) or "") for key in ("name", "dtype")).strip(),
        number(rate) if isinstance(rate, float | int) else "",
        number(tpot_ns / NS_PER_MS) if isinstance(tpot_ns, float | int) else "",
        _percent(found.equal),
        *([_percent(found.noise)] if noisy else []),
        "" if found.first_difference is None else f"{found.first_difference:g}",
        f"{found.length_ratio:.3f}",
        found.verdict,
    ]
