"""Per-request metrics from the accumulator's columns: one request at a time, or all of them with numpy.

Both ways are integer arithmetic and give the same values. `definitions` has the formulas.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

from bytemlperf.statistics.arrays import ABSENT, column_of, fast_columns, load_numpy
from bytemlperf.statistics.columns import present
from bytemlperf_llm.metrics.definitions import STAGES, ntpot_ns, tpot_ns

_Columns = dict[str, "array[int]"]


def _difference(later: str, earlier: str) -> Callable[[_Columns, int], int | None]:
    def compute(columns: _Columns, row: int) -> int | None:
        a, b = columns[later][row], columns[earlier][row]
        return None if a == ABSENT or b == ABSENT else a - b

    return compute


def _value(name: str) -> Callable[[_Columns, int], int | None]:
    def compute(columns: _Columns, row: int) -> int | None:
        value = columns[name][row]
        return None if value == ABSENT else value

    return compute


def _tpot(columns: _Columns, row: int) -> int | None:
    first = columns["first"][row]
    return None if first == ABSENT else tpot_ns(first, columns["last"][row], columns["output"][row])


def _ntpot(columns: _Columns, row: int) -> int | None:
    e2e = _E2E(columns, row)
    return None if e2e is None else ntpot_ns(e2e, columns["output"][row])


_E2E = _difference("last", "due")
REQUEST_METRICS: dict[str, Callable[[_Columns, int], int | None]] = {
    "ttft": _difference("first", "due"),
    "service_ttft": _difference("first", "sent"),
    "tpot": _tpot,
    "e2e": _E2E,
    "service_e2e": _difference("last", "sent"),
    "ntpot": _ntpot,
    "max_stall": _value("max_gap"),
    "schedule_lateness": _difference("sent", "planned"),
    **{stage: _value(stage) for stage in STAGES},
}
"""Metric name to its value in one row; None where the row doesn't have it."""

_DIFFERENCES = {
    "ttft": ("first", "due"),
    "service_ttft": ("first", "sent"),
    "e2e": ("last", "due"),
    "service_e2e": ("last", "sent"),
    "schedule_lateness": ("sent", "planned"),
}


def request_values(columns: _Columns, name: str, rows: Sequence[int]) -> Sequence[int]:
    """A metric of these rows, in their order, without those that don't have it."""
    values = request_column(columns, name, rows)
    return present(values) if isinstance(values, array) else [value for value in values if value != ABSENT]


def request_column(columns: _Columns, name: str, rows: Sequence[int]) -> Sequence[int]:
    """A metric of these rows, ABSENT for those that don't have it."""
    fast = _fast_column(columns, name, rows)
    if fast is not None:
        return fast
    compute = REQUEST_METRICS[name]
    values = (compute(columns, row) for row in rows)
    return [ABSENT if value is None else value for value in values]


def _fast_column(columns: _Columns, name: str, rows: Sequence[int]) -> array[int] | None:
    """None where it has to be done row by row."""
    if not isinstance(rows, array):
        return None
    names = {"tpot": ("last", "first", "output"), "ntpot": ("last", "due", "output")}.get(name) or _DIFFERENCES.get(name) or (_plain(name),)
    views, places = fast_columns(*(columns[each] for each in names)), fast_columns(rows)
    numpy = load_numpy() if views is not None and places is not None else None
    if views is None or places is None or numpy is None:
        return None
    picked = [view[places[0]] for view in views]
    there = numpy.logical_and.reduce([part != ABSENT for part in picked])
    if name in ("tpot", "ntpot"):
        there &= picked[2] > (1 if name == "tpot" else 0)
    values = numpy.full(len(there), ABSENT, "i8")
    values[there] = _computed(name, [part[there] for part in picked])
    return column_of(values)


def _plain(name: str) -> str:
    return {"max_stall": "max_gap"}.get(name, name)


def _computed(name: str, parts: list[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    span = parts[0] - parts[1]
    if len(parts) == 2:
        return span
    shares = parts[2] - 1 if name == "tpot" else parts[2]
    return (2 * span + shares) // (2 * shares)
