"""One load worker in a process of its own: `python -m bytemlperf_llm.loadgen.member`.

Its life is `_live`: spec from standard input → engine, schedule and log → "ready" → wait for the
origin → replay, a report a second → "ended". It doesn't know who started it. An end of standard
input means that the starter is gone: it ends at once; records written by then are kept.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import NoReturn

import msgspec

from bytemlperf.command.signals import stopping
from bytemlperf.errors import EXIT_USAGE, UserError
from bytemlperf.redaction import Redactor
from bytemlperf_llm.live.metrics import LlmMetrics
from bytemlperf_llm.live.targets import targets_of
from bytemlperf_llm.loadgen.engine_start import engine_class, start_engine
from bytemlperf_llm.loadgen.loops import loop_factory
from bytemlperf_llm.loadgen.messages import Ended, FromMember, Go, MemberSpec, Ready, Refused, Seen, ToMember
from bytemlperf_llm.loadgen.pacer import real_pacer
from bytemlperf_llm.loadgen.replay import Replay, open_log, work_of, worker_config
from bytemlperf_llm.plan.scenario import scenario_of
from bytemlperf_llm.workload.schedule import Schedule, Share

REPORT_EVERY_S = 1.0
MAX_LINE_BYTES = 1 << 26
ORPHANED = 3
"""Exit status of a member whose starter is gone."""


class _Closing(asyncio.BaseProtocol):
    """Tells when everything queued has been written, or can't be."""

    def __init__(self) -> None:
        self.lost = asyncio.get_running_loop().create_future()

    def connection_lost(self, _error: Exception | None) -> None:
        self.lost.set_result(None)


class Wire:
    """JSON lines in from standard input, out to what was standard output; never blocks the loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.WriteTransport, closing: _Closing) -> None:
        self._reader, self._writer, self._closing = reader, writer, closing
        self._encode = msgspec.json.Encoder().encode
        self._decode: Callable[[bytes], ToMember] = msgspec.json.Decoder(ToMember).decode

    async def spec(self) -> MemberSpec:
        """The first line."""
        return msgspec.json.decode(await self._line(), type=MemberSpec)

    async def order(self) -> ToMember:
        """The next order; ends the process where nobody is left to give one."""
        return self._decode(await self._line())

    async def _line(self) -> bytes:
        line = await self._reader.readline()
        if not line.endswith(b"\n"):
            os._exit(ORPHANED)
        return line

    def say(self, message: FromMember) -> None:
        """Queue one message."""
        self._writer.write(self._encode(message) + b"\n")

    async def close(self) -> None:
        """Returns when all is written."""
        self._writer.close()
        await self._closing.lost


async def _open_wire(out_fd: int) -> Wire:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    transport, closing = await loop.connect_write_pipe(_Closing, os.fdopen(out_fd, "wb", buffering=0))
    return Wire(reader, transport, closing)


class Member:
    """A replay and its reports."""

    def __init__(self, spec: MemberSpec, wire: Wire) -> None:
        self._spec, self._wire = spec, wire
        self._metrics = LlmMetrics(self._listen if spec.live else None)
        self._ttft_s: list[float] = []
        self._tpot_s: list[float] = []
        self.replay: Replay

    async def prepare(self, stack: AsyncExitStack) -> None:
        """Start the engine, open schedule and log. Raises UserError."""
        spec, redactor = self._spec, Redactor()
        scenario = scenario_of({"config": {"scenario": spec.scenario, "scenario_folder": spec.scenario_folder}})
        self._metrics.targets = targets_of(scenario)
        share = Share(spec.worker, spec.workers)
        engine = engine_class(spec.engine)()
        stack.push_async_callback(engine.close)
        await start_engine(engine, spec.model, spec.engine_options, redactor)
        pacer = real_pacer()
        stack.callback(pacer.close)
        work = work_of(Schedule(scenario, spec.seed), share, spec.left)
        config = worker_config(scenario, share, keep_output=spec.keep_output)
        log = open_log(Path(spec.log))
        self.replay = Replay(engine, pacer, log, self._metrics, work, config, redactor=redactor, tokenizer=spec.tokenizer)
        stack.push_async_callback(self.replay.close)
        await self.replay.start()

    async def run(self, origin_ns: int) -> Ended:
        """Replay; a report a second. The last one is sent with the return."""
        replay = self.replay
        _stop_on_signals(replay)
        tasks = [asyncio.ensure_future(self._report()), asyncio.ensure_future(self._obey())]
        try:
            await replay.replay(origin_ns)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await replay.close()
        self._say_seen()
        return Ended(replay.issued, replay.loop_utilisation, replay.stopped, replay.failure, replay.counted)

    async def _obey(self) -> None:
        while True:
            await self._wire.order()  # there is but one after Go: Stop
            self.replay.stop()

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            self._say_seen()

    def _say_seen(self) -> None:
        delta = self._metrics.drain()
        delta.ttft_s, delta.tpot_s = self._ttft_s, self._tpot_s
        self._wire.say(Seen(self.replay.issued, delta))
        self._ttft_s, self._tpot_s = [], []

    def _listen(self, ttft_s: list[float], tpot_s: list[float]) -> None:
        self._ttft_s += ttft_s
        self._tpot_s += tpot_s


def _stop_on_signals(replay: Replay) -> None:
    loop = asyncio.get_running_loop()
    for number in stopping():
        with suppress(NotImplementedError, ValueError):
            loop.add_signal_handler(number, replay.stop)


async def _live(out_fd: int) -> int:
    """A member's life, start to end. Returns the exit status."""
    wire = await _open_wire(out_fd)
    try:
        async with AsyncExitStack() as stack:
            member = Member(await wire.spec(), wire)
            await member.prepare(stack)
            wire.say(Ready())
            order = await wire.order()
            wire.say(await member.run(order.origin_ns) if isinstance(order, Go) else Ended(0, 0.0, True, ""))
    except UserError as error:
        wire.say(Refused(error.cause, error.fix))
        return EXIT_USAGE
    finally:
        await wire.close()
    return 0


def _take_stdout() -> int:
    """A descriptor of standard output for messages alone; what anything prints goes to standard error."""
    own = os.dup(1)
    os.dup2(2, 1)
    return own


def main() -> NoReturn:
    """Entry point of the process."""
    out_fd = _take_stdout()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        sys.exit(runner.run(_live(out_fd)))


if __name__ == "__main__":
    main()
