"""Spec cards: the built-in ones, and a user's own by a path. What a suite divides by for efficiency, MFU, price and power.

    card = match(discover())                 # which card is this machine? None where it can't be told
    peak_flops(card, "bf16")                 # FLOP/s, dense; None where unknown
    memory_bandwidth(card)                   # bytes/s

A user's own: a YAML file or a folder of them, given as `path` or in `$BMP_CARDS`. A file is a card (the
file's stem is its id; one with a built-in's id replaces it) or a price list (`prices:` by card id).
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from bytemlperf import checked_yaml
from bytemlperf.errors import UserError
from bytemlperf.hardware.card import Card, Price, PriceList, Source

FOLDER = Path(__file__).parent
PATH_VARIABLE = "BMP_CARDS"
TERA = 1e12
GIGA = 1e9

DTYPES = {
    **dict.fromkeys(("float64", "double"), "fp64"),
    **dict.fromkeys(("float32", "float", "single"), "fp32"),
    "tfloat32": "tf32",
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    **dict.fromkeys(("float8", "float8_e4m3", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"), "fp8"),
    **dict.fromkeys(("fp8_e4m3", "fp8_e5m2", "mxfp8"), "fp8"),
    **dict.fromkeys(("nvfp4", "mxfp4", "float4_e2m1fn_x2"), "fp4"),
    "mxfp6": "fp6",
    "uint8": "int8",
    "uint4": "int4",
}
"""Other names of the data types, torch's among them."""


def load(path: Path | str | None = None) -> dict[str, Card]:
    """Cards by id: the built-in ones, then those of `path` (or of `$BMP_CARDS`). Raises UserError."""
    cards = dict(_builtin())
    own = path or os.environ.get(PATH_VARIABLE)
    lists: list[tuple[Path, PriceList]] = []
    for file in _files(Path(own)) if own else ():
        if _is_price_list(file):
            lists.append((file, checked_yaml.load(file, PriceList)))
        else:
            cards[file.stem] = checked_yaml.load(file, Card)
    for file, prices in lists:
        _add_prices(cards, file, prices)
    return cards


def find(name: str, cards: Mapping[str, Card] | None = None) -> Card:
    """The card with this id, name or alias, whatever the case. Raises UserError that names the nearest."""
    return load_or(cards)[card_id(name, cards)]


def card_id(name: str, cards: Mapping[str, Card] | None = None) -> str:
    """The id of the card with this id, name or alias. Raises UserError that names the nearest."""
    known = load_or(cards)
    plain = _plain(name)
    for identity, card in known.items():
        if plain in {_plain(identity), _plain(card.name), *map(_plain, card.aliases)}:
            return identity
    names = [*known, *chain(*(card.aliases for card in known.values()))]
    near = difflib.get_close_matches(name, names, n=3)
    raise UserError(f"there is no card {name!r}", f"did you mean {' or '.join(near)}?" if near else "`bmp hardware list` shows them all")


def match(discovered: Mapping[str, Any], cards: Mapping[str, Card] | None = None) -> Card | None:
    """The card of the device that a run on this machine uses: its first GPU or accelerator, else its CPU.
    None where no card is sure (an unknown accelerator, a virtual machine that hides its CPU's model).
    `discovered` is `discover()`, or `environment.hardware` of a run."""
    others = (device for device in discovered.get("accelerators") or () if not device.get("integrated"))
    devices = [*(discovered.get("gpus") or ()), *others]
    if devices:
        matching = (match_name(str(device.get("name", "")), cards) for device in devices)
        return next((card for card in matching if card is not None), None)
    return match_name(str((discovered.get("cpu") or {}).get("model") or ""), cards)


def match_name(reported: str, cards: Mapping[str, Card] | None = None) -> Card | None:
    """The card for a name as nvidia-smi, rocm-smi or /proc/cpuinfo reports it. None unless exactly one fits."""
    text = " ".join(reported.split())
    fitting = [card for card in load_or(cards).values() if any(re.fullmatch(pattern, text, re.IGNORECASE) for pattern in card.matches)]
    return fitting[0] if text and len(fitting) == 1 else None


def peak_flops(card: Card, dtype: str, sparse: bool = False) -> float | None:
    """Peak operations a second of a data type (ours or torch's name), on the fastest of the card's engines. None: unknown."""
    name = normal_dtype(dtype)
    rates = [peak.sparse_tflops if sparse else peak.dense_tflops for peak in card.peaks if peak.dtype == name]
    return max((rate * TERA for rate in rates if rate is not None), default=None)


def memory_bandwidth(card: Card) -> float | None:
    """Peak bytes a second of the device's memory. None: unknown."""
    return card.memory_gbytes_per_s.value * GIGA if card.memory_gbytes_per_s else None


def memory_bytes(card: Card) -> float | None:
    """Capacity of the device's memory, as published (GB = 10^9). None: unknown."""
    return card.memory_gb.value * GIGA if card.memory_gb else None


def tdp_watts(card: Card) -> float | None:
    """The most power that the device is rated for. None: unknown."""
    return card.tdp_watts.value if card.tdp_watts else None


def price(card: Card, basis: str = "purchase", currency: str | None = None) -> Price | None:
    """The first price on the card for this basis (`purchase` or `hour`) and currency. None: not public."""
    return next((price for price in card.prices if price.basis == basis and currency in (None, price.currency)), None)


def normal_dtype(dtype: str) -> str:
    """Our name of a data type: `torch.bfloat16` and `bfloat16` are bf16."""
    name = dtype.lower().removeprefix("torch.")
    return DTYPES.get(name, name)


def load_or(cards: Mapping[str, Card] | None) -> Mapping[str, Card]:
    """`cards`, or all that `load` knows."""
    return load() if cards is None else cards


@cache
def _builtin() -> Mapping[str, Card]:
    return {file.stem: checked_yaml.load(file, Card, shown_as=f"the built-in card {file.stem}") for file in sorted(FOLDER.glob("*.yaml"))}


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in (".yaml", ".yml"))
        if not files:
            raise UserError(f"{path} holds no .yaml file", "give a card, a price list, or a folder of them")
        return files
    return [path]


def _is_price_list(file: Path) -> bool:
    """A price list has `prices:` and no `name:`, each at the beginning of a line."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False  # reading it as a card says what is wrong
    return bool(re.search(r"^prices\s*:", text, re.MULTILINE)) and not re.search(r"^name\s*:", text, re.MULTILINE)


def _add_prices(cards: dict[str, Card], file: Path, prices: PriceList) -> None:
    """Put a user's prices before those of the cards."""
    source = Source(title="own price list", publisher="user", url=file.absolute().as_uri())
    for name, price in prices.prices.items():
        identity = card_id(name, cards)
        card = cards[identity]
        own = replace(price, source="own", where=file.name)
        cards[identity] = replace(card, prices=(own, *card.prices), sources={**card.sources, "own": source})


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", text.lower())
