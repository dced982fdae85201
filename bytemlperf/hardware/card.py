"""A spec card: what is published about one accelerator or CPU, each figure with its source.

A figure that no public document gives is left out, and so unknown; nothing here is estimated. Dense
and sparse peaks stand apart. Capacities and bandwidths are as the document writes them: GB is 10^9
bytes unless it writes GiB. `derived` says how a figure follows from sourced ones, where it isn't
written in the document itself.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Dtype = Literal["fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "fp6", "fp4", "int8", "int4"]
Engine = Literal["matrix", "vector"]
Day = Annotated[str, BeforeValidator(str), Field(pattern=r"^\d{4}(-\d{2}(-\d{2})?)?$")]
"""A year, a month or a day, as exact as the document is dated."""


class _Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Source(_Checked):
    """A public document. `via` names the page where its figures were read, when that is not the
    document's own address (an archive, a copy, an article that quotes its table)."""

    title: str
    publisher: str
    url: str = Field(pattern=r"^(https?|file)://\S+$")
    via: str = Field(default="", pattern=r"^(https?://\S+)?$")
    dated: Day | None = None


class Sourced(_Checked):
    """Where a figure comes from: a key of the card's `sources`, and the place in that document."""

    source: str
    where: str = Field(min_length=1)
    derived: str = ""
    note: str = ""


class Figure(Sourced):
    """One number; its unit is in the name of the key that holds it."""

    value: float = Field(gt=0)


class Peak(Sourced):
    """Peak rate of one data type in 10^12 operations a second (a multiply-add is two)."""

    dtype: Dtype
    engine: Engine = "matrix"
    dense_tflops: float | None = Field(default=None, gt=0)
    sparse_tflops: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.dense_tflops is None and self.sparse_tflops is None:
            raise ValueError(f"the peak of {self.dtype} has no figure; give dense_tflops or sparse_tflops, or remove it")
        return self


class Link(Sourced):
    """A link to other devices or to the host. `direction` says whether the bandwidth is one way or both added up."""

    name: str
    gbytes_per_s: float = Field(gt=0)
    direction: Literal["one way", "both ways", "not said"] = "not said"


class Amount(_Checked):
    """What one device cost on a day: bought, or rented for an hour."""

    amount: float = Field(gt=0)
    currency: str = Field(pattern=r"^[A-Z]{3}$")
    basis: Literal["purchase", "hour"] = "purchase"
    date: Day
    region: str = ""
    note: str = ""


class Price(Amount, Sourced):
    """A price, and who published it."""


class PriceList(_Checked):
    """A user's own prices, by card id, name or alias."""

    prices: dict[str, Amount]


class Card(_Checked):
    """One device. `matches` are regular expressions of the names that drivers and /proc/cpuinfo report,
    matched whole and whatever the case."""

    name: str = Field(min_length=1)
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

    @model_validator(mode="after")
    def _sources_named(self) -> Self:
        for figure in self.figures():
            if figure.source not in self.sources:
                raise ValueError(f"the source '{figure.source}' is not among the card's sources; add it under sources")
        return self

    @model_validator(mode="after")
    def _peaks_once(self) -> Self:
        seen = [(peak.dtype, peak.engine) for peak in self.peaks]
        for each in seen:
            if seen.count(each) > 1:
                raise ValueError(f"the peak of {each[0]} on the {each[1]} engine is given twice; keep one of them")
        return self

    def figures(self) -> list[Sourced]:
        """Everything on the card that has a source."""
        single = (self.memory_gb, self.memory_gbytes_per_s, self.tdp_watts, self.cores, self.base_ghz)
        return [*self.peaks, *(each for each in single if each is not None), *self.links, *self.prices]
