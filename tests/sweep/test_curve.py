"""Curves on queues whose knee is known, and what of a point goes onto which part of a page."""

from __future__ import annotations

from typing import Any

import pytest

from bytemlperf.runs.kinds import Plot, Section, Table
from bytemlperf_llm.sweep.axes import Level
from bytemlperf_llm.sweep.curve import curves_of
from bytemlperf_llm.sweep.kind import KIND
from bytemlperf_llm.sweep.row import PointRow, Reading, latest
from bytemlperf_llm.sweep.sections import curve_sections

MU = 100.0


def reading(value: float, unit: str = "ms", spread: float = 0.0) -> Reading:
    bounds = {"low": value * (1 - spread), "high": value * (1 + spread)} if spread else {}
    return Reading(value=value, unit=unit, better="lower", label="", **bounds)


def point(rate: float, e2e_ms: float, verdict: str = "valid", spread: float = 0.0, **more: Any) -> PointRow:
    figures = {
        "request_throughput": reading(min(rate, MU), "requests/s", spread),
        "output_token_throughput": reading(10 * min(rate, MU), "tokens/s"),
        "e2e mean": reading(e2e_ms, spread=spread),
        "e2e p50": reading(0.7 * e2e_ms, spread=spread),
        "e2e p99": reading(4.6 * e2e_ms),
        "tpot p50": reading(20.0, spread=0.1),
        "goodput": reading(0.9 * min(rate, MU), "requests/s"),
    }
    return PointRow(curve="", load=Level(rate_rps=rate), state="measured", verdict=verdict, figures=figures, **more)


def mm1(rate: float) -> float:
    return 1000 / (MU - rate)


def md1(rate: float) -> float:
    rho = rate / MU
    return 1000 / MU * (1 + rho / 2 / (1 - rho))


@pytest.mark.parametrize(("latency_ms", "knee"), [(mm1, 50.0), (md1, 60.0)])  # M/D/1: at 2 − √2 = 0.586
def test_the_knee_is_where_throughput_over_latency_is_greatest(latency_ms: Any, knee: float) -> None:
    rates = [10.0 * place for place in range(1, 10)]
    (curve,) = curves_of([point(rate, latency_ms(rate)) for rate in reversed(rates)])
    found = curve.knee()
    assert found is not None
    assert (found.load.rate_rps, found.edge) == (knee, "")
    assert found.power == pytest.approx(knee / latency_ms(knee) * 1000)


def test_points_within_the_intervals_are_the_knees_range() -> None:
    (curve,) = curves_of([point(rate, mm1(rate), spread=0.04) for rate in (10.0, 30.0, 40.0, 50.0, 60.0, 70.0, 90.0)])
    knee = curve.knee()  # powers 9, 21, 24, 25, 24, 21, 9, each known to 8 %: 8 % below 25 is 23, 8 % above 21 is 22.7
    assert knee is not None
    assert (knee.low.rate_rps, knee.high.rate_rps) == (40.0, 60.0)


def test_a_knee_at_the_end_of_the_range_may_lie_beyond() -> None:
    rows = [point(rate, mm1(rate)) for rate in (10.0, 20.0, 30.0)]
    (short,), (whole,) = curves_of(rows), curves_of([*rows, point(120.0, 9_000, "overloaded")])
    assert "last point, and may lie beyond" in short.knee().sentence()  # type: ignore[union-attr]
    assert whole.knee().edge == ""  # type: ignore[union-attr]
    assert curves_of(rows[:2])[0].knee() is None


def test_client_limited_points_are_marked_and_never_part_of_the_curve() -> None:
    rows = [point(rate, mm1(rate)) for rate in (10.0, 40.0, 50.0)]
    limited = point(60.0, 0.001, "client-limited", why="the client sent late")  # of the greatest power by far
    overloaded = point(120.0, 9_000, "overloaded")
    curves = curves_of([*rows, limited, overloaded])
    assert curves[0].knee().load.rate_rps == 50.0  # type: ignore[union-attr]
    plot = plots(curve_sections(curves))["E2E"]
    traces = {trace["name"]: trace for trace in plot.data}
    assert traces["p50"]["x"] == [10.0, 40.0, 50.0]
    assert traces["p50"]["y"] == [0.7 * mm1(rate) for rate in (10.0, 40.0, 50.0)]
    assert traces["p99"]["y"] == [4.6 * mm1(rate) for rate in (10.0, 40.0, 50.0)]
    assert (traces["not on the curve"]["x"], traces["not on the curve"]["mode"]) == ([60.0], "markers")
    assert (traces["overloaded"]["x"], traces["overloaded"]["mode"]) == ([100.0], "markers")
    summary = KIND.summarise({}, [*rows, limited, overloaded])
    assert summary["warnings"] == []
    assert (summary["verdict"], summary["reasons"]) == ("client-limited", ["1 of 5 points is client-limited: the client sent late"])
    assert summary["curves"][0]["lowest_overloaded"]["rate_rps"] == 120.0


