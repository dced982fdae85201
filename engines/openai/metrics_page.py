"""A page of metrics, in Prometheus' text format or OpenMetrics, read for what `dialects` knows.

Read block by block, and other threads may run between two, so that ten thousand series hold up no stamp. A line that is no sample costs
nothing but itself. Timestamps, `_created`, exemplars, and what isn't finite are left out: a page counts as of when it arrived.
"""

from __future__ import annotations

import math
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from engines.contract import Histogram
from engines.openai.dialects import BEGUN, LATENCIES, SAMPLES

BLOCK_BYTES = 16 << 10
MAX_SAMPLES = 4_000
"""Known ones of a page: enough for a hundred engines behind it."""
LARGEST = float(1 << 53)

_SAMPLE = re.compile(
    rb'([A-Za-z_:][\w:]*)(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})?[ \t]+(\S+)(?:[ \t]+[-+.\deE]+)?[ \t\r]*(?:#.*)?$', re.ASCII
)
_LABEL = re.compile(rb'([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"', re.ASCII)
_POSITION = re.compile(r"[0-9]{1,2}")
_PARTS = ("_bucket", "_sum", "_count")
_FAMILIES = {latency.family: latency for latency in LATENCIES if latency.family}
_PAIRS = [latency for latency in LATENCIES if not latency.family]
_NAMES = frozenset([*SAMPLES, BEGUN, *(name for pair in _PAIRS for name in (pair.all, pair.number))])
_STARTS = tuple({name.encode() for name in (*_NAMES, *_FAMILIES)})


class Sample(NamedTuple):
    name: str
    labels: dict[str, str]
    value: float


class Page(NamedTuple):
    """`gauges` as of now, `counts` since the server's `begun_s`, and `latencies` where they were asked for. `cut` says that there was more
    than is read."""

    gauges: dict[str, float]
    counts: dict[str, float]
    latencies: dict[str, Histogram]
    begun_s: float | None = None
    cut: bool = False

    def __bool__(self) -> bool:
        return bool(self.gauges or self.counts or self.latencies)


def read_page(page: bytes, *, latencies: bool = True) -> Page:
    """What is known of it, summed over label sets."""
    levels: dict[str, float] = {}
    counts: dict[str, float] = {}
    raw: dict[str, float] = defaultdict(float)
    buckets: dict[str, dict[float, float]] = defaultdict(lambda: defaultdict(float))
    begun_s, samples = None, list(samples_of(page))
    for sample in samples:
        for meaning in SAMPLES.get(sample.name, ()):
            label, value = meaning.label
            if not label or sample.labels.get(label) == value:
                position = _POSITION.fullmatch(sample.labels.get(meaning.by, ""))
                name = f"{meaning.name}_{position[0]}" if position else meaning.name
                kept, amount = counts if meaning.sort == "count" else levels, sample.value * meaning.unit
                kept[name] = max(kept.get(name, amount), amount) if meaning.sort == "greatest" else kept.get(name, 0.0) + amount
        if sample.name == BEGUN:
            begun_s = sample.value if begun_s is None else max(begun_s, sample.value)
        elif latencies:
            family, _, part = sample.name.rpartition("_")
            if part == "bucket" and family in _FAMILIES:
                with suppress(ValueError, KeyError):
                    buckets[family][float(sample.labels["le"])] += sample.value
            raw[sample.name] += sample.value
    found: dict[str, Histogram] = {}
    for name, histogram in _histograms(buckets, raw) if latencies else ():
        found.setdefault(name, histogram)
    hits, queries = counts.get("prefix_hits"), counts.get("prefix_queries", 0.0)
    if hits is not None and "prefix_queries" in counts:
        levels["prefix_cache_hit_rate"] = hits / queries if queries else 0.0
    return Page(levels, counts, found, begun_s, cut=len(samples) >= MAX_SAMPLES)


def samples_of(page: bytes) -> Iterator[Sample]:
    """The finite known ones of a page, at most MAX_SAMPLES."""
    number = 0
    for line in _lines(page):
        if line.startswith(_STARTS) and (match := _SAMPLE.match(line)):
            name = match[1].decode()
            family = name.rpartition("_")[0] if name.endswith(_PARTS) else name
            if name in _NAMES or family in _FAMILIES:
                with suppress(ValueError):
                    value = float(match[3])
                    if math.isfinite(value):
                        labels = {key.decode(): text.decode("utf-8", "replace") for key, text in _LABEL.findall(match[2] or b"")}
                        yield Sample(name, labels, value)
                        number += 1
        if number >= MAX_SAMPLES:
            return


def _lines(page: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(page):
        end = page.find(b"\n", start + BLOCK_BYTES)
        end = len(page) if end < 0 else end
        yield from page[start:end].split(b"\n")
        start = end + 1
        time.sleep(0)


def _histograms(buckets: dict[str, dict[float, float]], raw: dict[str, float]) -> Iterator[tuple[str, Histogram]]:
    """Those that are one; of a summary, and of two counters, without buckets."""
    for family, latency in _FAMILIES.items():
        counts = dict(buckets.get(family, {}))
        if not counts and f"{family}_count" in raw:
            counts = {math.inf: raw[f"{family}_count"]}
        if f"{family}_sum" in raw and (histogram := _histogram(counts, raw[f"{family}_sum"] * latency.unit)):
            yield latency.name, histogram
    for latency in _PAIRS:
        if latency.all in raw and (histogram := _histogram({math.inf: raw.get(latency.number, -1.0)}, raw[latency.all] * latency.unit)):
            yield latency.name, histogram


def _histogram(counts: dict[float, float], sum_s: float) -> Histogram | None:
    """None where they are no cumulative counts, or of no sum."""
    bounds = sorted(counts)
    told = tuple(round(counts[bound]) if abs(counts[bound]) <= LARGEST else -1 for bound in bounds)
    if not told or bounds[-1] != math.inf or list(told) != sorted(told) or told[0] < 0 or not 0 <= sum_s <= LARGEST:
        return None
    return Histogram(upper_s=tuple(bounds[:-1]), counts=told, sum_s=sum_s)
