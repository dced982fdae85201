"""What comes from outside reaches a terminal without escape sequences: names, error texts, causes."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from bytemlperf_llm.metrics.facts import RunFacts
from bytemlperf_llm.metrics.summary import summarize
from bytemlperf_llm.report.table import print_summary
from bytemlperf_llm.terminal_exit import one_line
from tests.metrics.records import failed, poisson_run

HOSTILE = "\x1b]0;owned\x07\x1b[31mred\x1b[0m\x9b31m\u202edlrow\u2028end"
FORBIDDEN = "\x1b\x07\x9b\u202e\u2028"


def test_the_table_shows_hostile_names_and_errors_inert():
    records = [*poisson_run(20, 10), failed(20, 3000, 3100, error_detail=HOSTILE)]
    summary = summarize(records, RunFacts(open_loop=True, scheduled_requests=21))
    run = {
        "config": {"scenario": {"name": HOSTILE, "arrival": {"rate": 10.0}}, "flags": {"engine": "openai", "scenario": "smoke"}},
        "engine": {
            "name": HOSTILE,
            "model": HOSTILE,
            "dtype": HOSTILE,
            "versions": {HOSTILE: HOSTILE},
            "notes": [f"random weights {HOSTILE}"],
        },
        "seed": 0,
        "schedule_sha256": "0" * 64,
    }
    shown = io.StringIO()
    print_summary(Console(file=shown, width=140, highlight=False), summary, run, Path("runs/x"))
    assert "owned" in shown.getvalue()
    assert not set(FORBIDDEN) & set(shown.getvalue())


@pytest.mark.parametrize("text", [HOSTILE, "a\nb\r\nc\td"])
def test_a_cause_is_one_line_without_escapes(text):
    line = one_line(text)
    assert not set(FORBIDDEN + "\n\r\t") & set(line)
    assert line
