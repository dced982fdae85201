"""How far outputs are from a reference of higher precision. Nothing that isn't finite is ever zeroed or dropped unseen.

Differences are taken where both values are finite; places where they aren't are counted on either side, and one that is
finite in the reference alone fails the comparison. Relative differences leave out places where the reference is 0,
which are counted. All arithmetic is float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from general_perf.backends.contract import Array
from general_perf.card import Tolerance

BINS = 24
TINY = 1e-300


def compare(ours: Array, reference: Array, distribution: str) -> dict[str, Any]:
    """One output's comparison, JSON-ready. Raises ValueError where the shapes differ.

    Keys: count, nonfinite {ours, reference, only_ours}, abs and rel {max, mean, std}, rel_left_out, cosine, kl {mean,
    max} or None, reference_rms, scaled_max (largest absolute difference over reference_rms), zeros {ours,
    reference} as shares, histogram.
    """
    if ours.shape != reference.shape:
        raise ValueError(f"shape mismatch: the backend returned {list(ours.shape)}, the reference {list(reference.shape)}")
    one: Array = ours.astype(np.float64)
    two: Array = reference.astype(np.float64)
    fine_one, fine_two = np.isfinite(one), np.isfinite(two)
    both = fine_one & fine_two
    left, right = one[both], two[both]
    with np.errstate(over="ignore"):
        gap = np.abs(left - right)
    nonzero = right != 0
    rms = float(np.sqrt(np.mean(right**2))) if right.size else 0.0
    return {
        "count": int(one.size),
        "nonfinite": {
            "ours_nan": int(np.isnan(one).sum()),
            "ours_inf": int(np.isinf(one).sum()),
            "reference_nan": int(np.isnan(two).sum()),
            "reference_inf": int(np.isinf(two).sum()),
            "only_ours": int((~fine_one & fine_two).sum()),
        },
        "abs": _moments(gap),
        "rel": _moments(gap[nonzero] / np.abs(right[nonzero])),
        "rel_left_out": int((~nonzero).sum()),
        "cosine": _cosine(left, right),
        "kl": _kl(one, two, both, distribution),
        "reference_rms": rms,
        "scaled_max": float(gap.max() / rms) if gap.size and rms > 0 else (0.0 if gap.size and not gap.any() else None),
        "zeros": {"ours": _share(left == 0), "reference": _share(right == 0)},
        "histogram": _histogram(left, right),
    }


def verdict(comparisons: dict[str, dict[str, Any]], tolerance: Tolerance) -> bool:
    """Whether every output is within the tolerance and as finite as the reference."""
    for compared in comparisons.values():
        if compared["nonfinite"]["only_ours"] or compared["scaled_max"] is None or compared["scaled_max"] > tolerance.scaled_max:
            return False
        if compared["cosine"] is not None and compared["cosine"] < tolerance.cosine:
            return False
    return True


def decide(output: Array, rule: str, distribution: str) -> Array | None:
    """The decisions that an output stands for: the largest along the last axis, or which values pass the threshold
    (0 for logits, 0.5 for probabilities); None where the card names no rule."""
    if rule == "argmax":
        safe = np.where(np.isfinite(output), output, -np.inf)
        return np.asarray(safe.argmax(axis=-1))
    if rule == "threshold":
        return np.asarray(output > (0.0 if distribution == "sigmoid" else 0.5))
    return None


def _moments(values: Array) -> dict[str, float] | None:
    if not values.size:
        return None
    return {"max": float(values.max()), "mean": float(values.mean()), "std": float(values.std())}


def _cosine(one: Array, two: Array) -> float | None:
    """None where a side is all zero: an angle to nothing."""
    lengths = float(np.linalg.norm(one) * np.linalg.norm(two))
    return float(np.dot(one, two) / lengths) if lengths > 0 else None


def _share(flags: Array) -> float | None:
    return float(flags.mean()) if flags.size else None


def _kl(one: Array, two: Array, both: Array, distribution: str) -> dict[str, float] | None:
    """Kullback-Leibler divergence of ours from the reference's distribution, nats: over the last axis with softmax
    or probabilities, of each value with sigmoid (Bernoulli). Rows with a value that isn't finite are left out; None without any."""
    if distribution in ("softmax", "probabilities"):
        if distribution == "probabilities":
            one, two = (np.log(np.clip(values, TINY, None)) for values in (one, two))
        rows = both.reshape(-1, both.shape[-1]).all(axis=1)
        ours, reference = (_log_softmax(values.reshape(-1, values.shape[-1])[rows]) for values in (one, two))
        values = (np.exp(reference) * (reference - ours)).sum(axis=1)
    elif distribution == "sigmoid":
        values = np.zeros(int(both.sum()))
        for sign in (1.0, -1.0):
            ours, reference = (-np.logaddexp(0.0, -sign * values[both]) for values in (one, two))
            values += np.exp(reference) * (reference - ours)
    else:
        return None
    return {"mean": float(values.mean()), "max": float(values.max())} if values.size else None


def _log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _histogram(one: Array, two: Array) -> dict[str, Any] | None:
    """Counts of both over the same bins, which span both."""
    if not one.size:
        return None
    low, high = float(min(one.min(), two.min())), float(max(one.max(), two.max()))
    if high - low < TINY:
        high = low + 1.0
    edges = np.linspace(low, high, BINS + 1)
    return {
        "edges": [float(edge) for edge in edges],
        "ours": [int(count) for count in np.histogram(one, edges)[0]],
        "reference": [int(count) for count in np.histogram(two, edges)[0]],
    }
