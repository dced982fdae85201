"""Every place that shows or reads a verdict knows all of its words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bytemlperf.runs.verdicts import COLOURS, EXIT_STATUSES, UNFIT, VERDICTS, exit_status

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("verdict", VERDICTS)
def test_a_verdict_has_a_colour_on_the_terminal_and_the_page(verdict):
    assert COLOURS[verdict]
    style = (ROOT / "bytemlperf/report/assets/page.css").read_text()
    assert re.search(rf"\.verdict\.{verdict}\b[^{{]*\{{ border-color", style)


def test_statuses_are_distinct_and_leave_bad_input_alone():
    assert len(set(EXIT_STATUSES.values())) == len(EXIT_STATUSES)
    assert 2 not in EXIT_STATUSES.values()
    assert {verdict for verdict in VERDICTS if exit_status(verdict)} == set(UNFIT)


@pytest.mark.parametrize("document", ["docs/metrics.md", "README.md"])
def test_the_documents_name_every_verdict(document):
    text = (ROOT / document).read_text().lower()
    assert [verdict for verdict in VERDICTS if verdict not in text] == []