def test_a_tail_is_drawn_at_the_highest_percentile_that_two_thirds_of_the_points_carry() -> None:
    rows = [point(rate, mm1(rate)) for rate in (10.0, 40.0, 50.0)]
    del rows[0].figures["e2e p99"]  # the lightest has too few requests
    traces = {trace["name"]: trace for trace in plots(curve_sections(curves_of(rows)))["E2E"].data}
    assert (traces["p50"]["x"], traces["p99"]["x"]) == ([10.0, 40.0, 50.0], [40.0, 50.0])
    del rows[1].figures["e2e p99"]
    assert [trace["name"] for trace in plots(curve_sections(curves_of(rows)))["E2E"].data] == ["p50"]


def test_interactivity_is_one_over_tpot_against_the_tokens_of_a_device() -> None:
    rows = [point(rate, mm1(rate), devices=4) for rate in (10.0, 40.0, 50.0)]
    plot = plots(curve_sections(curves_of(rows)))["Interactivity"]
    assert plot.data[0]["x"] == [50.0, 50.0, 50.0]  # 1000 / 20 ms
    assert plot.data[0]["y"] == [25.0, 100.0, 125.0]
    table = next(section for section in curve_sections(curves_of(rows)) if isinstance(section, Table) and section.title == "Points")
    per_user = [row[table.columns.index("tokens/s per user")] for row in table.rows]
    assert per_user == ["50\n45.45 – 55.56"] * 3


def test_a_range_that_ends_early_is_said() -> None:
    rows = [point(rate, mm1(rate)) for rate in (10.0, 20.0, 30.0)]
    assert KIND.summarise({}, rows)["warnings"] == [
        "no rate overloaded the server: it carried 30 requests/s; its capacity is higher. Give higher --rates"
    ]
    limited = point(40.0, 9, "client-limited", why="late")
    assert "at 40 requests/s the client was the limit" in KIND.summarise({}, [*rows, limited])["warnings"][0]
    assert KIND.summarise({}, [point(120.0, 9_000, "overloaded")])["warnings"] == [
        "not even 120 requests/s was carried: give lower --rates"
    ]
    headlines = {figure.metric: figure for figure in KIND.figures({}, {}, rows) if figure.headline}
    assert headlines["highest output token throughput"].value is None


def test_a_closed_loop_that_does_not_reach_its_highest_throughput_says_so() -> None:
    def closed(concurrency: int, tokens: float) -> PointRow:
        figures = {"output_token_throughput": reading(tokens, "tokens/s")}
        return PointRow(curve="a", load=Level(concurrency=concurrency), state="measured", verdict="valid", figures=figures)

    rows = [closed(1, 10.0), closed(2, 19.0), closed(4, 19.9)]
    assert KIND.summarise({}, rows)["warnings"] == []
    (warning,) = KIND.summarise({}, rows[:2])["warnings"]
    assert warning == "a: throughput still grew at 2 concurrent: give higher --concurrency for the server's highest"


def test_a_point_that_was_skipped_is_a_row_until_it_is_measured() -> None:
    skipped = PointRow(curve="", load=Level(rate_rps=20.0), state="skipped", why="no context")
    rows = [point(10.0, mm1(10)), skipped]
    summary = KIND.summarise({}, rows)
    assert (summary["verdict"], summary["reasons"]) == ("partial", ["1 of 2 points have no figures: no context"])
    assert [row.state for row in latest([*rows, point(20.0, mm1(20))])] == ["measured", "measured"]
    rest = PointRow(curve="", load=Level(), state="skipped", why="the server no longer responds")
    assert latest([rows[0], rest]) == [rows[0], rest]
    assert latest([rows[0], rest, point(30.0, mm1(30))])[-1].load.rate_rps == 30.0


def plots(sections: list[Section]) -> dict[str, Plot]:
    return {section.title: section for section in sections if isinstance(section, Plot)}
