"""Every place that shows or reads a verdict knows all of its words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bytemlperf.runs.verdicts import COLOURS, EXIT_STATUSES, UNFIT, VERDICTS, exit_status, median_reasons, worst

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


def median(value: float, *interval: float) -> dict[str, dict[str, object]]:
    return {"percentiles": {"50": value}, "ci95": {"50": interval or "insufficient"}}


@pytest.mark.parametrize(
    ("metrics", "verdict", "reasons"),
    [
        ({"a": median(10, 9.9, 10.1), "b": median(10, 5, 15)}, "valid", []),
        (
            {"a": median(10, 9.9, 10.1), "b": median(10, 5, 15), "c": median(10, 1, 20)},
            "noisy",
            ["2 of 3 points have no steady median: b and 1 more"],
        ),
        (
            {"a": median(10, 9.9, 10.1), "b": median(10)},
            "thin",
            ["1 of 2 points has insufficient samples for an interval of the median: b"],
        ),
        ({"a": median(10)}, "thin", ["a has insufficient samples for an interval of the median"]),
        ({}, "valid", []),
    ],
)
def test_noise_and_small_samples_mean_the_same_in_every_suite(metrics, verdict, reasons):
    held = median_reasons("point", metrics)
    assert (worst(held), list(held.values())) == (verdict, reasons)
