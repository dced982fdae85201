"""Make bytemlperf.json, the Grafana dashboard of all suites, from one literal table of panels.

Built with Grafana's own types (grafana-foundation-sdk), so that a key which Grafana doesn't know can't
be written. Run: python deploy/grafana/make_dashboard.py; a test checks that the file is what this makes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

OUTPUT = Path(__file__).with_name("bytemlperf.json")
UID = "bytemlperf"
WINDOW = "$__rate_interval"
PICK = 'instance=~"$instance"'
QUANTILES = (0.5, 0.9, 0.99)
COLUMNS, HEIGHT = 24, 8


class Query(NamedTuple):
    """PromQL and the name of its series."""

    expression: str
    legend: str


class Panel(NamedTuple):
    """One panel. `unit` is Grafana's; `kind` is timeseries, stat or heatmap."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    about: str
    kind: str = "timeseries"
    width: int = 8


def rate(counter: str, by: str = "") -> str:
    """Increase a second, summed over the chosen instances."""
    inside = f"rate({counter}{{{PICK}}}[{WINDOW}])"
    return f"sum by ({by}) ({inside})" if by else f"sum({inside})"


def quantiles(histogram: str) -> tuple[Query, ...]:
    """Quantiles from buckets, summed over the chosen instances: exact to the bucket that they fall into."""
    buckets = f"sum by (le) (rate({histogram}_bucket{{{PICK}}}[{WINDOW}]))"
    return tuple(Query(f"histogram_quantile({each}, {buckets})", f"p{each * 100:g}") for each in QUANTILES)


def level(gauge: str) -> str:
    """A gauge, summed over the chosen instances."""
    return f"sum({gauge}{{{PICK}}})"


BUCKETS = "From buckets: TTFT, TPOT, ITL and E2E within 10 %. Exact percentiles are in the run's report."

