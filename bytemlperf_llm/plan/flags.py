"""The flags of `serve-bench`, declared once. None is "not given": the scenario's own then holds."""

import math
from pathlib import Path
from typing import Annotated, Literal

from bytemlperf.command.flags import MetricsOutput, Option, Options, RunOutput, fields_of

CacheState = Literal["as-is", "cold", "warm"]
"""The server's prefix cache before the run: left alone, emptied (or never met, by a salt), or filled with the run's own prompts."""


class Engine(Options, panel="Engine and model"):
    """What is measured, and how it is reached."""

    engine: Annotated[str, Option("Engine to measure; see `bmp-llm engines`.")] = "vllm"
    model: Annotated[
        str | None,
        Option("smollm2 (default), synthetic, a folder, a hub id; or the name a server serves it under (--served-model-name)."),
    ] = None
    engine_options: Annotated[tuple[str, ...], Option("Engine option as KEY=VALUE; repeatable.", "--engine-option")] = ()
    base_url: Annotated[
        str | None,
        Option(
            "Server address, for --engine openai; repeatable; see docs/sessions.md. Default: http://127.0.0.1:8000.",
            sets="base_url",
            several=True,
        ),
    ] = None
    route: Annotated[Literal["round-robin", "session"], Option("Which of several --base-url a request goes to:", sets="route")] = (
        "round-robin"
    )
    metrics_url: Annotated[
        str | None,
        Option(
            "Page of metrics to read too, as NAME=URL (DCGM exporter's, a router's); as URL instead of the server's /metrics; repeatable.",
            sets="metrics_url",
            several=True,
        ),
    ] = None
    launch: Annotated[
        str | None, Option("Start the server, too: a command line with {model}, {name}, {host}, {port}, or vllm, sglang, llamacpp, ….")
    ] = None
    endpoint: Annotated[
        str | None,
        Option("/v1/chat/completions (default), /v1/completions, /v1/responses, /v1/embeddings or /v1/rerank.", sets="endpoint"),
    ] = None
    headers: Annotated[
        tuple[str, ...],
        Option(
            "'NAME: VALUE' sent with every request, {session}, {class} and {request} in it filled in; repeatable; values are never stored.",
            "--header",
            sets="headers",
        ),
    ] = ()
    extra_body: Annotated[str | None, Option("JSON object merged into every request body.", sets="extra_body")] = None
    insecure: Annotated[bool, Option("Don't check the server's TLS certificate.", sets="insecure")] = False
    api_key_file: Annotated[Path | None, Option("File with the API key. Default: the variable OPENAI_API_KEY.", sets="api_key_file")] = None
    ready_check_timeout_s: Annotated[
        float, Option("Seconds to wait for the server to become ready.", "--ready-check-timeout-sec", sets="ready_timeout_s", least=0)
    ] = 0.0
    device: Annotated[str | None, Option("What the server runs on: CARD or CARD*COUNT of `bmp hardware list`.", "--card --device")] = None


