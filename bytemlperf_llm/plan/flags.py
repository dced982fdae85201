"""What the command line asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Flags:
    """The command line of `serve-bench`, as typed; None is "not given"."""

    engine: str = "vllm"
    scenario: str = "chat"
    model: str | None = None
    seed: int = 0
    request_rate: str | None = None
    burstiness: float | None = None
    max_concurrency: int | None = None
    ramp_up_strategy: str | None = None
    ramp_up_start_rps: float | None = None
    ramp_up_end_rps: float | None = None
    num_prompts: int | None = None
    duration_s: float | None = None
    num_warmups: int | None = None
    dataset_name: str | None = None
    dataset_path: Path | None = None
    time_scale: float | None = None
    trace_window: str | None = None
    trace_block_size: int | None = None
    timed_trace_sec_multiplier: float | None = None
    max_model_len: int | None = None
    on_too_long: str | None = None
    tokenizer: str | None = None
    input_len: int | None = None
    random_prefix_len: int | None = None
    output_len: int | None = None
    ignore_eos: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    connect_timeout_s: float | None = None
    first_token_timeout_s: float | None = None
    idle_timeout_s: float | None = None
    total_timeout_s: float | None = None
    drain_s: float | None = None
    goodput: tuple[str, ...] = ()
    max_error_rate: float | None = None
    base_url: str | None = None
    endpoint: str | None = None
    headers: tuple[str, ...] = ()
    extra_body: str | None = None
    insecure: bool = False
    api_key_file: Path | None = None
    ready_check_timeout_s: float = 0.0
    engine_options: tuple[str, ...] = ()
    workers: str | None = None
    ray: str | None = None
    prometheus_port: int | None = None
    prometheus_host: str = "127.0.0.1"
    runs_dir: Path = Path("runs")
    label: str | None = None
    device: str | None = None
    metadata: tuple[str, ...] = ()
    keep_output: bool = False
    save_result: bool = False
    save_detailed: bool = False
    result_dir: Path | None = None
    result_filename: str | None = None
    percentile_metrics: str = "ttft,tpot,itl"
    metric_percentiles: str = "99"
    dashboard_port: int | None = None
    push_gateway: str | None = None
    otlp: str | None = None
    push_interval_s: float = 5.0
    report: bool = True
    csv: bool = False
    parquet: bool = False
