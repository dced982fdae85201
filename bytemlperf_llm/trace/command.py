"""`bmp-llm trace`: work on traces."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from bytemlperf.command.console import print_sections, sayer, terminal
from bytemlperf.command.signals import draining
from bytemlperf.errors import UserError
from bytemlperf.export.http import checked_url
from bytemlperf.report.text import counted
from bytemlperf_llm.loadgen.loops import loop_factory
from bytemlperf_llm.plan.dataset import tokenizer_folder
from bytemlperf_llm.trace.description import describe
from bytemlperf_llm.trace.detection import format_of
from bytemlperf_llm.trace.flags import DescribeFlags, RecordFlags
from bytemlperf_llm.trace.proxy import LOOPBACK, RecordingProxy
from bytemlperf_llm.trace.recording import Recording
from bytemlperf_llm.trace.sections import description_sections


def record(flags: RecordFlags) -> int:
    """Record until interrupted; one line on standard output says what was written. Raises UserError."""
    upstream = checked_url("--upstream", flags.upstream, "let the client send its key, which is passed on")
    if "?" in upstream:
        raise UserError("--upstream has a query", "leave it out: the client's own is passed on")
    tokenizer = None if flags.tokenizer is None else tokenizer_folder(flags.tokenizer)
    try:
        file = flags.out.open("xb")
    except FileExistsError:
        raise UserError(f"{flags.out} exists", "give another file with --out") from None
    except OSError as error:
        raise UserError(f"can't write {flags.out}: {error.strerror}", "give another file with --out") from None
    recording = Recording(file, tokenizer, flags.trace_block_size, keep_text=flags.keep_text)
    proxy = RecordingProxy(upstream, flags.listen, recording)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            runner.run(_serve(proxy, f"{upstream} into {flags.out}"))
        finally:
            recording.rows.close()
            if not recording.rows.written:
                flags.out.unlink()
            if proxy.listens:
                print(summary(recording, flags))
    if recording.rows.failure:
        raise UserError(f"{flags.out} can't be written: {recording.rows.failure}", "free some space, and record again")
    return 0


def describe_trace(path: Path, flags: DescribeFlags) -> None:
    """Print what a trace holds, as tables or as JSON. Raises UserError."""
    told = describe(path, format_of(path, flags.dataset_name), flags)
    if flags.json:
        print(msgspec.json.encode(told).decode())
    else:
        print_sections(terminal(), description_sections(told))


async def _serve(proxy: RecordingProxy, what: str) -> None:
    say, stop = sayer(quiet=False), asyncio.Event()
    with draining(stop.set, stop.is_set, say):
        try:
            await proxy.start()
            say(f"recording http://{LOOPBACK}:{proxy.port} → {what}; Ctrl-C ends it")
            await stop.wait()
        except OSError as error:
            fix = "give another port with --listen, 0 for any free one"
            raise UserError(f"can't listen on {LOOPBACK}:{proxy.port}: {error.strerror}", fix) from None
        finally:
            await proxy.close()


def summary(recording: Recording, flags: RecordFlags) -> str:
    """What was written, and the flags that replay it, in one line."""
    outcomes = recording.outcomes
    counts = ((outcomes.failed, "failed"), (outcomes.cut, "cut short"), (outcomes.unreadable, "not readable, passed on only"))
    told = [f"{counted(recording.rows.written, 'request')} of {counted(len(recording.sessions), 'session')} recorded"]
    told += [f"{count} {what}" for count, what in counts if count]
    if not recording.rows.written:
        return "; ".join(told)
    told += [] if recording.exact else ["blocks estimated by words (--tokenizer makes them exact)"]
    size = "" if flags.keep_text else f" --trace-block-size {flags.trace_block_size}"
    return f"{'; '.join(told)}; replay: --dataset-name mooncake_sessions --dataset-path {flags.out}{size}"