ROWS: dict[str, tuple[Panel, ...]] = {
    "LLM serving": (
        Panel(
            "Completed",
            "percentunit",
            (
                Query(
                    f"({level('bmp_request_success_total')} + {level('bmp_request_failure_total')}) / {level('bmp_requests_planned')}",
                    "completed",
                ),
            ),
            "Share of the planned requests that have ended.",
            "stat",
            4,
        ),
        Panel("Requests in flight", "short", (Query(level("bmp_requests_in_flight"), "in flight"),), "Sent and not ended.", "stat", 4),
        Panel(
            "Failures",
            "percentunit",
            (
                Query(
                    f"{rate('bmp_request_failure_total')} / ({rate('bmp_request_failure_total')} + {rate('bmp_request_success_total')})",
                    "failed",
                ),
            ),
            "Share of the requests that ended in the window.",
            "stat",
            4,
        ),
        Panel(
            "Requests",
            "reqps",
            (
                Query(rate("bmp_request_success_total"), "ok"),
                Query(rate("bmp_request_goodput_total"), "within SLO"),
                Query(rate("bmp_request_failure_total", "error_class"), "{{error_class}}"),
            ),
            "Ended requests a second, those within their service levels, failures by class.",
        ),
        Panel(
            "Tokens",
            "short",
            (Query(rate("bmp_generation_tokens_total"), "output/s"), Query(rate("bmp_prompt_tokens_total"), "prompt/s")),
            "Tokens a second, as the engine reports them.",
        ),
        Panel("Time to first token", "s", quantiles("bmp_time_to_first_token_seconds"), f"From the planned time in open loop. {BUCKETS}"),
        Panel(
            "Time per output token", "s", quantiles("bmp_time_per_output_token_seconds"), f"(last − first token) ÷ (tokens − 1). {BUCKETS}"
        ),
        Panel("Inter-token latency", "s", quantiles("bmp_inter_token_latency_seconds"), f"Gaps between tokens. {BUCKETS}"),
        Panel("End-to-end latency", "s", quantiles("bmp_e2e_request_latency_seconds"), BUCKETS),
        Panel("Prompt tokens of a request", "short", quantiles("bmp_request_prompt_tokens"), BUCKETS),
        Panel("Output tokens of a request", "short", quantiles("bmp_request_generation_tokens"), BUCKETS),
        Panel(
            "Client lateness",
            "s",
            quantiles("bmp_schedule_lateness_seconds"),
            f"How long after its planned time a request was sent: high is a client at its limit. {BUCKETS}",
        ),
        Panel(
            "Time to first token, spread",
            "s",
            (Query(f"sum by (le) (increase(bmp_time_to_first_token_seconds_bucket{{{PICK}}}[{WINDOW}]))", "{{le}}"),),
            "Requests by bucket.",
            "heatmap",
        ),
    ),
    "Operators": (
        Panel(
            "Cases",
            "short",
            (Query(f"sum by (status) (bmp_micro_cases_total{{{PICK}}})", "{{status}}"), Query(level("bmp_micro_cases_planned"), "planned")),
            "Planned, and ended by status.",
        ),
        Panel(
            "Efficiency",
            "percentunit",
            (Query(f"bmp_micro_operator_efficiency_ratio{{{PICK}}} >= 0", "{{operator}}"),),
            "Share of what the measured peaks allow, in each operator's last case.",
        ),
        Panel(
            "Latency of an operator's last case",
            "s",
            (Query(f"bmp_micro_operator_latency_seconds{{{PICK}}} >= 0", "{{operator}}"),),
            "Median. Operators that were not measured are left out.",
        ),
        Panel(
            "Operations",
            "flops",
            (Query(f"bmp_micro_operator_flops_per_second{{{PICK}}} >= 0", "{{operator}}"),),
            "FLOP/s of the last case, at its median.",
        ),
        Panel(
            "Memory bandwidth",
            "Bps",
            (
                Query(f"bmp_micro_operator_memory_bytes_per_second{{{PICK}}} >= 0", "{{operator}}"),
                Query(f"max(bmp_micro_peak_memory_bytes_per_second{{{PICK}}}) >= 0", "measured peak"),
            ),
            "Bytes read and written a second in the last case, and this machine's measured peak.",
        ),
        Panel(
            "Bus bandwidth of collectives",
            "Bps",
            (
                Query(f"bmp_micro_operator_bus_bytes_per_second{{{PICK}}} >= 0", "{{operator}}"),
                Query(f"max(bmp_micro_peak_link_bytes_per_second{{{PICK}}}) >= 0", "measured link"),
            ),
            "Of the last case, and the measured bandwidth between two ranks.",
        ),
        Panel(
            "Median latencies of cases",
            "s",
            quantiles("bmp_micro_case_latency_seconds"),
            f"Over the cases that ended in the window. {BUCKETS}",
        ),
        Panel(
            "Time spent sampling",
            "percentunit",
            (Query(rate("bmp_micro_sampling_seconds_total"), "sampling"),),
            "Share of the time in which samples are taken; the rest is starting, compiling, warming up and checking.",
        ),
    ),
    "General models": (
        Panel(
            "Jobs",
            "short",
            (
                Query(f"sum by (status) (bmp_general_jobs_total{{{PICK}}})", "{{status}}"),
                Query(level("bmp_general_jobs_planned"), "planned"),
            ),
            "Model × backend × precision; planned, and ended by status.",
        ),
        Panel(
            "Failed or refused, by class",
            "short",
            (Query(f"sum by (error_class) (bmp_general_job_failure_total{{{PICK}}}) > 0", "{{error_class}}"),),
            "Since the run began.",
        ),
        Panel("Inference latency", "s", quantiles("bmp_general_inference_latency_seconds"), BUCKETS),
        Panel("Compilation", "s", quantiles("bmp_general_compile_duration_seconds"), BUCKETS),
        Panel(
            "Worker memory",
            "bytes",
            (Query(f"bmp_general_worker_memory_bytes{{{PICK}}}", "{{instance}}"),),
            "Peak of the last job's processes.",
        ),
    ),
    "Training": (
        Panel("Loss", "short", (Query(f"bmp_training_loss{{{PICK}}}", "{{instance}}"),), "Of the last step."),
        Panel(
            "Throughput",
            "short",
            (Query(f"bmp_training_tokens_per_second{{{PICK}}}", "{{instance}}"),),
            "Tokens of the last step over its time (samples for images).",
        ),
        Panel("Step time", "s", quantiles("bmp_training_step_seconds"), f"Measured steps, slowest rank. {BUCKETS}"),
        Panel("Gradient norm", "short", (Query(f"bmp_training_gradient_norm{{{PICK}}}", "{{instance}}"),), "Before clipping."),
        Panel(
            "Peak memory",
            "bytes",
            (Query(f"bmp_training_peak_memory_bytes{{{PICK}}}", "{{instance}}"),),
            "Largest peak of any rank so far.",
        ),
        Panel(
            "Checkpoints, restarts, divergence",
            "short",
            (
                Query(f"sum by (outcome) (bmp_training_checkpoints_total{{{PICK}}})", "checkpoints {{outcome}}"),
                Query(level("bmp_training_restarts_total"), "restarts"),
                Query(level("bmp_training_diverged_steps_total"), "diverged steps"),
            ),
            "Since the run began.",
        ),
    ),
}


