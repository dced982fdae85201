"""What `bmp hardware` prints: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from bytemlperf.command.exits import markup_of
from bytemlperf.errors import UserError
from bytemlperf.hardware import cards as api
from bytemlperf.hardware.card import Card, Dtype, Figure, Link, Peak, Price, Sourced
from bytemlperf.hardware.compare import ratios, rows
from bytemlperf.hardware.discover import discover

UNKNOWN = "–"


def print_list(vendor: str | None, path: Path | None, as_json: bool) -> None:
    """One line a card. Raises UserError when the vendor has none."""
    found = {name: card for name, card in api.load(path).items() if vendor is None or card.vendor.lower() == vendor.lower()}
    if not found:
        vendors = sorted({card.vendor for card in api.load(path).values()})
        raise UserError(f"there is no card from vendor {vendor!r}", f"vendors: {', '.join(vendors)}")
    if as_json:
        _print_json({name: card.model_dump(mode="json", exclude_defaults=True) for name, card in found.items()})
        return
    table = _table("id", "TFLOPS", "GB", "GB/s", "W", "price")
    table.columns[0].no_wrap = True
    for name, card in sorted(found.items(), key=lambda item: (item[1].kind == "cpu", item[1].vendor, item[0])):
        _row(table, name, *(_number(each) for each in _line(card)), _price_text(card))
    _console().print(table)
    _console().print(
        "TFLOPS: bf16, else fp16, dense. – is unknown: no public document gives it. Sources: bmp hardware show ID", style="dim"
    )


def print_card(name: str, path: Path | None, as_json: bool) -> None:
    """Every figure of a card, with its source."""
    card = api.find(name, api.load(path))
    if as_json:
        _print_json(card.model_dump(mode="json", exclude_defaults=True))
        return
    console = _console()
    about = ", ".join(each for each in (card.vendor, card.architecture, f"figures per {card.per}") if each)
    console.print(markup_of(f"{card.name}  ({about})"), style="bold")
    if card.note:
        console.print(markup_of(card.note))
    table = _table("figure", "value", "where", "source")
    for label, value, figure in figure_lines(card):
        remark = "; ".join(each for each in (figure.where, figure.derived, figure.note) if each)
        _row(table, label, value, remark, figure.source)
    console.print(table)
    for key, source in card.sources.items():
        via = f"; read at {source.via}" if source.via else ""
        console.print(markup_of(f"{key}: {source.title}, {source.publisher}. {source.url}{via}"), style="dim", soft_wrap=True)


def print_machine(path: Path | None, as_json: bool) -> None:
    """This machine as a run keeps it, and the card that fits."""
    found = discover()
    card = api.match(found, api.load(path))
    if as_json:
        _print_json({"hardware": found, "card": card.name if card else None})
        return
    table = _table("", "")
    for label, value in _machine_lines(found):
        _row(table, label, value)
    _row(table, "card", card.name if card else "none is certain; name one where a card is needed")
    _console().print(table)


def print_comparison(names: list[str], dtype: str, currency: str | None, path: Path | None, as_json: bool) -> None:
    """Cards in columns. Raises UserError for fewer than two, an unknown card or data type."""
    if len(names) < 2:
        raise UserError("a comparison needs two cards", "name another one; `bmp hardware list` shows them")
    if api.normal_dtype(dtype) not in get_args(Dtype):
        raise UserError(f"{dtype!r} is not a data type of a card", f"give one of {', '.join(get_args(Dtype))}")
    known = api.load(path)
    chosen = [api.find(name, known) for name in names]
    found = rows(chosen, dtype, currency)
    if as_json:
        _print_json({"cards": [card.name for card in chosen], "rows": [{**row._asdict(), "ratios": ratios(row)} for row in found]})
        return
    table = _table("", *(card.name for card in chosen))
    for row in found:
        cells = [_with_ratio(value, ratio, index) for index, (value, ratio) in enumerate(zip(row.values, ratios(row), strict=True))]
        _row(table, f"{row.label}, {row.unit}", *cells)
    _console().print(table)
    _console().print(markup_of(f"× is against {chosen[0].name}. – is unknown. Published peaks, not measurements."), style="dim")


def _line(card: Card) -> Iterable[float | None]:
    half = api.peak_flops(card, "bf16") or api.peak_flops(card, "fp16")
    bandwidth = api.memory_bandwidth(card)
    return (
        half / api.TERA if half else None,
        card.memory_gb.value if card.memory_gb else None,
        bandwidth / api.GIGA if bandwidth else None,
        api.tdp_watts(card),
    )


def figure_lines(card: Card) -> Iterable[tuple[str, str, Sourced]]:
    """Every figure of a card: what it is, its value with the unit, and where it is from."""
    for peak in card.peaks:
        yield f"{peak.dtype} peak, {peak.engine}", _peak_text(peak), peak
    single: dict[str, tuple[Figure | None, str]] = {
        f"memory {card.memory_type}".strip(): (card.memory_gb, "GB"),
        "memory bandwidth": (card.memory_gbytes_per_s, "GB/s"),
        "power (TDP)": (card.tdp_watts, "W"),
        "cores": (card.cores, ""),
        "base clock": (card.base_ghz, "GHz"),
    }
    for label, (figure, unit) in single.items():
        if figure is not None:
            yield label, f"{_number(figure.value)} {unit}".strip(), figure
    for link in card.links:
        yield link.name, _link_text(link), link
    for price in card.prices:
        yield f"price ({price.date})", _amount_text(price), price


def _peak_text(peak: Peak) -> str:
    parts = []
    if peak.dense_tflops is not None:
        parts.append(f"{_number(peak.dense_tflops)} TFLOPS dense")
    if peak.sparse_tflops is not None:
        parts.append(f"{_number(peak.sparse_tflops)} TFLOPS sparse")
    return ", ".join(parts)


def _link_text(link: Link) -> str:
    direction = "direction not stated" if link.direction == "not said" else link.direction
    return f"{_number(link.gbytes_per_s)} GB/s, {direction}"


def _amount_text(price: Price) -> str:
    return f"{_number(price.amount)} {price.currency}" + (" an hour" if price.basis == "hour" else "")


def _price_text(card: Card) -> str:
    price = api.price(card) or api.price(card, "hour")
    return f"{_amount_text(price)} ({price.date})" if price else UNKNOWN


def _machine_lines(found: dict[str, Any]) -> Iterable[tuple[str, str]]:
    cpu = found["cpu"]
    yield "CPU", f"{cpu['model']}, {cpu['logical_cores']} logical cores, {', '.join(cpu['isa']) or 'no known extensions'}"
    yield "caches", ", ".join(f"{name} {size}" for name, size in cpu["caches"].items()) or UNKNOWN
    yield "memory", f"{(found['memory']['total_bytes'] or 0) / 2**30:.1f} GiB"
    for node in found["numa"]:
        yield f"NUMA node {node['node']}", f"CPUs {node['cpus']}, {(node['memory_bytes'] or 0) / 2**30:.1f} GiB"
    for gpu in found["gpus"]:
        yield "GPU", f"{gpu['name']}, {gpu['memory.total']}, {gpu['power.limit']}"
    for device in found["accelerators"]:
        yield "device", f"{device['name']} at {device['pci']}, driver {device['driver'] or 'none'}"
    for link in found["links"]["network"]:
        yield link["kind"], f"{link['name']}, {_number(link['gbits_per_s'])} Gbit/s declared"
    yield "system", f"{found['os']['distribution']}, kernel {found['os']['kernel']}"


def _with_ratio(value: float | None, ratio: float | None, index: int) -> str:
    text = _number(value)
    return text if index == 0 or ratio is None else f"{text}  ({ratio:.2f}×)"


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _table(*columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=any(columns))
    for column in columns:
        table.add_column(markup_of(column))
    return table


def _row(table: Any, *cells: str) -> None:
    """A row of texts that come out of somebody's cards, or out of this machine."""
    table.add_row(*map(markup_of, cells))


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False)


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=2))
