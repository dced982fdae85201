"""Counting the operators of a backend's graph."""

from __future__ import annotations

from collections import Counter

from general_perf.backends.contract import Coverage, Details


class Tally:
    """Counts the operators of a backend's graph: which of them it took itself, and the FLOPs of those that multiply."""

    def __init__(self) -> None:
        self.nodes = self.flops = self._taken_flops = 0
        self._elsewhere: Counter[str] = Counter()
        self._unknown: Counter[str] = Counter()

    def add(self, kind: str, flops: int | None, *, taken: bool) -> None:
        """One operator; `flops` is None where it multiplies and can't be counted."""
        self.nodes += 1
        self._unknown[kind] += flops is None
        self._elsewhere[kind] += not taken
        self.flops += flops or 0
        self._taken_flops += (flops or 0) if taken else 0

    def coverage(self, method: str, details: Details, partitions: int | None = None) -> Coverage:
        """What was counted, as a coverage."""
        taken = self.nodes - self._elsewhere.total()
        return Coverage(
            method=method,
            nodes=self.nodes,
            taken_nodes=taken,
            graph_share=taken / self.nodes if self.nodes else None,
            flops=self.flops,
            flops_share=self._taken_flops / self.flops if self.flops else None,
            partitions=partitions,
            fallback_operators=dict(sorted((+self._elsewhere).items())),
            details={**details, "operators_without_flops_formula": dict(sorted((+self._unknown).items()))},
        )