def build() -> dict[str, Any]:
    """The dashboard as plain JSON values."""
    from grafana_foundation_sdk.builders import dashboard as boards
    from grafana_foundation_sdk.cog.encoder import JSONEncoder

    board = (
        boards.Dashboard("ByteMLPerf: runs, live")
        .uid(UID)
        .tags(["bytemlperf"])
        .description("Live metrics of all suites of bytemlperf-llm. Final figures come from a run's records, not from here.")
        .refresh("5s")
        .time("now-15m", "now")
        .timezone("browser")
        .with_variable(boards.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(_instances())
    )
    row_y = number = 0
    for title, panels in ROWS.items():
        number += 1
        board = board.with_row(boards.Row(title).id(number).grid_pos(_place(0, row_y, COLUMNS, 1)))
        x, y = 0, row_y + 1
        for panel in panels:
            if x + panel.width > COLUMNS:
                x, y = 0, y + HEIGHT
            number += 1
            board = board.with_panel(_panel(panel).id(number).grid_pos(_place(x, y, panel.width, HEIGHT)))
            x += panel.width
        row_y = y + HEIGHT
    made: dict[str, Any] = json.loads(JSONEncoder(sort_keys=True).encode(board.build()))
    return made


def _panel(panel: Panel) -> Any:
    from grafana_foundation_sdk.builders import heatmap, stat, timeseries

    made: Any = {"timeseries": timeseries, "stat": stat, "heatmap": heatmap}[panel.kind].Panel()
    made = made.title(panel.title).description(panel.about).unit(panel.unit).datasource(_source())
    for index, query in enumerate(panel.queries):
        made = made.with_target(_query(query, chr(ord("A") + index), panel.kind == "heatmap"))
    return _options(made, panel.kind)


def _options(made: Any, kind: str) -> Any:
    from grafana_foundation_sdk.builders import common
    from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, TooltipDisplayMode

    if kind == "stat":
        return made.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    if kind == "heatmap":
        return made.calculate(False).show_value("never")
    legend = common.VizLegendOptions().show_legend(True).placement(LegendPlacement.BOTTOM).display_mode(LegendDisplayMode.LIST)
    tooltip = common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI)
    return made.line_width(1.5).fill_opacity(8).min(0).legend(legend).tooltip(tooltip)


def _query(query: Query, letter: str, heat: bool) -> Any:
    from grafana_foundation_sdk.builders import prometheus
    from grafana_foundation_sdk.models.prometheus import PromQueryFormat

    made = prometheus.Dataquery().expr(query.expression).legend_format(query.legend).ref_id(letter).range().datasource(_source())
    return made.format(PromQueryFormat.HEATMAP) if heat else made


def _instances() -> Any:
    from grafana_foundation_sdk.builders.dashboard import QueryVariable
    from grafana_foundation_sdk.models.dashboard import VariableRefresh

    # Whatever suite runs, one of these is there from its first scrape on.
    query = (
        'label_values({__name__=~"bmp_requests_in_flight|bmp_micro_cases_planned|bmp_general_jobs_planned|bmp_training_loss"}, instance)'
    )
    variable = QueryVariable("instance").label("Run").query(query).datasource(_source()).multi(True).include_all(True).all_value(".*")
    return variable.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)


def _source() -> Any:
    from grafana_foundation_sdk.models.dashboard import DataSourceRef

    return DataSourceRef(type_val="prometheus", uid="${datasource}")


def _place(x: int, y: int, width: int, height: int) -> Any:
    from grafana_foundation_sdk.models.dashboard import GridPos

    return GridPos(x=x, y=y, w=width, h=height)


if __name__ == "__main__":
    OUTPUT.write_text(json.dumps(build(), indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {OUTPUT.name}")
