"""The llm kind: figures equal the summary's, plots equal the records, and every section is valid Plotly."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bytemlperf.report.gather import view_run
from bytemlperf.report.page import data_block
from bytemlperf.runs.kinds import Plot, Table, run_kind
from bytemlperf_llm.pages.columns import columns_of
from bytemlperf_llm.pages.timeline import _latency_traces, tokens_in
from tests.report.made import llm_records, llm_run, llm_run_json, read, write_run
from tests.runs.reading import read_records


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return llm_run(tmp_path_factory.mktemp("llm") / "run")


@pytest.fixture(scope="module")
def view(folder):
    return view_run(folder)


def figure(view, metric):
    return next(each for each in view.figures if each.metric == metric)


def test_figures_are_those_of_the_summary(folder, view):
    summary = read(folder, "summary.json")
    for name in ("ttft", "tpot", "e2e"):
        found = figure(view, f"{name} p50")
        assert found.value == pytest.approx(summary["metrics"][name]["percentiles"]["50"] / 1e6)
        assert found.low <= found.value <= found.high
        assert found.key == "chat"
    assert figure(view, "output_token_throughput").value == summary["rates"]["output_token_throughput"]["value"]
    assert figure(view, "ttft p99.9").value is None
    assert "insufficient" in figure(view, "ttft p99.9").reason
    assert figure(view, "not answered").value == pytest.approx(2.0)


def test_a_value_comes_from_its_samples_by_its_statistic(view):
    for metric in ("ttft p50", "e2e p90", "service_ttft p99"):
        found = figure(view, metric)
        ordered = sorted(found.samples)
        rank = -(-int(found.statistic[1:]) * len(ordered) // 100)
        assert found.value == pytest.approx(ordered[rank - 1])
        assert len(found.sample_ids) == len(found.samples)
    mean = figure(view, "tpot mean")
    assert mean.value == pytest.approx(np.mean(mean.samples))
    rate = figure(view, "output_token_throughput")
    assert rate.value == pytest.approx(np.mean(rate.samples), rel=0.02)
    assert rate.low < rate.value < rate.high


def test_summaries_from_a_folder_and_from_plain_records_agree(folder):
    kind, run = run_kind("llm"), read(folder, "run.json")
    from_folder = kind.summarise(run, read_records(folder))
    from_records = kind.summarise(run, list(read_records(folder)))
    assert json.loads(json.dumps(from_folder["metrics"])) == json.loads(json.dumps(from_records["metrics"]))


def test_every_token_is_counted_where_it_arrived(folder):
    records = llm_records()
    columns = columns_of(read(folder, "run.json"), read_records(folder))
    edges = np.linspace(0, columns.duration_s, 17)
    stamps = np.array([(stamp - columns.origin_ns) / 1e9 for record in records if record.outcome == "ok" for stamp in record.chunk_ns])
    assert tokens_in(columns, edges).tolist() == np.histogram(stamps, edges)[0].tolist()


def test_stage_shares_add_up_and_name_the_queue(view):
    table = next(each for each in view.sections if isinstance(each, Table) and each.title == "Stages in figures")
    for row in table.rows:
        shares = [float(cell.rstrip("%")) for cell in row[2:] if cell]
        assert sum(shares) == pytest.approx(100, abs=0.3)
    slowest = dict(zip(table.columns, table.rows[1], strict=True))
    assert float(slowest["engine queue"].rstrip("%")) > 50, "one in forty waits a quarter of a second"


def test_without_the_engines_stamps_the_clients_are_used(tmp_path):
    view = view_run(llm_run(tmp_path / "run", stages=False))
    table = next(each for each in view.sections if isinstance(each, Table) and each.title == "Stages in figures")
    assert list(table.columns[2:]) == ["waiting to be sent", "to the first token", "decode"]
    assert "no timestamps" in table.note


def test_every_plot_is_valid_plotly(view):
    plotly = pytest.importorskip("plotly.graph_objects")
    plots = [each for each in view.sections if isinstance(each, Plot)]
    assert len(plots) >= 12
    for plot in plots:
        text = data_block({"data": plot.data, "layout": plot.layout})
        for colour in ("@0", "@1", "@2", "@3", "@4", "@5", "@6", "@7"):
            for tone in ("/.12", "/.25", "/.4", "/.45", ""):
                text = text.replace(f'"{colour}{tone}"', '"#123456"')
        assert "@" not in text.replace("\\u0040", ""), f"{plot.title}: a colour that the page doesn't know"
        plotly.Figure(json.loads(text))
        assert plot.alt


def test_a_run_without_answers_still_has_a_page(tmp_path):
    records = [record for record in llm_records(100) if record.outcome == "failed"]
    view = view_run(write_run(tmp_path / "run", llm_run_json(), records))
    assert view.verdict == "invalid"
    assert view.problems == []
    assert any(getattr(each, "title", "") == "Failures" for each in view.sections)


def test_one_answer_of_one_token_is_enough(tmp_path):
    records = llm_records(1)
    records[0].chunk_ns, records[0].tokens_per_chunk, records[0].output_tokens = records[0].chunk_ns[:1], [1], 1
    view = view_run(write_run(tmp_path / "run", llm_run_json(), records))
    assert view.problems == []
    assert any(isinstance(each, Plot) for each in view.sections)


def test_a_chunk_of_10_to_the_9_tokens_is_drawn_by_a_thousand():
    records = llm_records()
    answer = next(record for record in records if record.outcome == "ok")
    answer.tokens_per_chunk[3] = 10**9
    run = llm_run_json()
    columns = columns_of(run, records)
    assert sum(len(gaps) for _, gaps, _ in columns.token_blocks()) < 10**6
    assert tokens_in(columns, np.linspace(-1, columns.duration_s + 1, 9)).sum() == pytest.approx(10**9, rel=1e-3)
    kind = run_kind("llm")
    assert kind.sections(run, kind.summarise(run, records), records)


def test_a_few_values_far_away_are_marked_at_the_axis_end(folder) -> None:
    values = np.concatenate([np.linspace(10, 20, 500), [900.0, 1000.0]])
    columns = columns_of(read(folder, "run.json"), read_records(folder))
    traces = {trace["name"]: trace for trace in _latency_traces(np.linspace(0, columns.duration_s, 502), values, columns)}
    above = traces["above the axis"]
    assert list(above["customdata"]) == [900, 1000]
    assert max(map(max, (trace["y"] for trace in traces.values()))) == above["y"][0] < 50
    assert "above the axis" not in {trace["name"] for trace in _latency_traces(np.linspace(0, 1, 500), values[:500], columns)}