class Load(Options, panel="Load"):
    """What is sent, and when."""

    scenario: Annotated[str, Option("Scenario name or YAML file; see `bmp-llm scenarios`.")] = "chat"
    request_rate: Annotated[str | None, Option("Requests per second, 'inf' (all at once) or 'auto'.")] = None
    burstiness: Annotated[
        float | None, Option("Shape of gamma arrivals: 1 is Poisson, below 1 burstier, inf constant gaps.", above=0, most=math.inf)
    ] = None
    max_concurrency: Annotated[
        int | None, Option("Concurrent requests. Alone: closed loop. With a rate or trace: upper limit.", least=1)
    ] = None
    ramp_up_strategy: Annotated[str | None, Option("Shape of the rate ramp: linear or exponential.")] = None
    ramp_up_start_rps: Annotated[float | None, Option("Request rate at the start of the ramp.", above=0)] = None
    ramp_up_end_rps: Annotated[float | None, Option("Request rate at the end of the ramp.", above=0)] = None
    num_prompts: Annotated[int | None, Option("Number of requests.", least=1)] = None
    num_sessions: Annotated[int | None, Option("Number of sessions, for scenarios of sessions.", least=1)] = None
    duration_s: Annotated[float | None, Option("Length of the schedule, in seconds.", above=0)] = None
    until: Annotated[
        str | None, Option("Stop before --num-prompts or --duration once this is so narrow: 'ttft p99 ±10%'; ttft, tpot or e2el.")
    ] = None
    num_warmups: Annotated[int | None, Option("Warm-up requests before measuring.", sets="warmup_requests", least=0)] = None
    cache: Annotated[
        CacheState | None,
        Option("Prefix cache at the start: as-is (default), cold (reset, or prompts salted) or warm (prompts sent before).", sets="cache"),
    ] = None
    seed: Annotated[int, Option("Same seed, same schedule and prompts.")] = 0
    ignore_eos: Annotated[bool | None, Option("Ignore end-of-sequence tokens.", sets="sampling.ignore_eos")] = None
    temperature: Annotated[float | None, Option("Sampling temperature.", sets="sampling.temperature")] = None
    top_p: Annotated[float | None, Option("Nucleus sampling.", sets="sampling.top_p")] = None
    top_k: Annotated[int | None, Option("Top-k sampling.", sets="sampling.top_k")] = None
    tokenize_prompt: Annotated[
        bool, Option("Send prompts as token ids: of exact length, for completions and in process.", sets="prompts.token_ids")
    ] = False
    batch_size: Annotated[
        int | None, Option("Inputs per request of /v1/embeddings, documents per query of /v1/rerank.", sets="prompts.batch_size", least=1)
    ] = None
    workers: Annotated[str | None, Option("Load workers, one process each; or 'auto'. Default: 1.")] = None
    ray: Annotated[str | None, Option("Run the workers as actors of this Ray cluster: 'auto' or HOST:PORT.")] = None
    goodput: Annotated[tuple[str, ...], Option("Service levels in ms: ttft:500 tpot:50 e2el:10000 session:60000; repeatable.")] = ()


class Prompts(Options, panel="Traces and prompt lengths"):
    """What takes the place of the scenario's own prompts."""

    input_len: Annotated[int | None, Option("Length of synthetic prompts in tokens, chat template included.", least=1)] = None
    random_prefix_len: Annotated[int | None, Option("Length of a prefix shared by all prompts, in tokens (with --input-len).", least=0)] = (
        None
    )
    random_range_ratio: Annotated[
        float | None, Option("Spread of --input-len and --output-len: uniform within this share of them, 0 to 1.", least=0, most=1)
    ] = None
    output_len: Annotated[int | None, Option("Output tokens per request, instead of the scenario's or trace's lengths.", least=1)] = None
    dataset_name: Annotated[
        str | None, Option("mooncake, azure, burstgpt, bailian, timed_trace, custom, sharegpt; of sessions: see docs/sessions.md.")
    ] = None
    dataset_path: Annotated[Path | None, Option("Dataset file. Default: the bundled excerpt of mooncake, azure, weka or tracelab.")] = None
    time_scale: Annotated[
        float | None, Option("Factor on the trace's times: 0.5 sends twice as fast. Default: 1.", sets="time_scale", above=0)
    ] = None
    answers: Annotated[
        str | None, Option("What continues a session: recorded responses (default) or the engine's own: live.", sets="answers")
    ] = None
    trace_window: Annotated[str | None, Option("START:END in seconds of the trace. Default: all of it.", sets="window_s")] = None
    trace_block_size: Annotated[
        int | None, Option("Tokens per hash id. Default: mooncake 512, weka as the file says, others 16.", sets="block_tokens", least=1)
    ] = None
    timed_trace_sec_multiplier: Annotated[
        float | None, Option("Seconds per unit of timed_trace's times. Default: 1.", sets="timestamp_unit_s", above=0)
    ] = None
    max_model_len: Annotated[
        int | None, Option("Limit on prompt plus output tokens. Default: the model's context.", sets="max_model_len", least=1)
    ] = None
    on_too_long: Annotated[str | None, Option("Longer requests: skip, truncate or fail (default).", sets="on_too_long")] = None
    images: Annotated[str | None, Option("Drawn images in every request: WIDTHxHEIGHT, or WIDTHxHEIGHT*COUNT, such as 512x512*2.")] = None
    tokenizer: Annotated[
        str | None, Option("Folder with tokenizer.json, model name, or 'words', to count prompt tokens. Default: the model's.")
    ] = None


