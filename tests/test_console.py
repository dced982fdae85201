"""The one renderer of sections: whatever the width, no figure, name or word is cut, and nothing is lost without being named."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bytemlperf.command.console import print_sections, terminal
from bytemlperf.runs.kinds import Section, Table, Text
from bytemlperf.statistics.statistics import INSUFFICIENT
from bytemlperf_llm.pages.latency import SPARE

NAME = "digits-resnet/onnxruntime/fp32"
WIDE = Table(
    title="Speed",
    columns=["job", "point", *(f"figure {number}" for number in range(8)), "remark"],
    rows=[
        [NAME, f"batch {row}", *(f"{number}{row}.25\n{number}{row}.11 – {number}{row}.99" for number in range(8)), "two words"]
        for row in (1, 2)
    ],
)


def printed(sections: list[Section], columns: int) -> str:
    shown = io.StringIO()
    print_sections(Console(file=shown, width=columns, highlight=False), sections)
    return shown.getvalue()


@pytest.mark.parametrize("columns", [80, 100, 120, 160, 400])
def test_no_figure_name_or_word_is_cut_at_any_width(columns: int) -> None:
    text = printed([WIDE], columns)
    assert max(map(len, text.splitlines())) <= columns
    assert "…" not in text
    for row in WIDE.rows:
        for cell in row:
            assert all(line in text for line in str(cell).split("\n")), cell


def test_a_table_that_goes_on_below_itself_has_again_what_tells_its_rows_apart() -> None:
    heads = [line for line in printed([WIDE], 80).splitlines() if line.startswith("job")]
    assert len(heads) > 1
    assert all("point" in head for head in heads), "both rows are of one job"


def test_a_group_is_named_once_and_tells_its_rows_apart_all_the_same() -> None:
    rows = [["library", "torch", "ok", "d" * 50], ["engine", "vllm", "ok", "e" * 50], ["", "torch", "ok", "f" * 50]]
    text = printed([Table(title="", columns=["", "what", "state" + "s" * 20, "detail"], rows=rows)], 80)
    assert text.count("torch") == 4, "in both tables"


def test_a_spare_column_is_left_out_by_name_before_the_table_is_split() -> None:
    table = Table(title="", columns=["a", "b", "c"], rows=[["x" * 30, "1" * 30, "2" * 30]], spare=["b"])
    text = printed([table], 80)
    assert "1" * 30 not in text
    assert "left out at this width: b" in text
    assert "1" * 30 in printed([table], 100)


def test_an_insufficient_percentile_goes_before_one_that_has_figures() -> None:
    """The latency table of a run whose sample carries p95 and no p99, at 80 columns."""
    columns = ["", "mean", "p50", "p90", "p95", "p99", "p99.9", "max", "n"]
    bounded = "10.00\n9.938 – 10.07"
    rows = [[name, bounded, bounded, bounded, bounded, INSUFFICIENT, INSUFFICIENT, 10.54, 100] for name in ("TTFT", "TPOT")]
    text = printed([Table(title="", columns=columns, rows=rows, spare=SPARE)], 80)
    assert "p95" in text.splitlines()[0]
    assert "left out at this width: p99 · p99.9" in text


def test_texts_wrap_between_words_before_anything_is_left_out() -> None:
    table = Table(title="", columns=["case", "figure", "remark"], rows=[["a", 1234.5, "word " * 30]], spare=["figure"])
    text = printed([table], 80)
    assert text.count("word") == 30
    assert "1,234" in text or "1,235" in text


def test_labels_and_values_stand_beside_each_other_where_there_is_room() -> None:
    pairs = [Table(title="", columns=["", ""], rows=[[f"label {side}{row}", row] for row in range(3)]) for side in "ab"]
    assert any("label a0" in line and "label b0" in line for line in printed(pairs, 80).splitlines())
    assert not any("label a0" in line and "label b0" in line for line in printed(pairs, 24).splitlines())


def test_what_comes_from_outside_is_shown_and_does_nothing() -> None:
    hostile = "\x1b[31m[red]x[/red]\u202e"
    table = Table(title=hostile, columns=[hostile], rows=[[hostile]], note=hostile)
    text = printed([table, Text(title=hostile, body=hostile, style="warning")], 200)
    assert not {"\x1b", "\u202e"} & set(text)
    assert text.count("[red]x[/red]") == 6


def test_a_pipe_takes_lines_of_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")  # as Python's readline leaves it to every child
    assert terminal().width > 1_000


def test_columns_without_a_figure_go_first() -> None:
    spare = ("p90", "p99")
    table = Table(title="", columns=["", "p50", "p90", "p99"], rows=[["TTFT", "12,345.6", "23,456.7", "insufficient"]], spare=spare)
    assert "p90" in printed([table], 40), "there is room for all"
    assert printed([table], 30).splitlines()[0].split() == ["p50", "p90"]
