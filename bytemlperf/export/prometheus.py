"""Live metrics for Prometheus: one exporter for all suites.

A suite declares its families in a literal table and feeds them; a scrape reads them. Feeding is
made for hot paths: a histogram takes many values in one call (sorted in C, then one bisection a
bucket), so nothing is done per token. Histograms are cumulative buckets, so that they can be summed
over workers and machines; exact percentiles come from the records, not from here.

Labels are closed: a family has at most one label, whose values are listed when it is declared.
Anything else is counted under "other", so that no error text or URL can become a label.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from bytemlperf.command.exits import one_line
from bytemlperf.errors import UserError
from bytemlperf.export.http import forgive_hang_ups

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from bytemlperf.command.flags import MetricsOutput

OTHER = "other"
RUN_INFO = "bmp_run_info"
SUBJECTS = ("engine", "backend", "trainer")
MAX_LABEL_CHARS = 100
LOOPBACK = "127.0.0.1"
LOCAL_HOSTS = (LOOPBACK, "localhost", "::1")


class Family(NamedTuple):
    """One metric family. `buckets` are upper bounds in the exported unit, for histograms only."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    label: str = ""
    label_values: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


class HistogramDelta(msgspec.Struct):
    """What was added to a histogram: values in each bucket (the last one is +Inf), and their sum."""

    counts: list[int]
    total: float


class ExportDelta(msgspec.Struct, kw_only=True):
    """What was added to an exporter. Counters by family, then by label ("" without one)."""

    counters: dict[str, dict[str, float]] = {}
    histograms: dict[str, HistogramDelta] = {}


