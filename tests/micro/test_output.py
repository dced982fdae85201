"""What a run becomes: table, figures, page, xpu-perf's files, live metrics."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bytemlperf.runs.kinds import Figure, Plot, Table, Text
from micro.command.live import MicroMetrics, SweepView, result_of
from micro.results.exports import write_csv, write_jsonl, xpu_perf_row
from micro.results.kind import KIND
from micro.results.table import cells, remarks
from micro.sweep.row import Row, last_rows
from tests.micro.made import cases, peaks, run_and_records

RUN, RECORDS = run_and_records()
ROWS = last_rows(msgspec.convert(RECORDS, list[Row]))
XPU_PERF_TARGETS = {
    "latency(us)",
    "read_bytes(B)",
    "write_bytes(B)",
    "io_bytes(B)",
    "mem_bw(GB/s)",
    "calc_flops",
    "calc_flops_power(tflops)",
    "calc_mem_ratio",
}
XPU_PERF_LINK_TARGETS = {
    "latency(us)",
    "algo_size(B)",
    "bus_size(B)",
    "algo_bw(GB/s)",
    "bus_bw(GB/s)",
    "algo_bw_sum(GB/s)",
    "bus_bw_sum(GB/s)",
    "latency_list(us)",
    "algo_bw_list(GB/s)",
    "bus_bw_list(GB/s)",
}


def figures() -> list[Figure]:
    return KIND.figures(RUN, KIND.summarise(RUN, ROWS), ROWS)


def sections() -> list[Any]:
    return KIND.sections(RUN, KIND.summarise(RUN, ROWS), ROWS)


def test_the_table_shows_what_was_warm_and_what_binds() -> None:
    lines = [cells(row) for row in ROWS]
    by_buffers = {line["buffers"] for line in lines}
    assert by_buffers >= {"hot", "warm", "cold"}
    large = lines[5]  # 1024 x 256 x 64: 2e-9 s a thousand FLOPs are 20 GFLOP/s of 1 TFLOP/s
    assert large["MFU %"] == pytest.approx(2.0, rel=0.01)
    assert large["noise"] == "steady"
    link = lines[6]
    assert link["CBU %"] == pytest.approx(100 * 1.024 / 4, rel=0.01)
    assert link["GB/s"] is None


def test_a_case_without_a_result_is_a_figure_with_its_reason() -> None:
    lost = [figure for figure in figures() if figure.value is None]
    assert [figure.reason for figure in lost] == ["failed: crashed while timing: killed by SIGSEGV", "refused: =1+1 there is no operator"]


def test_figures_carry_samples_that_give_the_value() -> None:
    from statistics import median_low

    for figure in figures():
        if figure.samples:
            assert figure.statistic == "p50"
            assert figure.value == pytest.approx(median_low(figure.samples))
    rates = [figure for figure in figures() if figure.metric == "FLOP rate"]
    assert all(figure.low is not None and figure.value is not None and figure.low <= figure.value for figure in rates)


def test_a_page_has_a_roofline_a_heat_map_and_a_curve() -> None:
    plots = {plot.group: plot for plot in sections() if isinstance(plot, Plot)}
    roof = plots["Rooflines"]
    assert roof.title == "float32 on cpu"
    line = roof.data[0]
    assert (line["name"], max(line["y"])) == ("measured peaks", 1.0)
    ridge = line["x"][1]
    assert ridge == pytest.approx(100.0)  # 1e12 over the triad's 1e10
    assert {name.endswith("-open") for name in roof.data[1]["marker"]["symbol"]} == {True, False}
    heat = plots["Latency over shapes"].data[0]
    assert (heat["y"], heat["x"]) == (["64", "256"], ["1", "64", "1024"])
    assert heat["text"][1][2] == "1,679"  # 1024 · 256 · 64 / 10 ns, 1 µs and the median place
    curve = plots["Bandwidth over size"]
    assert curve.data[0]["x"] == pytest.approx([4096, 65536, 1048576], rel=1e-3)
    assert curve.data[1]["y"] == [4.0, 4.0]


def test_every_row_is_in_a_table_of_the_page() -> None:
    tables = [table for table in sections() if isinstance(table, Table)]
    assert sum(len(table.rows) for table in tables) == len(cases())
    assert all(len(row) == len(table.columns) for table in tables for row in table.rows)


def test_a_page_can_be_rendered_and_hostile_names_are_inert() -> None:
    from bytemlperf.report.page import Page, render

    html = render(Page(title="made", sections=sections()))
    assert '</script>"' not in html
    assert "float32 on cpu" in html


def test_a_run_without_peaks_has_a_page_too() -> None:
    bare = {**RUN, "peaks": None}
    plots = [plot for plot in KIND.sections(bare, {}, ROWS) if isinstance(plot, Plot)]
    assert any("--peaks off" in plot.note for plot in plots)


def test_xpu_perf_has_its_own_names_back() -> None:
    gemm = xpu_perf_row(ROWS[5], "sku")
    assert set(gemm.targets) == XPU_PERF_TARGETS
    assert gemm.arguments == {"arg_type": "default", "M": 1024, "K": 256, "N": 64, "dtype": "float32"}
    assert gemm.targets["calc_flops"] == 2 * 1024 * 256 * 64
    assert gemm.targets["calc_mem_ratio"] == pytest.approx(gemm.targets["calc_flops"] / gemm.targets["io_bytes(B)"], rel=1e-3)
    link = xpu_perf_row(ROWS[6], "sku").targets
    assert set(link) == XPU_PERF_LINK_TARGETS
    assert link["algo_size(B)"] == 4096
    assert link["algo_bw_sum(GB/s)"] == pytest.approx(2 * 1.024)
    assert xpu_perf_row(ROWS[-2], "sku").targets == {}


def test_files_hold_every_case_and_no_formula(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "x.jsonl", RUN, ROWS)
    write_csv(tmp_path / "x.csv", RUN, ROWS)
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [line["op_name"] for line in lines] == [case.op for case in cases()]
    assert {line["sku_name"] for line in lines} == {"Made CPU"}
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(cases())
    assert rows[-1]["op_name"] == "'=cmd()"
    assert rows[-1]["reason"].startswith("'=1+1")
    assert rows[5]["latency(us)"] == str(lines[5]["targets"]["latency(us)"])


def test_live_metrics_are_in_base_units_with_closed_labels() -> None:
    metrics = MicroMetrics()
    metrics.plan(len(RECORDS), peaks())
    for row in ROWS:
        metrics.add(row)
    text = metrics.exporter.text().decode()
    found = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if not line.startswith("#")}
    assert found['bmp_micro_cases_total{status="ok"}'] == 9
    assert found['bmp_micro_cases_total{status="failed"}'] == 1
    assert found["bmp_micro_case_latency_seconds_count"] == 9
    assert found['bmp_micro_operator_latency_seconds{operator="gemm"}'] == pytest.approx(RECORDS[5]["latency_us"]["p50"] / 1e6)
    assert found['bmp_micro_operator_bus_bytes_per_second{operator="all_reduce"}'] == pytest.approx(1.024e9, rel=0.01)
    assert math.isnan(found['bmp_micro_operator_latency_seconds{operator="softmax"}'])
    assert found["bmp_micro_peak_memory_bytes_per_second"] == 10e9
    assert "cmd" not in text


def test_zipped_arguments_are_one_axis() -> None:
    zipped = [msgspec.structs.replace(row, args={**row.args, "N": row.args["K"]}) for row in ROWS[:6]]
    (plot,) = [plot for plot in KIND.sections(RUN, {}, zipped) if isinstance(plot, Plot) and plot.group == "Latency over shapes"]
    assert (plot.layout["xaxis"]["title"]["text"], plot.layout["yaxis"]["title"]["text"]) == ("M", "K and N")
    assert len(plot.data[0]["z"]) == 2


def test_a_case_faster_than_the_peak_is_a_warning_and_a_busy_peak_is_said() -> None:
    fast = msgspec.structs.replace(ROWS[5], efficiency={"mfu_measured": 1.2, "mfu_sheet": 3.0})
    summary = KIND.summarise(RUN, [fast])
    assert any(warning.startswith("above the measured peak: gemm(") and "120% of it (MFU)" in warning for warning in summary["warnings"])
    assert not any("above" in warning for warning in KIND.summarise(RUN, ROWS)["warnings"])
    held = {**RUN["peaks"], "link": {**RUN["peaks"]["link"], "others_cpus": 1.5}}
    assert "1 of 5 peaks were measured while other processes were busy" in " ".join(
        KIND.summarise({**RUN, "peaks": held}, ROWS)["conditions"]
    )


def test_two_runs_compare_from_their_samples() -> None:
    from bytemlperf.compare.statistics import change

    timed = ROWS[5].timed
    assert timed is not None
    longer = msgspec.structs.replace(timed, samples_ns=[round(sample * 1.1) for sample in timed.samples_ns])
    slower = msgspec.structs.replace(ROWS[5], timed=longer)
    before, after = (KIND.figures(RUN, {}, [row])[0] for row in (ROWS[5], slower))
    found = change(before, after, paired=False)
    assert (before.key, before.metric) == (after.key, after.metric)
    assert found.method == "both samples"
    assert found.ratio == pytest.approx(1.1, rel=1e-3)
    assert found.low is not None
    assert found.low > 1.05


def test_a_sheet_without_flops_still_shows_its_share_of_memory() -> None:
    for shares, column in (({"mbu_sheet": 0.5}, "MBU % sheet"), ({"mbu_sheet": 0.5, "mfu_sheet": 0.2, "roof_sheet": 0.5}, "% of sheet")):
        line = cells(msgspec.structs.replace(ROWS[5], efficiency=shares))
        assert [(name, value) for name, value in line.items() if "sheet" in name and value is not None] == [(column, 50.0)]


@pytest.mark.parametrize(
    ("noises", "others", "verdict", "reason"),
    [
        (["steady", "noisy: 3 %"], ["refused"], "valid", None),
        (["noisy: 3 %", "drifting: +4 %"], [], "noisy", "2 of 2 cases have no steady median: ok 0 and 1 more"),
        (
            ["insufficient: 3", "insufficient: 4"],
            [],
            "thin",
            "2 of 2 cases have insufficient samples for an interval of the median: ok 0 and 1 more",
        ),
        (["steady", "insufficient: 3"], [], "thin", "1 of 2 cases has insufficient samples for an interval of the median: ok 1"),
        (["steady"], ["skipped", "skipped", "failed"], "partial", "1 failed and 2 skipped of 4 cases"),
        (["noisy: 3 %"], ["skipped"], "partial", "ok 0 has no steady median"),
        ([], ["failed"], "invalid", "no case was measured: 1 failed"),
        ([], ["skipped", "refused"], "invalid", "no case was measured: 1 refused, 1 skipped"),
    ],
)
def test_the_verdict_says_when_most_is_noise_thin_or_left_out(
    noises: list[str], others: list[str], verdict: str, reason: str | None
) -> None:
    rows = [msgspec.structs.replace(ROWS[5], key=f"ok {place}", noise=noise) for place, noise in enumerate(noises)]
    rows += [msgspec.structs.replace(ROWS[-1], key=f"lost {place}", status=status) for place, status in enumerate(others)]
    run = {**RUN, "config": {**RUN["config"], "cases": [None] * len(rows)}}
    summary = KIND.summarise(run, rows)
    assert (summary["verdict"], summary["reasons"][:1]) == (verdict, [] if reason is None else [reason])
    assert KIND.summarise({**run, "config": {**run["config"], "cases": [None] * (len(rows) + 1)}}, rows)["verdict"] == "invalid"


def test_what_is_above_the_measured_peak_is_remarked_at_its_row() -> None:
    shares = {"mfu_measured": 0.3, "mbu_measured": 1.2, "roof_measured": 1.2, "mbu_sheet": 3.0}
    row = msgspec.structs.replace(ROWS[5], efficiency=shares)
    assert "MBU 120%: the measured peak is low, or a cache kept the result" in remarks(row)
    assert "MBU" not in remarks(msgspec.structs.replace(row, efficiency={"mbu_measured": 1.04, "mbu_sheet": 3.0}))


def test_a_row_is_a_line_as_soon_as_it_is_measured(capsys) -> None:
    ok = next(row for row in ROWS if row.status == "ok" and row.tflops)
    line = result_of(ok)
    assert line.startswith(f"{ok.key}: ")
    assert "µs" in line
    assert "TFLOP/s" in line
    view = SweepView(quiet=False)
    view.add(ok)
    view.add(next(row for row in ROWS if row.status == "refused"))
    assert capsys.readouterr().err == f"{line}\n"
    failed = next(row for row in ROWS if row.status == "failed")
    assert failed.reason in result_of(failed)


def test_of_many_operators_each_is_a_line_first_and_what_was_skipped_a_sentence() -> None:
    row = ROWS[5]
    many = [msgspec.structs.replace(row, op=op, key=f"{op} {place}") for op in "abcd" for place in range(2)]
    skipped = [msgspec.structs.replace(ROWS[-1], op="e", key=f"e {place}", status="skipped", reason="no time") for place in range(3)]
    sections = KIND.terminal(RUN, {"counts": {}, "conditions": []}, [*many, *skipped])
    tables, texts = ([part for part in sections if isinstance(part, kind)] for kind in (Table, Text))
    assert [line[:2] for line in tables[0].rows] == [*([op, "2 of 2"] for op in "abcd"), ["e", "0 of 3"]]
    assert [table.title.split()[0] for table in tables] == ["Operators", *"abcd"]
    assert texts[0].body == "3 cases skipped: no time"