class Limits(Options, panel="Limits"):
    """How long a request or the run may take."""

    connect_timeout_s: Annotated[float | None, Option("Timeout of sending a request in seconds.", sets="timeouts.connect_s", above=0)] = (
        None
    )
    first_token_timeout_s: Annotated[
        float | None, Option("Timeout from sending to the first chunk, in seconds.", sets="timeouts.first_token_s", above=0)
    ] = None
    idle_timeout_s: Annotated[float | None, Option("Timeout between chunks, in seconds.", sets="timeouts.idle_s", above=0)] = None
    total_timeout_s: Annotated[float | None, Option("Timeout for a whole request, in seconds.", sets="timeouts.total_s", above=0)] = None
    drain_s: Annotated[float | None, Option("Seconds to wait for requests in flight at the schedule end.", sets="drain_s", least=0)] = None
    max_error_rate: Annotated[float | None, Option("Stop when a larger share of requests has failed.", least=0, most=1)] = None


class Exports(Options, panel="Output"):
    """Files beside the run folder's own."""

    metadata: Annotated[tuple[str, ...], Option("KEY=VALUE stored with the result; repeatable.")] = ()
    keep_output: Annotated[bool, Option("Store response texts in the records.")] = False
    trace_requests: Annotated[bool, Option("Send a traceparent with each request, and receive the server's spans by OTLP/HTTP.")] = False
    trace_port: Annotated[
        int | None, Option("Port to receive spans on, on loopback; implies --trace-requests. Default: 4318.", least=0, most=65535)
    ] = None
    verbose: Annotated[bool, Option("Also print whether the load was on target, and what the client's own part was.")] = False
    report: Annotated[bool, Option("Write report.html into the run folder.")] = True
    calibrate: Annotated[bool, Option("Calibrate this client, in 10 s, before the first run over HTTP on this machine.")] = True
    csv: Annotated[bool, Option("Also write records.csv.")] = False
    parquet: Annotated[bool, Option("Also write records.parquet.")] = False
    llm_d: Annotated[bool, Option("Also write llm-d's Benchmark Report v0.2, llm-d-report.yaml.")] = False
    save_result: Annotated[bool, Option("Also write a JSON as `vllm bench serve` does.", "--save-result --vllm-json")] = False
    save_detailed: Annotated[bool, Option("With --save-result: include per-request lists and texts.")] = False
    result_dir: Annotated[Path | None, Option("Folder of the --save-result JSON. Default: the run folder.")] = None
    result_filename: Annotated[str | None, Option("Name of the --save-result JSON. Default: vllm-bench.json.")] = None
    percentile_metrics: Annotated[str, Option("Metrics of the --save-result JSON.")] = "ttft,tpot,itl"
    metric_percentiles: Annotated[str, Option("Percentiles of the --save-result JSON.")] = "99"


class Flags(Engine, Load, Prompts, Limits, RunOutput, Exports, MetricsOutput):
    """The command line of `serve-bench`, as typed."""

    label: Annotated[str | None, Option("Name of the run. Default: ENGINE-SCENARIO.")] = None
    otlp: Annotated[str | None, Option("Send metrics by OTLP/HTTP to this address; at the end, a trace per request.")] = None


AUDIT_FLAGS = (
    *(field.name for part in (Engine, Limits) for field in fields_of(part) if field.name != "max_error_rate"),
    *("num_prompts", "input_len", "output_len", "tokenizer", "seed", "temperature", "quiet"),
)
"""Those of `bmp-llm audit`."""
EXPORT_FLAGS = (
    *("csv", "parquet", "llm_d", "save_result", "save_detailed", "result_dir", "result_filename"),
    *("percentile_metrics", "metric_percentiles", "otlp", "perfetto"),
)
"""Those that say which files a run leaves besides its folder's own."""
