"""Rows as tables."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from bytemlperf.hardware.peaks import MEASURED, SHEET
from bytemlperf.report.blocks import Cell, table
from bytemlperf.runs.kinds import Section
from bytemlperf.runs.records import grouped
from micro.measure.timing import Latency
from micro.roofline import above_peak, bound
from micro.sweep.row import Row

ROWS = "Every case"
SPARE = ("FLOP/B", "p10", "p90", "MBU % sheet", "% of sheet", "alg GB/s", "MBU %", "MFU %", "p99", "by", "status", "−/+ %")
"""What a narrow terminal does without; all figures are in the record."""
SHARES = {"MFU %": "mfu", "MBU %": "mbu", "CBU %": "cbu", "% of roof": "roof"}
LEGEND = (
    "Latency is of one call; p50 with its 95 % interval from order statistics (−/+ %: how far it reaches below and above). Rates are "
    "at p50. MFU, MBU and CBU are shares of this machine's measured peaks, '% of roof' of what the arithmetic intensity allows, 'by' "
    "what binds; '% of sheet' is the same against the data sheet. Buffers: cold from memory, warm or hot from a cache."
)


def cells(row: Row) -> dict[str, Cell]:
    """One row's cells by column, numbers as numbers."""
    latency, shares, measured = row.latency_us, row.efficiency or {}, row.latency_us is not None
    is_link = row.alg_bw_gbs is not None  # a link's bytes say more than the memory's
    return {
        "provider": row.provider,
        "status": row.status,
        "p50 µs": latency.p50 if latency else None,
        "−/+ %": _off(latency),
        "p10": latency.p10 if latency else None,
        "p90": latency.p90 if latency else None,
        "p99": latency.p99 if latency else None,
        "noise": row.noise.partition(":")[0] or None,
        "GB/s": row.mem_bw_gbs if measured and not is_link else None,
        "TFLOP/s": row.tflops if measured and not is_link else None,
        "FLOP/B": row.intensity if measured and not is_link else None,
        "alg GB/s": row.alg_bw_gbs if measured else None,
        "bus GB/s": row.bus_bw_gbs if measured else None,
        "skew %": _percent(row.skew),
        **{title: _percent(shares.get(f"{name}_{MEASURED}")) for title, name in SHARES.items()},
        "by": bound(row) or None,
        "% of sheet": _percent(shares.get(f"roof_{SHEET}", shares.get(f"cbu_{SHEET}"))),
        "MBU % sheet": None if f"roof_{SHEET}" in shares else _percent(shares.get(f"mbu_{SHEET}")),  # a CPU's sheet has no FLOP/s
        "buffers": row.buffers.partition(":")[0] or None,
        "threads": row.threads if measured else None,
    }


def _percent(share: float | None) -> float | None:
    return None if share is None else share * 100


def _off(latency: Latency | None) -> str | None:
    """How far the median's 95 % interval reaches below and above it, in % of it."""
    if latency is None or latency.ci95_low is None or latency.ci95_high is None:
        return None
    below, above = (abs(side / latency.p50 - 1) * 100 for side in (latency.ci95_low, latency.ci95_high))
    return f"{below:.2g}/{above:.2g}"


def remarks(row: Row) -> str:
    noise = "" if row.noise.startswith(("steady", "noisy")) else row.noise  # how noisy stands under "−/+ %"
    parts = (row.reason, row.note, noise, _above_remark(row), row.conditions.remark() if row.conditions else "")
    return "; ".join(part for part in parts if part)


def _above_remark(row: Row) -> str:
    above = above_peak(row) if row.status == "ok" else None
    return (
        f"{above[1]} {above[0]:.0%}: the measured peak is low{', or a cache kept the result' if above[1] == 'MBU' else ''}" if above else ""
    )


def operator_tables(rows: Sequence[Row], leave_out: Collection[str] = ()) -> list[Section]:
    """One table an operator; what all of its rows have alike is in the title, and remarks are numbered below it."""
    return [section for op, group in grouped(rows, lambda row: row.op).items() for section in _operator_table(op, group, leave_out)]


def common_arguments(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """Names of arguments that have one value in all rows, and of the others."""
    names = list(dict.fromkeys(name for row in rows for name in row.args))
    same = [name for name in names if len({repr(row.args.get(name)) for row in rows}) == 1]
    return same, [name for name in names if name not in same]


def _operator_table(op: str, rows: list[Row], leave_out: Collection[str]) -> list[Section]:
    same, varying = common_arguments(rows)
    lines = [cells(row) for row in rows]
    alike = [name for name in ("provider", "buffers", "threads") if len({line[name] for line in lines}) == 1 and lines[0][name]]
    numbers: dict[str, int] = {}
    for row, line in zip(rows, lines, strict=True):
        line["see"] = str(numbers.setdefault(remark, len(numbers) + 1)) if (remark := remarks(row)) else ""
    hidden = {*leave_out, *alike, *([] if numbers else ["see"])}
    shown = [
        {name: _argument(row, name) for name in varying} | {name: value for name, value in line.items() if name not in hidden}
        for row, line in zip(rows, lines, strict=True)
    ]
    title = " ".join([op, *(f"{name}={rows[0].args.get(name)}" for name in same), *(_said(name, lines[0][name]) for name in alike)])
    note = "\n".join(f"{number}: {remark}" for remark, number in numbers.items())
    return table(title, shown, note=note, group=ROWS, spare=SPARE)


def _said(name: str, value: Cell) -> str:
    """What all rows have alike, for the title."""
    return f"· {value} {'' if name == 'provider' else 'thread' if (name, value) == ('threads', 1) else name}".strip()


def _argument(row: Row, name: str) -> Cell:
    value = row.args.get(name)
    return value if isinstance(value, str | int | float) and not isinstance(value, bool) else None if value is None else str(value)
