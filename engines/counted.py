"""Differences and sums of what engines count."""

from __future__ import annotations

from engines.contract import Counted, Histogram

UNKNOWN = "said nothing right before or after the measured part: what it counted in it is unknown"


def grown(before: Counted, after: Counted) -> Counted:
    """By how much each count and histogram of a server grew; without those that shrank or have other buckets. One that had said nothing
    before has none: what it says now is of its whole life."""
    if before.missing and not (before.counts or before.latencies):
        return Counted(missing=tuple(dict.fromkeys((*after.missing, UNKNOWN)) if after.counts or after.latencies else after.missing))
    counts = {name: count - before.counts.get(name, 0.0) for name, count in after.counts.items()}
    latencies = {name: _less(later, before.latencies.get(name)) for name, later in after.latencies.items()}
    return Counted(
        counts={name: count for name, count in counts.items() if count >= 0},
        latencies={name: histogram for name, histogram in latencies.items() if histogram is not None},
        missing=after.missing,
    )


def _less(later: Histogram, earlier: Histogram | None) -> Histogram | None:
    if earlier is None:
        return later
    if earlier.upper_s != later.upper_s:
        return None
    counts = tuple(new - old for old, new in zip(earlier.counts, later.counts, strict=True))
    sum_s = later.sum_s - earlier.sum_s
    if sum_s < 0 or list(counts) != sorted(counts) or counts[0] < 0:
        return None
    return Histogram(upper_s=later.upper_s, counts=counts, sum_s=sum_s)


def joined(first: Counted, second: Counted) -> Counted:
    """Of two parts of a run, or of two servers that ran one after the other; of histograms with other buckets the second's."""
    names = first.counts | second.counts
    counts = {name: first.counts.get(name, 0.0) + second.counts.get(name, 0.0) for name in names}
    latencies = first.latencies | second.latencies
    for name in first.latencies.keys() & second.latencies.keys():
        one, two = first.latencies[name], second.latencies[name]
        if one.upper_s == two.upper_s:
            sums = tuple(a + b for a, b in zip(one.counts, two.counts, strict=True))
            latencies[name] = Histogram(upper_s=one.upper_s, counts=sums, sum_s=one.sum_s + two.sum_s)
    return Counted(counts=counts, latencies=latencies, missing=tuple(dict.fromkeys((*first.missing, *second.missing))))
