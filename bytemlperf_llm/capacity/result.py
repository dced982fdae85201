"""capacity.json: what a search found, probe by probe, and what follows from it; written after every probe, and what `--resume` reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.runs.folder import write_json
from bytemlperf.runs.kinds import Section, Table, Text
from bytemlperf_llm.capacity.judge import Look, Outcome
from bytemlperf_llm.capacity.search import Goal, Probe, Purpose, Search

NAME = "capacity.json"
STOPPED = {
    "within": "the interval is as narrow as asked",
    "requests": "the requests are spent, or what is left can't narrow it",
    "client": "your client is the limit",
    "nothing holds": "even the lowest rate fails",
    "interrupted": "interrupted; go on with --resume",
    "server": "the server no longer answers; go on with --resume once it does",
}


class ProbeRow(Look, frozen=True, kw_only=True):
    """One probe: what it said, its run folder (inside the search's), and the share `met` of requests that met each level."""

    folder: str
    rate_rps: float
    purpose: Purpose
    client_limited: str
    met: dict[str, float]

    @classmethod
    def of(cls, folder: str, probe: Probe, met: dict[str, float]) -> ProbeRow:
        look = msgspec.structs.asdict(probe.look) | {"outcome": probe.outcome}
        return cls(**look, folder=folder, rate_rps=probe.rate, purpose=probe.purpose, client_limited=probe.client_limited, met=met)

    def probe(self) -> Probe:
        return Probe(self.rate_rps, self, self.purpose, self.client_limited)


class Capacity(msgspec.Struct, kw_only=True):
    """The file. `margins` are how far above `share` the requests that met each level are, at `holds_at_rps`."""

    format_version: int = 1
    kind: str = "capacity"
    command: list[str]
    flags: dict[str, Any]
    engine: dict[str, Any]
    goal: Goal
    slo_ms: dict[str, float]
    first_rate_rps: float
    holds_at_rps: float | None = None
    fails_at_rps: float | None = None
    share: float = 0.0
    confidence: float = 0.0
    binding: str | None = None
    margins: dict[str, float] = {}
    confirmed: ProbeRow | None = None
    stopped_because: str = ""
    requests: int = 0
    probes: list[ProbeRow] = []

    def search(self) -> Search:
        """As it stands after these probes."""
        return Search(self.goal, self.first_rate_rps, [row.probe() for row in self.probes])

    def concluded(self, search: Search, stopped_because: str) -> Capacity:
        """With what follows from the probes."""
        self.holds_at_rps, self.fails_at_rps, self.requests = search.holds_at, search.fails_at, search.requests
        self.share, self.confidence, self.stopped_because = self.goal.share, self.goal.confidence, stopped_because
        held = self._row(self.holds_at_rps, Outcome.HOLDS)
        self.margins = {} if held is None else {name: round(met - self.share, 6) for name, met in held.met.items()}
        judged = self._row(self.fails_at_rps, Outcome.FAILS) or held
        self.binding = min(judged.met, key=lambda name: judged.met[name]) if judged is not None and judged.met else None
        confirmations = [row for row in self.probes if row.purpose is Purpose.CONFIRM and row.rate_rps == self.holds_at_rps]
        self.confirmed = confirmations[-1] if confirmations else None
        return self

    def _row(self, rate: float | None, outcome: Outcome) -> ProbeRow | None:
        return next((row for row in reversed(self.probes) if row.rate_rps == rate and row.outcome is outcome), None)

    def write(self, folder: Path) -> None:
        try:
            write_json(folder / NAME, msgspec.to_builtins(self))
        except OSError as error:
            raise UserError(f"can't write into {folder}: {error.strerror}", "free disk space; the probes' folders are kept") from None

    def sentence(self) -> str:
        """The answer, for a person."""
        low, high, levels = self.holds_at_rps, self.fails_at_rps, " ".join(f"{name}:{limit:g}" for name, limit in self.slo_ms.items())
        what = f"{self.share:.4g} of requests within {levels} ms at {self.confidence:.0%} confidence"
        if low is not None and high is not None:
            return f"holds {low:.4g} requests/s, fails {high:.4g} ({what}; binding: {self.binding})"
        if low is not None:
            return f"at least {low:.4g} requests/s{': your client is the limit' if self.stopped_because == 'client' else ''} ({what})"
        return (
            f"fails {high:.4g} requests/s, and nothing lower was resolved as holding ({what})" if high else f"nothing was resolved ({what})"
        )

    def sections(self) -> Iterator[Section]:
        """One table, and the answer."""
        names = list(self.slo_ms)
        columns = ["requests/s", "outcome", "requests", "worth", "met all", *(f"met {name}" for name in names), "note"]
        rows = [self._cells(row, names) for row in sorted(self.probes, key=lambda row: row.rate_rps)]
        yield Table(title="Probes", columns=columns, rows=rows, spare=("worth", *(f"met {name}" for name in names)))
        yield Text(body=f"{self.sentence()}; {STOPPED.get(self.stopped_because, self.stopped_because)}", title="Capacity")
        if self.margins:
            body = ", ".join(f"{name} {margin:+.2%}" for name, margin in self.margins.items())
            yield Text(body=f"{body} of requests above the share asked for", title=f"Margins at {self.holds_at_rps:.4g} requests/s")
        if self.confirmed is not None:
            row = self.confirmed
            body = f"{1 - row.missed:.2%} of {row.judged} requests met every level at {row.rate_rps:.4g} requests/s"
            yield Text(body=body, title="Confirming run")

    @staticmethod
    def _cells(row: ProbeRow, names: Sequence[str]) -> list[str | float | int | None]:
        note = row.client_limited or ("overloaded" if row.overloaded else "" if row.steady else "unsteady")
        met = [f"{row.met.get(name, 0.0):.2%}" for name in names]
        purpose = "confirming" if row.purpose is Purpose.CONFIRM else ""
        return [row.rate_rps, str(row.outcome), row.requests, round(row.worth), f"{1 - row.missed:.2%}", *met, note or purpose]


def read_capacity(folder: Path) -> Capacity:
    """Raises UserError."""
    try:
        return msgspec.json.decode((folder / NAME).read_bytes(), type=Capacity)
    except OSError as error:
        raise UserError(f"{folder / NAME}: {error.strerror}", "name the folder of a capacity search") from None
    except msgspec.MsgspecError as error:
        raise UserError(f"{folder / NAME} is damaged: {error}", "start a new search") from None
