"""What a server says of each request: durations by its own clock, from Server-Timing or from its spans, as columns beside the client's.

A duration longer than its request took here, from sent to end, can't be one of it, and is left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

from bytemlperf_llm.record.record import RequestRecord

MAX_NAMES, MAX_NAME_CHARS = 16, 32
COLUMN = "server: {}"
SYNONYMS = {
    "queue": ("queue_time", "queued", "queuing", "queueing", "wait", "waiting", "time_in_queue"),
    "prefill": ("prefill_time", "prompt", "prompt_time", "prompt_eval", "time_in_model_prefill"),
    "decode": ("decode_time", "generation", "completion", "completion_time", "time_in_model_decode"),
}
_STAGE_OF = {word: stage for stage, words in SYNONYMS.items() for word in words}


class ServerTally:
    """Columns of durations, of records in any order."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}  # the server's own, and ours
        self.refused = self.impossible = self.unnamed = self.own_ids = 0

    def columns(self, records: Sequence[RequestRecord]) -> dict[str, Iterable[int | None]]:
        """Of each name that is known by now; nothing where no record has any."""
        servers = [record.server for record in records if record.server is not None]
        for server in servers:
            self.refused += server.refused
            self.own_ids += server.request_id is not None
        for name in chain.from_iterable(server.durations_ns for server in servers):
            if name in self.names:
                continue
            if len(self.names) < MAX_NAMES:
                self.names[name] = _STAGE_OF.get(name.lower(), name[:MAX_NAME_CHARS])
            else:
                self.unnamed += 1
        columns: dict[str, Iterable[int | None]] = {}
        for name, ours in self.names.items():
            columns[COLUMN.format(ours)] = [self._duration(record, name) for record in records]
        return columns

    def _duration(self, record: RequestRecord, name: str) -> int | None:
        found = None if record.server is None else record.server.durations_ns.get(name)
        if found is None or record.sent_ns is None or 0 <= found <= record.end_ns - record.sent_ns:
            return found
        self.impossible += 1
        return None
