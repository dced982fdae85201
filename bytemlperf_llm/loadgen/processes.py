"""Members as processes of this machine.

The spec goes through standard input, since it holds header values and command lines are for all to
read. A member has a session of its own, so that a Ctrl-C reaches it once, as "stop", and not from
the terminal too. CLOCK_MONOTONIC is one for all processes of a machine: the origin needs no translation.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from bytemlperf.child.process import environment, signal_name
from bytemlperf.errors import UserError
from bytemlperf_llm.live.metrics import LlmMetrics
from bytemlperf_llm.loadgen.fleet import Fleet, log_name
from bytemlperf_llm.loadgen.member import MAX_LINE_BYTES
from bytemlperf_llm.loadgen.messages import Ended, FromMember, Go, MemberLost, MemberSpec, Ready, Refused, Stop, ToMember

COMMAND = ("-m", "bytemlperf_llm.loadgen.member")
END_PATIENCE_S = 5.0
START_DELAY_NS = 200_000_000  # members learn the origin through a pipe


class ProcessHandle:
    """One member process, from start to end. `note` gets the lines of its standard error;
    `environment` is added to this process's own."""

    def __init__(self, spec: MemberSpec, note: Callable[[str], None], environment: Mapping[str, str] | None = None) -> None:
        self.worker = spec.worker
        self._spec, self._note, self._environment = spec, note, environment or {}
        self._process: asyncio.subprocess.Process | None = None
        self._noting: asyncio.Task[None] | None = None
        self._decode = msgspec.json.Decoder(FromMember).decode

    async def start(self) -> None:
        """Start it and wait until it is ready. Raises UserError."""
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *COMMAND,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            limit=MAX_LINE_BYTES,
            start_new_session=True,
            env=environment({"PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path), **self._environment}),
        )
        self._noting = asyncio.ensure_future(self._pass_on_notes())
        self._write(self._spec)
        try:
            message = await anext(self.messages())
        except MemberLost as lost:
            raise UserError(f"{lost} before it was ready", "see its own lines above") from None
        if isinstance(message, Refused):
            raise UserError(message.cause, message.fix)
        assert isinstance(message, Ready)

    async def messages(self) -> AsyncIterator[FromMember]:
        """Everything it says from now on; ends after `Ended` or `Refused`. Raises MemberLost."""
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            if not line.endswith(b"\n"):
                break  # torn by its death
            message = self._decode(line)
            yield message
            if isinstance(message, Ended | Refused):
                return
        status = await self._process.wait()
        ending = f"ended with status {status}" if status >= 0 else f"was killed by {signal_name(-status)}"
        raise MemberLost(f"worker {self.worker} {ending}")

    async def go(self, origin_ns: int) -> None:
        self._write(Go(origin_ns))

    def stop(self) -> None:
        self._write(Stop())

    def _write(self, message: MemberSpec | ToMember) -> None:
        if self._process is not None and self._process.returncode is None:
            assert self._process.stdin is not None
            with suppress(OSError, RuntimeError):  # it has died: `messages` tells
                self._process.stdin.write(msgspec.json.encode(message) + b"\n")

    def described(self) -> dict[str, Any]:
        return {"log": os.path.basename(self._spec.log)}

    async def close(self) -> None:
        """See to its end: it may leave by itself for some seconds once its standard input is shut."""
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), END_PATIENCE_S)
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if self._noting is not None:
            await self._noting

    async def _pass_on_notes(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        while line := await self._process.stderr.readline():
            self._note(f"worker {self.worker}: {line.decode(errors='replace').rstrip()}")


def process_fleet(
    common: MemberSpec, folder: Path, metrics: LlmMetrics, say: Callable[[str], None], max_error_rate: float | None, first_log: int = 0
) -> Fleet:
    """`common.workers` members on this machine, which write their logs into the run folder, numbered from `first_log`."""
    handles = [
        ProcessHandle(msgspec.structs.replace(common, worker=worker, log=str((folder / log_name(first_log + worker)).absolute())), say)
        for worker in range(common.workers)
    ]
    return Fleet(handles, folder, metrics, start_delay_ns=START_DELAY_NS, max_error_rate=max_error_rate, note=say)
