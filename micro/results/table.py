"""Rows as tables."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from bytemlperf.runs.kinds import Table
from micro.measure.timing import Latency
from micro.roofline import MEASURED, SHEET, above_peak, bound
from micro.sweep.row import Row

COLUMNS = (
    "case",
    "provider",
    "status",
    "p50 µs",
    "−/+ %",
    "p10",
    "p90",
    "p99",
    "noise",
    "GB/s",
    "TFLOP/s",
    "FLOP/B",
    "alg GB/s",
    "bus GB/s",
    "skew %",
    "MFU %",
    "MBU %",
    "CBU %",
    "% of roof",
    "by",
    "% of sheet",
    "MBU % sheet",
    "buffers",
    "threads",
    "remarks",
)
ROWS = "Every case"
SPARE = ("FLOP/B", "p10", "p90", "MBU % sheet", "% of sheet", "alg GB/s", "MBU %", "MFU %", "p99", "by", "status", "−/+ %")
"""What a narrow terminal does without; all figures are in the record."""
LATENCIES = {"p50 µs": "p50", "p10": "p10", "p90": "p90", "p99": "p99"}
RATES = {"GB/s": "mem_bw_gbs", "TFLOP/s": "tflops", "FLOP/B": "intensity", "alg GB/s": "alg_bw_gbs", "bus GB/s": "bus_bw_gbs"}
SHARES = {"MFU %": "mfu", "MBU %": "mbu", "CBU %": "cbu", "% of roof": "roof"}
LEGEND = (
    "Latency is of one call; p50 with its 95 % interval from order statistics (−/+ %: how far it reaches below and above). Rates are "
    "at p50. MFU, MBU and CBU are shares of this machine's measured peaks, '% of roof' of what the arithmetic intensity allows, 'by' "
    "what binds; '% of sheet' is the same against the data sheet. Buffers: cold from memory, warm or hot from a cache."
)


def cells(row: Row) -> list[str | float | int | None]:
    """One row's cells under COLUMNS, numbers as numbers."""
    latency, shares = row.latency_us, row.efficiency or {}
    values: dict[str, str | float | int | None] = {
        "case": row.case,
        "provider": row.provider,
        "status": row.status,
        "−/+ %": _off(latency),
        "noise": row.noise.partition(":")[0],
        "skew %": _percent(row.skew),
        "by": bound(row),
        "% of sheet": _percent(shares.get(f"roof_{SHEET}", shares.get(f"cbu_{SHEET}"))),
        "MBU % sheet": None if f"roof_{SHEET}" in shares else _percent(shares.get(f"mbu_{SHEET}")),  # a CPU's sheet has no FLOP/s
        "buffers": row.buffers.partition(":")[0],
        "threads": row.threads if latency else None,
        "remarks": _remarks(row),
    }
    values |= {column: getattr(latency, name, None) for column, name in LATENCIES.items()}
    values |= {column: getattr(row, name) if latency else None for column, name in RATES.items()}
    values |= {column: _percent(shares.get(f"{name}_{MEASURED}")) for column, name in SHARES.items()}
    if row.alg_bw_gbs is not None:
        values["GB/s"] = values["FLOP/B"] = values["TFLOP/s"] = None  # a link's bytes say more
    return [values[column] for column in COLUMNS]


def filled(rows: Sequence[Row]) -> tuple[list[str], list[list[str | float | int | None]]]:
    """Columns that at least one row fills, and the rows under them."""
    table = [cells(row) for row in rows]
    used = [place for place in range(len(COLUMNS)) if any(line[place] not in (None, "") for line in table)]
    return [COLUMNS[place] for place in used], [[line[place] for place in used] for line in table]


def _percent(share: float | None) -> float | None:
    return None if share is None else share * 100


def _off(latency: Latency | None) -> str | None:
    """How far the median's 95 % interval reaches below and above it, in % of it."""
    if latency is None or latency.ci95_low is None or latency.ci95_high is None:
        return None
    below, above = (abs(side / latency.p50 - 1) * 100 for side in (latency.ci95_low, latency.ci95_high))
    return f"{below:.2g}/{above:.2g}"


def _remarks(row: Row) -> str:
    noise = "" if row.noise.startswith(("steady", "noisy")) else row.noise  # how noisy stands under "−/+ %"
    parts = (row.reason, row.note, noise, _above_remark(row), row.conditions.remark() if row.conditions else "")
    return "; ".join(part for part in parts if part)


def _above_remark(row: Row) -> str:
    above = above_peak(row) if row.status == "ok" else None
    return (
        f"{above[1]} {above[0]:.0%}: the measured peak is low{', or a cache kept the result' if above[1] == 'MBU' else ''}" if above else ""
    )


def operator_tables(rows: Sequence[Row], leave_out: Collection[str] = ()) -> list[Table]:
    """One table an operator; what all of its rows have alike is in the title, and remarks are numbered below it."""
    by_op: dict[str, list[Row]] = {}
    for row in rows:
        by_op.setdefault(row.op, []).append(row)
    return [_operator_table(op, group, leave_out) for op, group in by_op.items()]


def common_arguments(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """Names of arguments that have one value in all rows, and of the others."""
    names = list(dict.fromkeys(name for row in rows for name in row.args))
    same = [name for name in names if len({repr(row.args.get(name)) for row in rows}) == 1]
    return same, [name for name in names if name not in same]


def _operator_table(op: str, rows: list[Row], leave_out: Collection[str]) -> Table:
    same, varying = common_arguments(rows)
    columns, lines = filled(rows)
    shown, said = _same_columns(columns, lines)
    shown = [place for place in shown if columns[place] not in leave_out]
    numbers: dict[str, int] = {}
    sees = [str(numbers.setdefault(remark, len(numbers) + 1)) if (remark := _remarks(row)) else "" for row in rows]
    cells = [
        [*(_argument(row, name) for name in varying), *(line[place] for place in shown), *([see] if numbers else [])]
        for row, line, see in zip(rows, lines, sees, strict=True)
    ]
    return Table(
        title=" ".join([op, *(f"{name}={rows[0].args.get(name)}" for name in same), *said]),
        columns=[*varying, *(columns[place] for place in shown), *(["see"] if numbers else [])],
        rows=cells,
        note="\n".join(f"{number}: {remark}" for remark, number in numbers.items()),
        group=ROWS,
        spare=SPARE,
    )


def _argument(row: Row, name: str) -> str | int | float | None:
    value = row.args.get(name)
    return value if isinstance(value, str | int | float) and not isinstance(value, bool) else None if value is None else str(value)


def _same_columns(columns: list[str], lines: list[list[str | float | int | None]]) -> tuple[list[int], list[str]]:
    """Columns to show, and those of words or threads that say the same in every row, for the title."""
    shown, said = [], []
    for place, column in enumerate(columns):
        if column in ("case", "remarks"):
            continue
        if column in ("provider", "buffers", "threads") and len({line[place] for line in lines}) == 1:
            value = lines[0][place]
            word = "" if column == "provider" else "thread" if (column, value) == ("threads", 1) else column
            said.append(f"· {value} {word}".strip())
        else:
            shown.append(place)
    return shown, said
