"""bmp-llm: parse, wire, nothing else. Heavy imports stay inside the commands, so that `--help` is quick."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from bytemlperf.command.flags import Argument, Option, Quiet, RunFolder, given_flags, only, with_flags
from bytemlperf.command.groups import App
from bytemlperf.report.command import report
from bytemlperf.runs.command import summarize, verify
from bytemlperf_llm.campaign.flags import SETTINGS as SHOOTOUT_FLAGS
from bytemlperf_llm.campaign.flags import CampaignFlags, ShootoutFlags
from bytemlperf_llm.capacity.flags import CAPACITY_FLAGS, CapacityFlags
from bytemlperf_llm.conformance.flags import CHECK_FLAGS, CheckFlags
from bytemlperf_llm.mlperf.flags import RUN_FLAGS, PointFlags, SubmissionFlags
from bytemlperf_llm.plan.flags import AUDIT_FLAGS, EXPORT_FLAGS, Flags
from bytemlperf_llm.plan.vllm_words import VllmCommand
from bytemlperf_llm.sweep.flags import SWEEP_FLAGS, SweepFlags
from bytemlperf_llm.trace.flags import DescribeFlags, RecordFlags

app = App("Benchmark LLM serving the way production sees it.", name="bmp-llm")
Trust = Annotated[bool, Option("Trust the addresses, keys, ports, files and code of the run.")]
engine_app = App("Work on one engine.")
app.add_typer(engine_app, name="engine")
audit_app = App("Check a server for what its figures don't show.")
app.add_typer(audit_app, name="audit")
trace_app = App("Work on traces.")
app.add_typer(trace_app, name="trace")
endpoints_app = App("Points by the rules of MLPerf Endpoints v1.0.")
app.add_typer(endpoints_app, name="endpoints")


@app.command("serve-bench", cls=VllmCommand, short_help="Measure an engine under a scenario's load.")
@with_flags
def serve_bench(
    context: typer.Context,
    flags: Flags,
    config: Annotated[Path | None, Option("Run to repeat, by folder or name; flags given beside it replace the run's.", run=True)] = None,
    trust: Trust = False,
) -> None:
    """Measure an engine under a scenario's load: TTFT, TPOT, ITL, throughput, goodput.

    Exit status: 0 valid or client-limited, 1 invalid, 2 bad input, 3 overloaded (the target rate is above the server's capacity),
    4 failing (more than 5 % of requests failed), 130 or 143 ended by a signal.
    """
    from bytemlperf_llm.plan.plan import resolve
    from bytemlperf_llm.run.bench import serve_bench as run
    from bytemlperf_llm.run.repeat import repeat_plan

    plan = resolve(flags) if config is None else repeat_plan(config, flags, given_flags(context), trust=trust)
    raise typer.Exit(run(plan, sys.argv))


@app.command(cls=VllmCommand, short_help="Find the highest request rate that holds service levels.")
@with_flags
def capacity(
    flags: Annotated[Flags, only(*CAPACITY_FLAGS)],
    asked: CapacityFlags,
) -> None:
    """Find the highest request rate, or concurrency, at which --share of requests meet every --goodput level.

    The answer is an interval [holds at, fails at] of two resolved probes. Exit status: 0 a load holds, 1 none was resolved as holding,
    2 bad input, 130 interrupted.
    """
    from bytemlperf_llm.capacity.command import capacity as find

    raise typer.Exit(find(flags, asked, sys.argv))


@app.command(cls=VllmCommand, short_help="Measure latency against throughput over a range of loads.")
@with_flags
def sweep(
    flags: Annotated[Flags, only(*SWEEP_FLAGS)],
    asked: SweepFlags,
) -> None:
    """Measure an engine over rates, concurrencies, lengths and engine options: a run a point, and the curves that they make.

    Without an axis the range of rates is found, from a light load to overload. Exit status: 0 some load was carried, 1 no point can be
    used, 2 bad input, 3 no load was carried, 130 interrupted.
    """
    from bytemlperf_llm.sweep.command import sweep as measure

    raise typer.Exit(measure(flags, asked, sys.argv))


@app.command(short_help="Measure a file of engines and loads, into one report.")
@with_flags
def campaign(
    file: Annotated[Path, Argument("The campaign, a YAML file.")],
    asked: CampaignFlags,
) -> None:
    """Run every engine of a file under every scenario and load, each run in a process of its own, into one report with one gate.

    Exit status: 0 every run was measured, 1 some were not or a --fail-if holds, 2 bad input, 130 interrupted.
    """
    from bytemlperf_llm.campaign.command import run_campaign
    from bytemlperf_llm.campaign.jobs import load

    raise typer.Exit(run_campaign(load(file), asked, sys.argv))


@app.command(cls=VllmCommand, short_help="Compare engines under one load, on the same schedule.")
@with_flags
def shootout(
    asked: ShootoutFlags,
    flags: Annotated[Flags, only(*SHOOTOUT_FLAGS)],
) -> None:
    """Compare engines under one load: a campaign without a file, every engine on the same schedule.

    Exit status: 0 every run was measured, 1 some were not or a --fail-if holds, 2 bad input, 130 interrupted.
    """
    from bytemlperf_llm.campaign.command import run_campaign
    from bytemlperf_llm.campaign.shootout import shootout_campaign

    raise typer.Exit(run_campaign(shootout_campaign(asked, flags), asked, sys.argv))


app.command()(summarize)
app.command("report", short_help="Write a run's report: one HTML file, or md, json, pdf.")(report)
app.command(short_help="Check that a run is unchanged.")(verify)


@app.command("export", short_help="Write a run in other tools' formats: Perfetto, llm-d, vLLM, CSV, Parquet, OTLP.")
@with_flags
def export_run(
    run: RunFolder,
    flags: Annotated[Flags, only(*EXPORT_FLAGS)],
) -> None:
    """Write the files that serve-bench writes beside a run, into the folder of one that has ended; --perfetto of a run of any suite."""
    from bytemlperf_llm.export.files import export
    from bytemlperf_llm.plan.files import files_of

    raise typer.Exit(1 if export(run, files_of(flags), perfetto=flags.perfetto) else 0)


@app.command(short_help="Resume a run that was stopped or killed.")
@with_flags
def resume(
    run: RunFolder,
    flags: Annotated[Flags, only("headers", "quiet")],
    num_prompts: Annotated[int | None, Option("Extend the run, a finished one too, to this number of requests.", least=1)] = None,
    base_url: Annotated[
        str | None, Option("Address of the run's server; the one in run.json isn't used unconfirmed.", several=True)
    ] = None,
    trust: Trust = False,
) -> None:
    """Send the requests that have no record yet, with the run's own flags, into the same folder; with --num-prompts more of them."""
    from bytemlperf_llm.run.bench import resume as go_on

    raise typer.Exit(go_on(run, flags.headers, base_url, sys.argv, trust=trust, quiet=flags.quiet, requests=num_prompts))


@app.command()
def engines() -> None:
    """List engines with their versions, or what they lack."""
    from bytemlperf_llm.doctor.listings import print_engines

    print_engines()


@app.command()
def scenarios() -> None:
    """List the built-in scenarios."""
    from bytemlperf_llm.doctor.listings import print_scenarios

    print_scenarios()


@app.command(short_help="Check the installation and print the command that fixes each problem.")
@with_flags
def doctor(
    calibrate: Annotated[bool, Option("Measure the client measurement error on this machine instead, about 45 seconds.")] = False,
) -> None:
    """Check the installation and print the command that fixes each problem."""
    if calibrate:
        from bytemlperf_llm.calibration.table import run_calibrate

        raise typer.Exit(run_calibrate())
    from bytemlperf_llm.doctor.doctor import run_doctor

    raise typer.Exit(run_doctor())


@app.command("reference-server", short_help="Serve the reference engine over HTTP.")
@with_flags
def reference_server(
    host: Annotated[str, Option("Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Option("Port; 0 for any free one.")] = 8000,
    engine_option: Annotated[tuple[str, ...], Option("KEY=VALUE: ttft_ms, itl_ms, jitter, …; repeatable.")] = (),
) -> None:
    """Serve the reference engine over OpenAI's HTTP API, with exactly known latency."""
    from bytemlperf_llm.run.reference_server import serve_reference

    raise typer.Exit(serve_reference(host, port, engine_option))


@app.command(short_help="Serve an engine of this process over OpenAI's HTTP API.")
@with_flags
def serve(
    flags: Annotated[Flags, only("engine", "model", "engine_options")],
    port: Annotated[int, Option("Port of 127.0.0.1; 0 for any free one.")] = 8000,
) -> None:
    """Serve any engine that runs in a process over OpenAI's HTTP API, on loopback, until Ctrl-C."""
    from bytemlperf_llm.run.serve import serve as run

    raise typer.Exit(run(flags.engine, flags.model, flags.engine_options, port))


@endpoints_app.command("run", cls=VllmCommand, short_help="Measure points at fixed concurrency and write their submission folder.")
@with_flags
def endpoints_run(
    flags: Annotated[Flags, only(*RUN_FLAGS)],
    points: PointFlags,
    submission: SubmissionFlags,
) -> None:
    """Measure points over the regions of concurrency, each for as long as the rules want, and write their submission folder.

    Exit status: 0 all points are measured, 2 bad input, 130 interrupted.
    """
    from bytemlperf_llm.mlperf.running import run

    raise typer.Exit(run(flags, points, submission, sys.argv))


@endpoints_app.command("export", short_help="Write a submission folder from closed-loop runs.")
@with_flags
def endpoints_export(
    runs: Annotated[tuple[Path, ...], Argument("Runs of the points, by folder or name, or folders of them.", run=True)],
    submission: SubmissionFlags,
    quiet: Quiet = False,
) -> None:
    """Write a submission folder as `endpoints-submission-cli check-submission` reads it, and name what keeps it from being accepted."""
    from bytemlperf_llm.mlperf.command import export

    raise typer.Exit(export(runs, submission, quiet=quiet))


@trace_app.command("record", short_help="Record what passes a proxy on loopback as a trace.")
@with_flags
def trace_record(flags: RecordFlags) -> None:
    """Record the chat and text completions that pass a proxy on loopback, until Ctrl-C, as a trace that serve-bench replays."""
    from bytemlperf_llm.trace.command import record

    raise typer.Exit(record(flags))


@trace_app.command("describe", short_help="Print what a trace holds.")
@with_flags
def trace_describe(
    file: Annotated[Path, Argument("The trace file, or a folder of them.")],
    flags: DescribeFlags,
) -> None:
    """Print what a trace holds: sessions, turns, lengths, pauses, prefix reuse, the most at a time, how long it takes at --time-scale."""
    from bytemlperf_llm.trace.command import describe_trace

    describe_trace(file, flags)


@app.command(short_help="Hold runs' greedy responses against a reference's.")
@with_flags
def quality(
    runs: Annotated[tuple[Path, ...], Argument("Runs: folders, ids, labels, or latest, latest~1.", run=True)],
    reference: Annotated[Path, Option("The run that they are held against.", run=True)],
    again: Annotated[Path | None, Option("The reference, run again: how far it agrees with itself is the noise.", run=True)] = None,
    fail_if: Annotated[tuple[str, ...], Option("Fail (exit 1) if: 'agreement < 98%', 'length_ratio < 0.9'; repeatable.")] = (),
    as_json: Annotated[bool, Option("Print JSON.", "--json")] = False,
) -> None:
    """Compare responses of runs with those of a reference to the same requests at temperature 0: one row of speed and agreement each.

    The verdict is "same", "differs" ("differs beyond noise" with --again) or "garbage". Runs with --keep-output show where they part.
    Exit status: 0, 1 garbage or a --fail-if holds, 2 bad input.
    """
    from bytemlperf_llm.quality.command import quality as judge

    raise typer.Exit(judge(runs, reference, again, fail_if, as_json=as_json))


@audit_app.command("cache", cls=VllmCommand, short_help="Find out whether prompts or responses are cached.")
@with_flags
def audit_cache(flags: Annotated[Flags, only(*AUDIT_FLAGS)]) -> None:
    """Send a prompt again and again between prompts that were never sent, after MLPerf's caching test: more than 10 % faster is caching.

    The verdict is "no caching seen", "prefix cache" or "responses are cached". Exit status: 0 no caching seen, 1 caching, 2 bad input.
    """
    from bytemlperf_llm.doctor.caching import audit_cache as audit

    raise typer.Exit(audit(flags))


@engine_app.command("check", short_help="Find out what an engine or a server can do: its capability card.")
@with_flags
def engine_check(
    flags: Annotated[Flags, only(*CHECK_FLAGS)],
    asked: CheckFlags,
    name: Annotated[str | None, Argument("Name of the engine. Default, with --base-url or --launch: openai.")] = None,
) -> None:
    """Ask an engine, or the server at --base-url, what it can do, with real requests: its capability card, which later runs quote.

    Exit status: 0 the contract holds, 1 it is broken, 2 bad input, 130 interrupted.
    """
    from bytemlperf_llm.conformance.command import engine_check as check

    raise typer.Exit(check(name, flags, asked, sys.argv))


@engine_app.command("new", short_help="Write a package with a working engine of your own.")
@with_flags
def engine_new(name: Annotated[str, Argument("Name of the engine.")]) -> None:
    """Write the folder bmp-NAME: a package with an engine that says prompts back, its entry point and a test that passes."""
    from bytemlperf_llm.conformance.skeleton import new_engine

    folder = new_engine(name, Path())
    print(f"{folder}\npip install -e {folder}\nbmp-llm engine check {name}")


def main() -> NoReturn:
    """Entry point: a user error is one line on stderr and exit status 2."""
    from bytemlperf.command.exits import exit_cleanly

    exit_cleanly(app)
