"""`bmp-llm engine check`: every probe of one engine or server, into a run folder, and its capability card."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

import msgspec

from bytemlperf.errors import UserError
from bytemlperf_llm.conformance.card import Capability, Card
from bytemlperf_llm.conformance.flags import CheckFlags
from bytemlperf_llm.conformance.kind import KIND_NAME
from bytemlperf_llm.conformance.resources import children, closes_clean
from bytemlperf_llm.conformance.subject import Asked
from bytemlperf_llm.conformance.table import PROBES, SHUTDOWN, capability, leaks, tried
from bytemlperf_llm.launch.server import launched
from bytemlperf_llm.loadgen.engine_start import engine_class
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.plan import Plan, resolve, with_server
from bytemlperf_llm.points.driver import Driver
from bytemlperf_llm.run.started import start, subject

GENERATING = ("chat", "completions")


def engine_check(name: str | None, flags: Flags, asked: CheckFlags, argv: Sequence[str]) -> int:
    """Exit status 1 where the contract is broken. Raises UserError."""
    if name is None and flags.base_url is None and flags.launch is None:
        raise UserError("nothing to check", "give an engine's NAME, --base-url URL or --launch SERVER")
    if name is not None:
        flags = flags.changed(engine=name)
    flags = with_server(flags)
    return Check(resolve(flags.changed(label=flags.label or flags.engine)), asked, argv).published()


class Check(Driver):
    def __init__(self, plan: Plan, asked: CheckFlags, argv: Sequence[str]) -> None:
        super().__init__(KIND_NAME, [plan], argv, None)
        self._requests = asked.requests
        self._found: list[Capability] = []

    async def run(self) -> None:
        """Start it, ask, close it. Raises UserError where it can't be asked at all."""
        before = children()
        engine = engine_class(self._plan.engine.name)()
        async with launched(self._plan, self.suite.folder, self._redactor, self._say) as server:
            try:
                started = await start(engine, self._plan, self._redactor, self._say)
                if started.info.api not in GENERATING:
                    raise UserError(f"engine check asks for tokens, and {started.info.api} has none", "leave out --endpoint")
                asked = Asked(engine, started.info, server)
                await asked.settle()
                whose = await subject(engine, started.info, self._plan.engine.name)
                self._open(started, {"subject": msgspec.to_builtins(whose), "probes": [probe.name for probe in PROBES]})
                await self._ask(asked)
            finally:
                await engine.close()
        self._keep(await self._shutdown(asked, before))
        when = datetime.now(UTC).isoformat(timespec="seconds")
        Card(subject=whose, checked_at=when, capabilities=tuple(self._found)).keep(self.suite.folder)

    async def _ask(self, asked: Asked) -> None:
        self._say("asking what it can do")
        for probe in PROBES:
            if (found := await capability(probe, asked)) is not None:
                self._keep(found)
        self._say(f"sending {self._requests:,} requests")
        self._keep(await leaks(asked, self._requests))

    async def _shutdown(self, asked: Asked, before: set[int]) -> Capability:
        server = asked.server
        if asked.remote and server is None:
            return Capability(name=SHUTDOWN, status="not available", detail="somebody else's server; with --launch it is stopped")
        if server is not None and server.killed:
            return Capability(name=SHUTDOWN, status="no", detail="it did not end on SIGTERM, and was killed")
        return await tried(SHUTDOWN, partial(closes_clean, before=before), asked, required=not asked.remote)

    def _keep(self, found: Capability) -> None:
        found = msgspec.structs.replace(found, detail=self._redactor.clean(found.detail))
        self._found.append(found)
        self.suite.append(found)
