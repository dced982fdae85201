"""Runs as Python objects, and the page and notebook about them, whose code is run here."""

from __future__ import annotations

import ast
import inspect
import json
import re
from pathlib import Path

import pytest

import bytemlperf_llm as bmp
from bytemlperf.errors import UserError

DOCS = Path(__file__).parents[2] / "docs"


async def run_cells(cells: list[str]) -> dict[str, object]:
    """As a notebook does: each cell after the other, `await` allowed."""
    names: dict[str, object] = {}
    for cell in cells:
        result = eval(compile(cell, "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)  # our own page
        if inspect.isawaitable(result):
            await result
    return names


async def test_the_page_and_the_notebook_run_and_agree(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(), re.DOTALL)
    notebook = ["".join(cell["source"]) for cell in json.loads((DOCS / "runs.ipynb").read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell.strip() for cell in page] == notebook
    names = await run_cells(page)
    run, other = names["run"], names["other"]
    assert isinstance(run, bmp.Run)
    assert run.requests.height == 50
    assert 49 < run.summary.ttft.p50 < 70  # the reference engine's 50 ms
    low, high = run.summary.ttft.interval("p50")
    assert low <= run.summary.ttft.p50 <= high
    assert run.summary.ttft.p99 is None
    assert (run.summary.verdict, run.summary.outcomes["ok"]) == ("valid", 50)
    assert next(row for row in run.compare(other).rows if row.label == "TTFT p50").sides[1].judgement == "worse"
    assert "TTFT p50" in capsys.readouterr().out
    assert bmp.open("latest~1").folder == run.folder
    assert not hasattr(run.summary.ttft, "p51")
    assert not hasattr(run.summary, "nothing")


async def test_bad_input_has_the_commands_words():
    with pytest.raises(UserError, match="unknown engine"):
        await bmp.serve_bench(engine="nope")
    with pytest.raises(UserError, match="no flag 'num_prompt'"):
        await bmp.serve_bench(num_prompt=1)
