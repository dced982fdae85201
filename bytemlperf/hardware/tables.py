"""What `bmp hardware` prints: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from bytemlperf.checked import plain
from bytemlperf.command.console import print_table, print_text, terminal
from bytemlperf.errors import UserError
from bytemlperf.hardware import cards as api
from bytemlperf.hardware.card import Card, Dtype, Figure, Link, Peak, Price, Sourced
from bytemlperf.hardware.compare import Row, gbytes_per_s, ratios, rows, tflops
from bytemlperf.hardware.machine import discover
from bytemlperf.runs.kinds import Table

UNKNOWN = "–"


def print_list(vendor: str | None, path: Path | None, as_json: bool) -> None:
    """One line a card. Raises UserError when the vendor has none."""
    cards = api.load(path)
    chosen = {name: card for name, card in cards.items() if vendor is None or card.vendor.lower() == vendor.lower()}
    if not chosen:
        vendors = sorted({card.vendor for card in cards.values()})
        raise UserError(f"there is no card from vendor {vendor!r}", f"vendors: {', '.join(vendors)}")
    if as_json:
        _print_json({name: plain(card) for name, card in chosen.items()})
        return
    order = sorted(chosen.items(), key=lambda item: (item[1].kind == "cpu", item[1].vendor, item[0]))
    lines = ((name, *map(_number, _line(card)), _price_text(card)) for name, card in order)
    _print(("id", "TFLOPS", "GB", "GB/s", "W", "price"), lines)
    _remark("TFLOPS: bf16, else fp16, dense. – is unknown: no public document gives it. Sources: bmp hardware show ID")


def print_card(name: str, path: Path | None, as_json: bool) -> None:
    """Every figure of a card, with its source."""
    card = api.find(name, api.load(path))
    if as_json:
        _print_json(plain(card))
        return
    about = ", ".join(filter(None, (card.vendor, card.architecture, f"figures per {card.per}")))
    _remark(f"{card.name}  ({about})", "bold")
    if card.note:
        _remark(card.note, "plain")
    remarks = (
        (label, value, "; ".join(filter(None, (of.where, of.derived, of.note))), of.source) for label, value, of in figure_lines(card)
    )
    _print(("figure", "value", "where", "source"), remarks)
    for key, source in card.sources.items():
        _remark(f"{key}: {source.title}, {source.publisher}. {source.url}{f'; read at {source.via}' if source.via else ''}")


def print_machine(path: Path | None, as_json: bool) -> None:
    """This machine as a run keeps it, and the card that fits."""
    machine = discover()
    card = api.match(machine, api.load(path))
    if as_json:
        _print_json({"hardware": machine, "card": card.name if card else None})
        return
    _print(("", ""), [*_machine_lines(machine), ("card", card.name if card else "none is certain; name one where a card is needed")])


def print_comparison(names: Sequence[str], dtype: str, currency: str | None, path: Path | None, as_json: bool) -> None:
    """Cards in columns. Raises UserError for fewer than two, an unknown card or data type."""
    if len(names) < 2:
        raise UserError("a comparison needs two cards", "name another one; `bmp hardware list` shows them")
    if api.normal_dtype(dtype) not in get_args(Dtype):
        raise UserError(f"{dtype!r} is not a data type of a card", f"give one of {', '.join(get_args(Dtype))}")
    cards = api.load(path)
    chosen = [api.find(name, cards) for name in names]
    compared = rows(chosen, dtype, currency)
    if as_json:
        _print_json({"cards": [card.name for card in chosen], "rows": [{**row._asdict(), "ratios": ratios(row)} for row in compared]})
        return
    _print(("", *(card.name for card in chosen)), ((f"{row.label}, {row.unit}", *_cells(row)) for row in compared))
    _remark(f"× is against {chosen[0].name}. – is unknown. Published peaks, not measurements.")


def _line(card: Card) -> tuple[float | None, ...]:
    half = tflops(card, "bf16") or tflops(card, "fp16")
    return half, card.memory_gb.value if card.memory_gb else None, gbytes_per_s(card), api.tdp_watts(card)


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
    rates = (peak.dense_tflops, "dense"), (peak.sparse_tflops, "sparse")
    return ", ".join(f"{_number(rate)} TFLOPS {kind}" for rate, kind in rates if rate is not None)


def _link_text(link: Link) -> str:
    direction = "direction not stated" if link.direction == "not said" else link.direction
    return f"{_number(link.gbytes_per_s)} GB/s, {direction}"


def _amount_text(price: Price) -> str:
    return f"{_number(price.amount)} {price.currency}" + (" an hour" if price.basis == "hour" else "")


def _price_text(card: Card) -> str:
    price = api.price(card) or api.price(card, "hour")
    return f"{_amount_text(price)} ({price.date})" if price else UNKNOWN


def _machine_lines(machine: dict[str, Any]) -> Iterable[tuple[str, str]]:
    cpu = machine["cpu"]
    yield "CPU", f"{cpu['model']}, {cpu['logical_cores']} logical cores, {', '.join(cpu['isa']) or 'no known extensions'}"
    yield "caches", ", ".join(f"{name} {size}" for name, size in cpu["caches"].items()) or UNKNOWN
    yield "memory", f"{(machine['memory']['total_bytes'] or 0) / 2**30:.1f} GiB"
    for node in machine["numa"]:
        yield f"NUMA node {node['node']}", f"CPUs {node['cpus']}, {(node['memory_bytes'] or 0) / 2**30:.1f} GiB"
    for gpu in machine["gpus"]:
        yield "GPU", f"{gpu['name']}, {gpu['memory.total']}, {gpu['power.limit']}"
    for device in machine["accelerators"]:
        yield "device", f"{device['name']} at {device['pci']}, driver {device['driver'] or 'none'}"
    for link in machine["links"]["network"]:
        yield link["kind"], f"{link['name']}, {_number(link['gbits_per_s'])} Gbit/s declared"
    yield "system", f"{machine['os']['distribution']}, kernel {machine['os']['kernel']}"


def _cells(row: Row) -> Iterable[str]:
    for column, (value, ratio) in enumerate(zip(row.values, ratios(row), strict=True)):
        yield _number(value) + (f"  ({ratio:.2f}×)" if column and ratio is not None else "")


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _print(columns: Sequence[str], lines: Iterable[Iterable[str]]) -> None:
    print_table(terminal(), Table(title="", columns=columns, rows=[list(line) for line in lines]))


def _remark(text: str, style: str = "note") -> None:
    print_text(terminal(), text, style=style)


def _print_json(content: object) -> None:
    print(json.dumps(content, indent=2))
