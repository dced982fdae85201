"""What the serving commands do once flags are parsed: run, summarise, export, print."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bytemlperf.command.console import terminal
from bytemlperf.command.flags import pairs
from bytemlperf.errors import UserError
from bytemlperf.runs.verdicts import EXIT_INVALID
from bytemlperf_llm.plan.flags import Flags

if TYPE_CHECKING:
    from rich.console import Console

    from bytemlperf_llm.metrics.summary import Summary
    from bytemlperf_llm.run.bench import Ended


def run_serve_bench(flags: Flags, argv: list[str]) -> int:
    """The run, its summary and exports. The run folder's path is the last line on standard output."""
    from bytemlperf_llm.export.choose import check_exports
    from bytemlperf_llm.run.bench import serve_bench

    check_exports(flags)
    console = terminal()
    ended = serve_bench(flags, ["bmp-llm", *argv[1:]], quiet=flags.quiet)
    return _publish(ended, flags, console, quiet=flags.quiet)


def resume_run(folder: Path, headers: Sequence[str], base_url: str | None, argv: list[str], *, trust: bool, quiet: bool) -> int:
    """Send what a stopped run has not sent, then as `run_serve_bench`."""
    from bytemlperf.runs.files import damage_said
    from bytemlperf_llm.export.choose import check_exports
    from bytemlperf_llm.run.bench import resume
    from bytemlperf_llm.run.resume import flags_of, locked_run, read_remainder

    with damage_said(folder):
        lock, run = locked_run(folder)
        flags = flags_of(run, tuple(headers), base_url, trust=trust)
        remainder = read_remainder(folder, lock)
    check_exports(flags)
    console = terminal()
    ended = resume(remainder, flags, ["bmp-llm", *argv[1:]], quiet=quiet)
    return _publish(ended, flags, console, quiet=quiet)


def _publish(ended: Ended, flags: Flags, console: Console, *, quiet: bool) -> int:
    """Summary and exports. What can't be written is printed all the same, and said."""
    from bytemlperf_llm.export.choose import write_exports
    from bytemlperf_llm.run.summarise import keep_load, summarise_folder, write_summary

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # nothing here needs BLAS, and its threads cost a tenth of a short run
    folder, unwritten = ended.folder, ""
    summary = summarise_folder(folder, run=ended.run_json)
    try:
        keep_load(folder, ended.run_json, summary)
        write_summary(folder, summary)
        write_exports(folder, flags)
    except UserError as error:
        unwritten = f"{error.cause}; the records are kept: {error.fix}, then bmp-llm summarize {folder}"
    if not quiet:
        _show(console, folder, ended.run_json, summary)
    if unwritten:
        print(f"warning: {unwritten}", file=sys.stderr)
    else:
        _after_run(ended, flags, console, quiet=quiet)
    print(folder)
    return EXIT_INVALID if unwritten else _status(summary)


def _status(summary: Summary) -> int:
    from bytemlperf_llm.metrics.accumulator import OWN_LIMIT
    from bytemlperf_llm.metrics.verdict import exit_status_of

    lost = summary.failures.get(OWN_LIMIT)
    return exit_status_of(summary.verdict, lost.count if lost else 0, summary.outcomes)


def _after_run(ended: Ended, flags: Flags, console: Console, *, quiet: bool) -> None:
    """What is made of a run that is whole on disk: neither can fail it."""
    if flags.otlp is not None:
        _send_traces(ended, flags.otlp, console, quiet=quiet)
    if flags.report:
        _write_report(ended.folder, console, quiet=quiet)


def _send_traces(ended: Ended, url: str, console: Console, *, quiet: bool) -> None:
    from bytemlperf_llm.export.otlp_traces import run_traces

    try:
        said = run_traces(url, ended.folder, ended.run_json)
    except UserError as error:
        print(f"warning: {error.cause}; {error.fix}", file=sys.stderr)
        return
    if not quiet:
        console.print(f"[dim]traces:[/] {said}")


def _write_report(folder: Path, console: Console, *, quiet: bool) -> None:
    from bytemlperf.report.write import report_after_run

    path = report_after_run(folder)
    if path is not None and not quiet:
        console.print("[dim]report:[/] ", end="")
        console.print(path, markup=False, soft_wrap=True)


def summarize_run(folder: Path) -> int:
    """Compute and keep the summary again; print it."""
    from bytemlperf.runs.files import damage_said
    from bytemlperf.runs.folder import read_run_json
    from bytemlperf.runs.lock import FolderLock
    from bytemlperf_llm.run.summarise import summarise_folder, write_summary

    with FolderLock(folder), damage_said(folder):
        summary = summarise_folder(folder)
        write_summary(folder, summary)
        _show(terminal(), folder, read_run_json(folder), summary)
    print(folder)
    return _status(summary)


def _show(console: Console, folder: Path, run: dict[str, Any], summary: Summary) -> None:
    from bytemlperf.report.terminal import print_run

    print_run(console, folder, run, msgspec.to_builtins(summary))


def run_reference_server(host: str, port: int, options: Sequence[str]) -> int:
    """Serve until interrupted."""
    from engines.contract import EngineUnavailable
    from engines.reference.server import serve

    try:
        serve(host, port, pairs("--engine-option", options))
    except EngineUnavailable as error:
        raise UserError(error.cause, error.fix) from None
    except OSError as error:
        raise UserError(f"can't listen on {host}:{port}: {error.strerror}", "give another port with --port, 0 for any free one") from None
    return 0
