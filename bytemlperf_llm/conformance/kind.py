"""The kind `engine-check`: what a card says. A pure function of its records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from bytemlperf.runs.folder import part
from bytemlperf.runs.kinds import Figure, RunKind, Section, Table, came_to_its_end
from bytemlperf_llm.conformance.card import Capability

KIND_NAME = "engine-check"


class CheckKind(RunKind):
    name = "capability card"
    record = Capability
    valid_means = "The contract holds."
    stopped_means = "the rest was not asked"

    def summarise(self, run: dict[str, Any], records: Iterable[Capability]) -> dict[str, Any]:  # noqa: ARG002
        """Invalid where a required capability is missing."""
        found = list(records)
        broken = [f"{one.name}: {one.detail}" for one in found if one.broken]
        counts = Counter(one.status for one in found)
        return {
            "verdict": "invalid" if broken or not found else "valid",
            "reasons": broken,
            "warnings": [],
            "metrics": {},
            "counts": {status: counts[status] for status in ("yes", "no", "not available")},
            "capabilities": {one.name: {"status": one.status, "detail": one.detail} for one in found},
        }

    def figures(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[Capability]) -> list[Figure]:  # noqa: ARG002
        """1 or 0 each, so that two cards can be compared; how many there are."""
        lines = part(summary, "capabilities")
        values = {"yes": 1.0, "no": 0.0}
        each = [
            Figure(
                key=KIND_NAME, metric=name, label=name, unit="", value=values.get(line["status"]), better="higher", reason=line["detail"]
            )
            for name, line in lines.items()
        ]
        there = float(part(summary, "counts").get("yes", 0))
        return [Figure(key=KIND_NAME, metric="capabilities", label="capabilities", unit="", value=there, headline=True), *each]

    def sections(self, run: dict[str, Any], summary: dict[str, Any], records: Iterable[Capability]) -> list[Section]:  # noqa: ARG002
        rows = [(name, line["status"], line["detail"]) for name, line in part(summary, "capabilities").items()]
        counts = part(summary, "counts")
        note = ", ".join(f"{counts.get(status, 0)} {status}" for status in ("yes", "no", "not available"))
        return [Table(title="Capability card", columns=("capability", "", "what was seen, or why not"), rows=rows, note=note)]

    def facts(self, run: dict[str, Any]) -> list[tuple[str, str]]:
        """Which server."""
        told = [part(run, "config", "subject").get(name) for name in ("address", "version")]
        return [("server", " ".join(map(str, filter(None, told))))] if told[0] else []

    def verify(self, run: dict[str, Any], records: Iterable[Capability]) -> Iterator[str]:
        """A card that came to its end has each line once."""
        names = Counter(one.name for one in records)
        yield from (f"{name} stands {count} times in the card" for name, count in names.items() if count > 1)
        if came_to_its_end(run) and not names:
            yield "the card has no line"


KIND = CheckKind()