class Histogram:
    """How many values fell into each bucket, the last one being for what is beyond all bounds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, values: Iterable[float]) -> None:
        ordered = sorted(values)
        if not ordered:
            return
        below = 0
        for place, bound in enumerate(self.bounds):
            upto = bisect_right(ordered, bound, below)
            self.counts[place] += upto - below
            below = upto
            if below == len(ordered):
                break
        self.counts[-1] += len(ordered) - below
        self.total += sum(ordered)

    def add_equal(self, value: float, many: int) -> None:
        self.counts[bisect_left(self.bounds, value)] += many
        self.total += value * many

    def drain(self) -> HistogramDelta:
        drained = HistogramDelta(self.counts, self.total)
        self.counts, self.total = [0] * len(drained.counts), 0.0
        return drained

    def absorb(self, delta: HistogramDelta) -> None:
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, delta.counts, strict=True)]
        self.total += delta.total


def decades(first: int, last: int, each: int = 25) -> tuple[float, ...]:
    """Bounds from 10^first to 10^last, `each` a decade: with 25 a quantile interpolated between two is within 10 % of the exact one."""
    return tuple(float(f"{10 ** (first + step / each):.4g}") for step in range((last - first) * each + 1))


IN_BUCKETS = "Bucketed: quantiles are estimates; exact ones are in summary.json."


class Exporter:
    """Holds the families' values; thread safe between the feeder and the scraping thread."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = {family.name: family for family in families}
        self._values: dict[tuple[str, str], float] = {}
        self._histograms = {family.name: Histogram(family.buckets) for family in families if family.kind == "histogram"}
        for family in families:
            if family.kind != "histogram":  # a label's values come as they are counted; `other` keeps a sum over them from being empty
                self._values[family.name, OTHER if family.label else ""] = 0.0
        self._info: dict[str, str] = {}
        self._lock = Lock()
        self._server: Any = None

    def name_run(self, name: str, run: Mapping[str, Any]) -> None:
        """What the run folder of this name holds, by its run.json: the labels of `bmp_run_info`."""
        subject = next((part for key in SUBJECTS if isinstance(part := run.get(key), dict)), {})
        about = {"run": name, "kind": run.get("kind"), "label": run.get("label")}
        labels = {**about, "engine": subject.get("name"), "model": subject.get("model")}
        self._info = {label: one_line(str(value or ""))[:MAX_LABEL_CHARS] for label, value in labels.items()}

    # -- feeding ------------------------------------------------------------------

    def count(self, name: str, amount: float = 1.0, label: str = "") -> None:
        with self._lock:
            key = name, self._closed(name, label)
            self._values[key] = self._values.get(key, 0.0) + amount

    def set(self, name: str, value: float, label: str = "") -> None:
        with self._lock:
            self._values[name, self._closed(name, label)] = value

    def observe(self, name: str, values: Iterable[float]) -> None:
        """Add values to a histogram, in its exported unit."""
        with self._lock:
            self._histograms[name].add(values)

    # -- summing over workers ---------------------------------------------------------

    def drain(self) -> ExportDelta:
        """Everything counted and observed since the last drain, taken off here. Gauges stay."""
        with self._lock:
            delta = ExportDelta()
            for (name, label), value in self._values.items():
                if value and self._families[name].kind == "counter":
                    delta.counters.setdefault(name, {})[label] = value
                    self._values[name, label] = 0.0
            for name, histogram in self._histograms.items():
                if any(histogram.counts):
                    delta.histograms[name] = histogram.drain()
            return delta

    def absorb(self, delta: ExportDelta) -> None:
        """Add what an exporter of the same families drained."""
        for name, amounts in delta.counters.items():
            for label, amount in amounts.items():
                self.count(name, amount, label)
        with self._lock:
            for name, added in delta.histograms.items():
                self._histograms[name].absorb(added)

    def _closed(self, name: str, label: str) -> str:
        return label if label in self._families[name].label_values or not label else OTHER

    # -- scraping -----------------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            return iter([*self._run_info(), *map(self._metric, self._families.values())])

    def _run_info(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        if self._info:
            metric = GaugeMetricFamily(RUN_INFO, "The run that these metrics are of; always 1.", labels=list(self._info))
            metric.add_metric(list(self._info.values()), 1.0)
            yield metric

    def _metric(self, family: Family) -> Metric:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        if family.kind == "histogram":
            histogram = HistogramMetricFamily(family.name, f"{family.help} {IN_BUCKETS}")
            held = self._histograms[family.name]
            histogram.add_metric([], _cumulative(held), sum_value=held.total)
            return histogram
        kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
        metric = kind(family.name, family.help, labels=[family.label] if family.label else None)
        for (name, label), value in self._values.items():
            if name == family.name:
                metric.add_metric([label] if family.label else [], value)
        return metric

    def text(self) -> bytes:
        """What a scrape answers, in Prometheus' text format."""
        from prometheus_client import generate_latest

        return generate_latest(self)  # type: ignore[arg-type]

    def serve(self, port: int, host: str = LOOPBACK) -> int:
        """Serve `/metrics` from a thread; returns the port (another one when asked for 0).

        Raises UserError when the port is in use.
        """
        from prometheus_client import CollectorRegistry, start_http_server

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)  # type: ignore[arg-type]
        try:
            self._server, _ = start_http_server(port, addr=host, registry=registry)
        except OSError as error:
            raise UserError(
                f"can't serve metrics on {host}:{port}: {error.strerror}", "give another port with --prometheus-port, 0 for any free one"
            ) from None
        forgive_hang_ups(self._server)
        return int(self._server.server_port)

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


@contextmanager
def serving(exporter: Exporter, output: MetricsOutput, say: Callable[[str], None]) -> Iterator[None]:
    """Serve for the time of the block where a port is named, and say where. Raises UserError when the port is in use."""
    host = output.prometheus_host
    try:
        if output.prometheus_port is not None:
            if host not in LOCAL_HOSTS:
                say(f"WARNING: metrics are served on {host}, which other machines may reach")
            port = exporter.serve(output.prometheus_port, host)
            say(f"metrics at http://{host}:{port}/metrics until the run ends")
        yield
    finally:
        exporter.close()


def _cumulative(histogram: Histogram) -> list[tuple[str, float]]:
    running = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*map(repr, map(float, histogram.bounds)), "+Inf"), histogram.counts, strict=True):
        running += count
        buckets.append((bound, float(running)))
    return buckets
