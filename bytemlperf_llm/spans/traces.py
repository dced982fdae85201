"""The spans of one run, from its receiver into its folder, when the load has ended."""

from __future__ import annotations

import asyncio
from functools import lru_cache, partial
from typing import Any

import msgspec

from bytemlperf.redaction import Redactor
from bytemlperf.runs.files import SPANS
from bytemlperf.runs.log import LogFull, RecordLog, cut_torn_tail
from bytemlperf.runs.suite import SuiteRun
from bytemlperf_llm.run.preflight import Say
from bytemlperf_llm.run.rebuild import clock_origin_ns
from bytemlperf_llm.spans.join import join
from bytemlperf_llm.spans.receiver import Receiver

PART = "spans"
LATE_S = 7.0
"""An SDK's batches leave every five seconds."""
QUIET_S = 0.5
POLL_S = 0.1
MAX_NAME_CHARS = 32


class Traces:
    """Joins what a receiver has to the records of a run; does nothing without one."""

    def __init__(self, receiver: Receiver | None, run: SuiteRun, trace_key: str, redactor: Redactor, say: Say) -> None:
        self._receiver, self._run, self._trace_key, self._say = receiver, run, trace_key, say
        self._clean = lru_cache(maxsize=256)(partial(redactor.clean, most_chars=MAX_NAME_CHARS))

    async def begin(self) -> None:
        """Nothing is measured before."""

    async def end(self, run: dict[str, Any]) -> None:
        """Wait for the last spans, write spans.jsonl and what run.json says of it; of a run that was resumed the last part's."""
        receiver, zero_unix_ns = self._receiver, clock_origin_ns(run, "clock_origin_unix_ns")
        if receiver is None or zero_unix_ns is None:
            return
        self._say(f"waiting for the server's last spans, {LATE_S:g} s at most")
        await self._settled(receiver)
        begin_ns = run["resumed"][-1]["begin_ns"] if run.get("resumed") else 0
        records = (record for record in self._run.records() if record.end_ns >= begin_ns)
        joined = join(receiver.messages(), records, self._trace_key, zero_unix_ns, self._clean, receiver.refused)
        run[PART] = msgspec.to_builtins(joined.facts)
        if not joined.lines:
            return
        path = self._run.folder / SPANS
        try:
            cut_torn_tail(path)
            log = RecordLog(path, resume=True)
            for line in joined.lines:
                log.append(line)
            log.close()
        except (OSError, LogFull) as error:
            self._say(f"{SPANS} lacks lines: {error}")

    async def _settled(self, receiver: Receiver) -> None:
        """Until a batch has come after the load and no other for a moment, or none has come for longer than an SDK waits."""
        before, waited_s, quiet_s = receiver.received, 0.0, 0.0
        while waited_s < LATE_S and (receiver.received == before or quiet_s < QUIET_S):
            now = receiver.received
            await asyncio.sleep(POLL_S)
            waited_s, quiet_s = waited_s + POLL_S, quiet_s + POLL_S if receiver.received == now else 0.0
