"""The Grafana dashboard: made by its maker, known to Grafana's own types key for key, laid out without gaps in it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

GRAFANA = Path(__file__).parents[2] / "deploy/grafana"
pytest.importorskip("grafana_foundation_sdk", reason="Grafana's types are not installed (extra dev)")


def committed() -> dict[str, Any]:
    return json.loads((GRAFANA / "bytemlperf.json").read_text())


def known_to_grafana(board: dict[str, Any]) -> Any:
    """Through Grafana's types and back: what they don't know is lost."""
    from grafana_foundation_sdk.cog import plugins
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.dashboard import Dashboard

    plugins.register_default_plugins()
    return json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(board)))


def test_the_file_is_what_its_maker_makes():
    spec = importlib.util.spec_from_file_location("make_dashboard", GRAFANA / "make_dashboard.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert maker.build() == committed(), "run: python deploy/grafana/make_dashboard.py"


def lost(before: Any, after: Any, place: str = "") -> list[str]:
    """Places of `before` that `after` lacks or has otherwise; what Grafana's types add is none."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [each for key, value in before.items() for each in lost(value, after.get(key), f"{place}/{key}")]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [each for index, value in enumerate(before) for each in lost(value, after[index], f"{place}[{index}]")]
    return [] if before == after else [place]


def test_grafanas_types_know_every_key():
    assert lost(committed(), known_to_grafana(committed())) == []


def test_a_key_that_grafana_does_not_know_would_be_found():
    board = committed()
    board["panels"][1]["fieldConfig"]["defaults"]["unlt"] = "s"
    assert lost(board, known_to_grafana(board)) == ["/panels[1]/fieldConfig/defaults/unlt"]


def test_panels_have_their_own_numbers_and_no_two_overlap():
    panels = committed()["panels"]
    numbers = [panel["id"] for panel in panels]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_no_data_source_is_built_in():
    board = committed()
    sources = {json.dumps(panel["datasource"]) for panel in board["panels"] if panel["type"] != "row"}
    assert sources == {'{"type": "prometheus", "uid": "${datasource}"}'}
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "instance"]
