"""A spec card: what is published about one accelerator or CPU, each figure with its source.

A figure that no public document gives is left out, and so unknown; nothing here is estimated. Dense
and sparse peaks stand apart. Capacities and bandwidths are as the document writes them: GB is 10^9
bytes unless it writes GiB. `derived` says how a figure follows from sourced ones, where it isn't
written in the document itself.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from bytemlperf.checked import Checked

Dtype = Literal["fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "fp6", "fp4", "int8", "int4"]
Engine = Literal["matrix", "vector"]
Day = Annotated[str, Meta(pattern=r"^\d{4}(-\d{2}(-\d{2})?)?\Z")] | Annotated[int, Meta(ge=1000, le=9999)]
"""A year, a month or a day, as exact as the document is dated."""
Positive = Annotated[float, Meta(gt=0, le=1e12)]
Text = Annotated[str, Meta(min_length=1)]


class Source(Checked, omit_defaults=True, frozen=True, kw_only=True):
    """A public document. `via` names the page where its figures were read, when that is not the
    document's own address (an archive, a copy, an article that quotes its table)."""

    title: str
    publisher: str
    url: Annotated[str, Meta(pattern=r"^(https?|file)://\S+\Z")]
    via: Annotated[str, Meta(pattern=r"^(https?://\S+)?\Z")] = ""
    dated: Day | None = None


class Sourced(Checked, omit_defaults=True, frozen=True, kw_only=True):
    """Where a figure comes from: a key of the card's `sources`, and the place in that document."""

    source: str
    where: Text
    derived: str = ""
    note: str = ""


class Figure(Sourced, frozen=True, kw_only=True):
    """One number; its unit is in the name of the key that holds it."""

    value: Positive


class Peak(Sourced, frozen=True, kw_only=True):
    """Peak rate of one data type in 10^12 operations a second (a multiply-add is two)."""

    dtype: Dtype
    engine: Engine = "matrix"
    dense_tflops: Positive | None = None
    sparse_tflops: Positive | None = None

    def __post_init__(self) -> None:
        if self.dense_tflops is None and self.sparse_tflops is None:
            raise ValueError(f"the peak of {self.dtype} has no figure; give dense_tflops or sparse_tflops, or remove it")


class Link(Sourced, frozen=True, kw_only=True):
    """A link to other devices or to the host. `direction` says whether the bandwidth is one way or both added up."""

    name: str
    gbytes_per_s: Positive
    direction: Literal["one way", "both ways", "not said"] = "not said"


class Price(Sourced, frozen=True, kw_only=True):
    """What one device cost on a day, bought, or rented for an hour; and who published it."""

    amount: Positive
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}\Z")]
    basis: Literal["purchase", "hour"] = "purchase"
    date: Day
    region: str = ""


class OwnPrice(Price, frozen=True, kw_only=True):
    source: str = "own"
    where: Text = "own price list"


class PriceList(Checked, frozen=True, kw_only=True):
    """A user's own prices, by card id, name or alias."""

    prices: dict[str, OwnPrice]


class Card(Checked, omit_defaults=True, frozen=True, kw_only=True):
    """One device. `matches` are regular expressions of the names that drivers and /proc/cpuinfo report,
    matched whole and whatever the case."""

    name: Text
    vendor: str
    kind: Literal["gpu", "accelerator", "cpu"]
    architecture: str = ""
    per: Literal["card", "chip", "socket", "superchip", "module"] = "card"
    aliases: tuple[str, ...] = ()
    matches: tuple[str, ...] = ()
    sources: dict[str, Source]
    peaks: tuple[Peak, ...] = ()
    memory_gb: Figure | None = None
    memory_type: str = ""
    memory_gbytes_per_s: Figure | None = None
    tdp_watts: Figure | None = None
    cores: Figure | None = None
    base_ghz: Figure | None = None
    links: tuple[Link, ...] = ()
    prices: tuple[Price, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        for figure in self.figures():
            if figure.source not in self.sources:
                raise ValueError(f"the source '{figure.source}' is not among the card's sources; add it under sources")
        peaks = [(peak.dtype, peak.engine) for peak in self.peaks]
        for dtype, engine in peaks:
            if peaks.count((dtype, engine)) > 1:
                raise ValueError(f"the peak of {dtype} on the {engine} engine is given twice; keep one of them")

    def figures(self) -> list[Sourced]:
        """Everything on the card that has a source."""
        single = (self.memory_gb, self.memory_gbytes_per_s, self.tdp_watts, self.cores, self.base_ghz)
        return [*self.peaks, *(figure for figure in single if figure is not None), *self.links, *self.prices]
