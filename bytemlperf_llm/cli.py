"""bmp-llm: parse, wire, nothing else. Heavy imports stay inside the commands, so that `--help` is quick."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
import typer.core

from bytemlperf.command.groups import PlainHelpGroup
from bytemlperf_llm.plan.vllm_words import VllmCommand

app = typer.Typer(
    name="bmp-llm",
    cls=PlainHelpGroup,
    help="Benchmark LLM serving the way production sees it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
engine_app = typer.Typer(help="Work on one engine.", no_args_is_help=True)
app.add_typer(engine_app, name="engine")

_LOAD, _TRACE, _ENGINE, _LIMITS, _OUTPUT = "Load", "Traces and prompt lengths", "Engine and model", "Limits", "Output"


def _in(panel: str, help_text: str, *names: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(*names, help=help_text, rich_help_panel=panel, show_default=False)
    return option


@app.command("serve-bench", cls=VllmCommand, short_help="Measure an engine under a scenario's load.")
def serve_bench(
    engine: Annotated[str, _in(_ENGINE, "Engine to measure; see `bmp-llm engines`. Default: vllm.")] = "vllm",
    scenario: Annotated[str, _in(_LOAD, "Scenario name or YAML file; see `bmp-llm scenarios`. Default: chat.")] = "chat",
    model: Annotated[str | None, _in(_ENGINE, "smollm2 (default), synthetic, a folder, a hub id; or a server's model name.")] = None,
    served_model_name: Annotated[str | None, _in(_ENGINE, "The name a server serves the model under.")] = None,
    engine_option: Annotated[list[str] | None, _in(_ENGINE, "Engine option as KEY=VALUE; repeatable.")] = None,
    base_url: Annotated[str | None, _in(_ENGINE, "Server address, for --engine openai. Default: http://127.0.0.1:8000.")] = None,
    endpoint: Annotated[str | None, _in(_ENGINE, "/v1/chat/completions (default) or /v1/completions.")] = None,
    header: Annotated[list[str] | None, _in(_ENGINE, "'NAME: VALUE' sent with every request; repeatable; values are never stored.")] = None,
    extra_body: Annotated[str | None, _in(_ENGINE, "JSON object merged into every request body.")] = None,
    insecure: Annotated[bool, _in(_ENGINE, "Don't check the server's TLS certificate.", "--insecure")] = False,
    api_key_file: Annotated[Path | None, _in(_ENGINE, "File with the API key. Default: the variable OPENAI_API_KEY.")] = None,
    ready_check_timeout_sec: Annotated[float, _in(_ENGINE, "Seconds to wait for the server to become ready. Default: 0.")] = 0.0,
    request_rate: Annotated[str | None, _in(_LOAD, "Requests per second, 'inf' (all at once) or 'auto'.")] = None,
    burstiness: Annotated[float | None, _in(_LOAD, "Shape of gamma arrivals: 1 is Poisson, below 1 burstier, inf constant gaps.")] = None,
    max_concurrency: Annotated[
        int | None, _in(_LOAD, "Concurrent requests. Alone: closed loop. With a rate or trace: upper limit.")
    ] = None,
    ramp_up_strategy: Annotated[str | None, _in(_LOAD, "Shape of the rate ramp: linear or exponential.")] = None,
    ramp_up_start_rps: Annotated[float | None, _in(_LOAD, "Request rate at the start of the ramp.")] = None,
    ramp_up_end_rps: Annotated[float | None, _in(_LOAD, "Request rate at the end of the ramp.")] = None,
    num_prompts: Annotated[int | None, _in(_LOAD, "Number of requests.")] = None,
    duration: Annotated[float | None, _in(_LOAD, "Length of the schedule, in seconds.")] = None,
    num_warmups: Annotated[int | None, _in(_LOAD, "Warm-up requests before measuring.")] = None,
    seed: Annotated[int, _in(_LOAD, "Same seed, same schedule and prompts. Default: 0.")] = 0,
    input_len: Annotated[int | None, _in(_LOAD, "Length of synthetic prompts in tokens, chat template included.")] = None,
    random_prefix_len: Annotated[int | None, _in(_LOAD, "Length of a prefix shared by all prompts, in tokens (with --input-len).")] = None,
    output_len: Annotated[int | None, _in(_LOAD, "Output tokens per request, instead of the scenario's or trace's lengths.")] = None,
    ignore_eos: Annotated[bool | None, _in(_LOAD, "Ignore end-of-sequence tokens.", "--ignore-eos/--no-ignore-eos")] = None,
    temperature: Annotated[float | None, _in(_LOAD, "Sampling temperature.")] = None,
    top_p: Annotated[float | None, _in(_LOAD, "Nucleus sampling.")] = None,
    top_k: Annotated[int | None, _in(_LOAD, "Top-k sampling.")] = None,
    dataset_name: Annotated[
        str | None, _in(_TRACE, "mooncake, azure, burstgpt, bailian, timed_trace, custom or sharegpt; sent at its own times.")
    ] = None,
    dataset_path: Annotated[Path | None, _in(_TRACE, "Dataset file. Default: the bundled excerpt of mooncake or azure.")] = None,
    time_scale: Annotated[float | None, _in(_TRACE, "Factor on the trace's times: 0.5 sends twice as fast. Default: 1.")] = None,
    trace_window: Annotated[str | None, _in(_TRACE, "START:END in seconds of the trace. Default: all of it.")] = None,
    trace_block_size: Annotated[
        int | None,
        _in(_TRACE, "Tokens per hash id. Default: mooncake 512, others 16.", "--trace-block-size", "--timed-trace-chunk-hash-size"),
    ] = None,
    timed_trace_sec_multiplier: Annotated[float | None, _in(_TRACE, "Seconds per unit of timed_trace's times. Default: 1.")] = None,
    max_model_len: Annotated[int | None, _in(_TRACE, "Limit on prompt plus output tokens. Default: the model's context.")] = None,
    on_too_long: Annotated[str | None, _in(_TRACE, "Longer requests: skip, truncate or fail (default).")] = None,
    tokenizer: Annotated[
        str | None, _in(_TRACE, "Folder with tokenizer.json, model name, or 'words', to count prompt tokens. Default: the model's.")
    ] = None,
    workers: Annotated[str | None, _in(_LOAD, "Load workers, one process each; or 'auto'. Default: 1.")] = None,
    ray: Annotated[str | None, _in(_LOAD, "Run the workers as actors of this Ray cluster: 'auto' or HOST:PORT.")] = None,
    connect_timeout: Annotated[float | None, _in(_LIMITS, "Timeout for sending a request, in seconds.")] = None,
    first_token_timeout: Annotated[float | None, _in(_LIMITS, "Timeout from sending to the first chunk, in seconds.")] = None,
    idle_timeout: Annotated[float | None, _in(_LIMITS, "Timeout between chunks, in seconds.")] = None,
    total_timeout: Annotated[float | None, _in(_LIMITS, "Timeout for a whole request, in seconds.")] = None,
    drain: Annotated[float | None, _in(_LIMITS, "Seconds to wait for requests in flight after the schedule ends.")] = None,
    max_error_rate: Annotated[float | None, _in(_LIMITS, "Stop when a larger share of requests has failed.")] = None,
    goodput: Annotated[list[str] | None, _in(_LOAD, "Service levels in ms: ttft:500 tpot:50 e2el:10000; repeatable.")] = None,
    prometheus_port: Annotated[int | None, _in(_OUTPUT, "Port for live Prometheus metrics during the run; 0 picks a free one.")] = None,
    prometheus_host: Annotated[str, _in(_OUTPUT, "Address to serve metrics on. Default: 127.0.0.1.")] = "127.0.0.1",
    dashboard: Annotated[bool, _in(_OUTPUT, "Serve a live page on loopback during the run.", "--dashboard")] = False,
    dashboard_port: Annotated[int | None, _in(_OUTPUT, "Port of the live page; implies --dashboard. Default: any free one.")] = None,
    push_gateway: Annotated[str | None, _in(_OUTPUT, "Push live metrics to the Pushgateway at this address.")] = None,
    otlp: Annotated[str | None, _in(_OUTPUT, "Send live metrics by OTLP/HTTP to this address; at the end, a trace per request.")] = None,
    push_interval: Annotated[
        float, typer.Option(min=1.0, help="Seconds between pushes. Default: 5.", rich_help_panel=_OUTPUT, show_default=False)
    ] = 5.0,
    runs_dir: Annotated[Path, _in(_OUTPUT, "Directory for run folders. Default: runs.")] = Path("runs"),
    label: Annotated[str | None, _in(_OUTPUT, "Name of the run. Default: ENGINE-SCENARIO.")] = None,
    device: Annotated[str | None, _in(_OUTPUT, "What the server runs on: CARD or CARD*COUNT of bmp hardware list.")] = None,
    metadata: Annotated[list[str] | None, _in(_OUTPUT, "KEY=VALUE stored with the result; repeatable.")] = None,
    keep_output: Annotated[bool, _in(_OUTPUT, "Store response texts in the records.", "--keep-output")] = False,
    save_result: Annotated[bool, _in(_OUTPUT, "Also write a JSON as `vllm bench serve` does.", "--save-result")] = False,
    save_detailed: Annotated[bool, _in(_OUTPUT, "With --save-result: include per-request lists and texts.", "--save-detailed")] = False,
    result_dir: Annotated[Path | None, _in(_OUTPUT, "Folder of the --save-result JSON. Default: the run folder.")] = None,
    result_filename: Annotated[str | None, _in(_OUTPUT, "Name of the --save-result JSON. Default: vllm-bench.json.")] = None,
    percentile_metrics: Annotated[str, _in(_OUTPUT, "Metrics of the --save-result JSON. Default: ttft,tpot,itl.")] = "ttft,tpot,itl",
    metric_percentiles: Annotated[str, _in(_OUTPUT, "Percentiles of the --save-result JSON. Default: 99.")] = "99",
    report: Annotated[bool, _in(_OUTPUT, "Write report.html into the run folder. Default: yes.", "--report/--no-report")] = True,
    csv: Annotated[bool, _in(_OUTPUT, "Also write records.csv.", "--csv")] = False,
    parquet: Annotated[bool, _in(_OUTPUT, "Also write records.parquet.", "--parquet")] = False,
    quiet: Annotated[bool, _in(_OUTPUT, "Print only the run folder's path.", "--quiet", "-q")] = False,
) -> None:
    """Measure an engine under a scenario's load: TTFT, TPOT, ITL, throughput, goodput.

    Exit status: 0 valid or client-limited, 1 invalid, 2 bad input, 3 overloaded (the target rate is above the server's capacity),
    4 failing (more than 5 % of requests failed), 130 or 143 ended by a signal.
    """
    from bytemlperf_llm.plan.flags import Flags
    from bytemlperf_llm.run.command import run_serve_bench

    flags = Flags(
        engine=engine,
        scenario=scenario,
        model=served_model_name or model,
        seed=seed,
        request_rate=request_rate,
        burstiness=burstiness,
        max_concurrency=max_concurrency,
        ramp_up_strategy=ramp_up_strategy,
        ramp_up_start_rps=ramp_up_start_rps,
        ramp_up_end_rps=ramp_up_end_rps,
        num_prompts=num_prompts,
        duration_s=duration,
        num_warmups=num_warmups,
        dataset_name=dataset_name,
        dataset_path=dataset_path,
        time_scale=time_scale,
        trace_window=trace_window,
        trace_block_size=trace_block_size,
        timed_trace_sec_multiplier=timed_trace_sec_multiplier,
        max_model_len=max_model_len,
        on_too_long=on_too_long,
        tokenizer=tokenizer,
        input_len=input_len,
        random_prefix_len=random_prefix_len,
        output_len=output_len,
        ignore_eos=ignore_eos,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        workers=workers,
        ray=ray,
        connect_timeout_s=connect_timeout,
        first_token_timeout_s=first_token_timeout,
        idle_timeout_s=idle_timeout,
        total_timeout_s=total_timeout,
        drain_s=drain,
        goodput=tuple(goodput or ()),
        max_error_rate=max_error_rate,
        base_url=base_url,
        endpoint=endpoint,
        headers=tuple(header or ()),
        extra_body=extra_body,
        insecure=insecure,
        api_key_file=api_key_file,
        ready_check_timeout_s=ready_check_timeout_sec,
        engine_options=tuple(engine_option or ()),
        prometheus_port=prometheus_port,
        prometheus_host=prometheus_host,
        runs_dir=runs_dir,
        label=label,
        device=device,
        metadata=tuple(metadata or ()),
        keep_output=keep_output,
        save_result=save_result,
        save_detailed=save_detailed,
        result_dir=result_dir,
        result_filename=result_filename,
        percentile_metrics=percentile_metrics,
        metric_percentiles=metric_percentiles,
        dashboard_port=0 if dashboard and dashboard_port is None else dashboard_port,
        push_gateway=push_gateway,
        otlp=otlp,
        push_interval_s=push_interval,
        report=report,
        csv=csv,
        parquet=parquet,
    )
    raise typer.Exit(run_serve_bench(flags, sys.argv, quiet=quiet))


@app.command()
def summarize(run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]) -> None:
    """Recompute the summary from the records."""
    from bytemlperf_llm.run.command import summarize_run

    raise typer.Exit(summarize_run(run))


@app.command("report", short_help="Write a run's report: one HTML file, or md, json, pdf.")
def report_(
    run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    format_name: Annotated[str, typer.Option("--format", help="Format: html, md, json or pdf.")] = "html",
    out: Annotated[Path | None, typer.Option(help="Output file. Default: report.FORMAT in the run folder.")] = None,
) -> None:
    """Write a run's report as one file to read, print or send."""
    from bytemlperf.report.write import write_report

    print(write_report(run, format_name, out))


@app.command(short_help="Resume a run that was stopped or killed.")
def resume(
    run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    header: Annotated[list[str] | None, _in(_ENGINE, "'NAME: VALUE', as in the run: values are never stored; repeatable.")] = None,
    base_url: Annotated[str | None, _in(_ENGINE, "Address of the run's server; the one in run.json isn't used unconfirmed.")] = None,
    trust: Annotated[bool, _in(_ENGINE, "Trust the addresses, keys, ports, files and code of the run.", "--trust")] = False,
    quiet: Annotated[bool, _in(_OUTPUT, "Print only the run folder's path.", "--quiet", "-q")] = False,
) -> None:
    """Send the requests that have no record yet, with the run's own flags, into the same folder."""
    from bytemlperf_llm.run.command import resume_run

    raise typer.Exit(resume_run(run, header or [], base_url, sys.argv, trust=trust, quiet=quiet))


@app.command(short_help="Check that a run is unchanged.")
def verify(run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]) -> None:
    """Recompute and compare every published figure; list what was damaged or changed."""
    from bytemlperf.runs.verify import verify_any

    raise typer.Exit(verify_any(run, default_kind="llm"))


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
def doctor(
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure the client measurement error on this machine instead, about 45 seconds.")
    ] = False,
) -> None:
    """Check the installation and print the command that fixes each problem."""
    from bytemlperf_llm.doctor.doctor import run_calibrate, run_doctor

    raise typer.Exit(run_calibrate() if calibrate else run_doctor())


@app.command("reference-server", short_help="Serve the reference engine over HTTP.")
def reference_server(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 for any free one.")] = 8000,
    engine_option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE: ttft_ms, itl_ms, jitter, …; repeatable.")] = None,
) -> None:
    """Serve the reference engine over OpenAI's HTTP API, with exactly known latency."""
    from bytemlperf_llm.run.command import run_reference_server

    raise typer.Exit(run_reference_server(host, port, engine_option or []))


@engine_app.command("check")
def engine_check(
    name: Annotated[str, typer.Argument(help="Name of the engine.", show_default=False)],
    model: Annotated[str | None, typer.Option(help="Model, as for serve-bench.")] = None,
    engine_option: Annotated[list[str] | None, typer.Option(help="Engine option as KEY=VALUE; repeatable.")] = None,
) -> None:
    """Check an engine against the contract, with real requests."""
    from bytemlperf_llm.doctor.engine_check import run_engine_check

    raise typer.Exit(run_engine_check(name, model, engine_option or []))


def main() -> NoReturn:
    """Entry point: a user error is one line on stderr and exit status 2."""
    from bytemlperf.command.exits import exit_cleanly

    exit_cleanly(app)
