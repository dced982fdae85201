"""Spec cards: sources complete, figures consistent, found by name and by what drivers report, a user's own."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from bytemlperf.checked import plain
from bytemlperf.errors import UserError
from bytemlperf.hardware import cards
from bytemlperf.hardware.card import Card
from bytemlperf.hardware.compare import per_currency, per_watt, ratios, rows

BUILTIN = cards.load()

MINE = """
name: Mine
vendor: Me
kind: accelerator
sources:
  sheet: {title: t, publisher: p, url: https://example.org/sheet}
peaks:
  - {dtype: bf16, dense_tflops: 100, source: sheet, where: table 1}
memory_gb: {value: 8, source: sheet, where: table 1}
tdp_watts: {value: 50, source: sheet, where: table 1}
"""


@pytest.fixture(autouse=True)
def _no_cards_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(cards.PATH_VARIABLE, raising=False)


def mine(folder: Path, text: str = MINE) -> Path:
    (folder / "mine.yaml").write_text(text)
    return folder / "mine.yaml"


def test_the_cards_that_were_promised_are_there():
    wanted = [
        "t4",
        "a100",
        "l4",
        "l40s",
        "h100",
        "h200",
        "b200",
        "mi300x",
        "mi325x",
        "mi355x",
        "gaudi2",
        "gaudi3",
        "v5e",
        "v5p",
        "v6e",
        "ironwood",
        "inferentia2",
        "trainium2",
        "c600",
        "s30",
        "p920",
        "910b",
    ]
    assert len(BUILTIN) >= 30
    assert {cards.find(name).name for name in wanted}
    assert {card.vendor for card in BUILTIN.values() if card.kind == "cpu"} >= {"Intel", "AMD"}


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_each_figure_names_a_source_and_a_place(name: str):
    card = BUILTIN[name]
    assert card.figures()
    assert {figure.source for figure in card.figures()} == set(card.sources), "a source that nothing stands on, or the other way round"
    assert all(figure.where for figure in card.figures())
    assert all(price.date for price in card.prices)


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_figures_are_of_the_right_size(name: str):
    """A slip of a unit (GB for TB, giga for tera) is out of these ranges."""
    card = BUILTIN[name]
    for peak in card.peaks:
        if peak.dense_tflops and peak.sparse_tflops:
            assert 1.5 < peak.sparse_tflops / peak.dense_tflops < 4
        assert 1 < (peak.dense_tflops or peak.sparse_tflops or 0) < 25_000
    assert card.memory_gb is None or 0.5 <= card.memory_gb.value <= 1024
    assert card.memory_gbytes_per_s is None or 50 <= card.memory_gbytes_per_s.value <= 60_000
    assert card.tdp_watts is None or 50 <= card.tdp_watts.value <= 2_000
    for narrow, wide in (("fp8", "bf16"), ("bf16", "tf32"), ("tf32", "fp32")):
        low, high = cards.peak_flops(card, wide), cards.peak_flops(card, narrow)
        assert low is None or high is None or high >= low, f"{narrow} is slower than {wide}"


def test_no_two_cards_answer_to_one_name():
    names = [re.sub(r"[^a-z0-9]", "", name.lower()) for key, card in BUILTIN.items() for name in {key, card.name, *card.aliases}]
    own = {key: {re.sub(r"[^a-z0-9]", "", name.lower()) for name in {key, card.name, *card.aliases}} for key, card in BUILTIN.items()}
    assert len(set(names)) == sum(len(each) for each in own.values())


@pytest.mark.parametrize(
    ("reported", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "nvidia-h100-sxm5"),
        ("NVIDIA H100 PCIe", "nvidia-h100-pcie"),
        ("NVIDIA A100 80GB PCIe", "nvidia-a100-pcie-80gb"),
        ("Tesla T4", "nvidia-t4"),
        ("AMD Instinct MI300X OAM", "amd-mi300x"),
        ("AMD EPYC 9654 96-Core Processor", "amd-epyc-9654"),
        ("Intel(R) Xeon(R) Platinum 8380 CPU @ 2.30GHz", "intel-xeon-platinum-8380"),
        ("INTEL(R) XEON(R) PLATINUM 8592+", "intel-xeon-platinum-8592plus"),
    ],
)
def test_what_drivers_report_finds_its_card(reported: str, name: str):
    assert cards.match_name(reported) is BUILTIN[name]


def test_an_accelerator_stands_before_the_cpu_and_an_unknown_one_is_no_cpu():
    cpu = {"model": "AMD EPYC 9654 96-Core Processor"}
    assert cards.match({"cpu": cpu, "gpus": []}) is BUILTIN["amd-epyc-9654"]
    assert cards.match({"cpu": cpu, "gpus": [{"name": "Tesla T4"}]}) is BUILTIN["nvidia-t4"]
    assert cards.match({"cpu": cpu, "gpus": [], "accelerators": [{"name": "AMD Instinct MI300X OAM"}]}) is BUILTIN["amd-mi300x"]
    assert cards.match({"cpu": cpu, "gpus": [], "accelerators": [{"name": "something new", "integrated": False}]}) is None
    assert cards.match({"cpu": cpu, "gpus": [], "accelerators": [{"name": "Arc graphics", "integrated": True}]}) is BUILTIN["amd-epyc-9654"]
    assert cards.match({"cpu": {"model": "Intel(R) Xeon(R) Processor"}, "gpus": []}) is None


def test_units_and_data_types():
    h100 = cards.find("H100")
    assert cards.peak_flops(h100, "torch.bfloat16") == cards.peak_flops(h100, "bf16") == 989e12
    assert cards.peak_flops(h100, "bf16", sparse=True) == 1979e12
    assert cards.peak_flops(h100, "fp64") == 67e12, "the faster of the two engines"
    assert cards.peak_flops(h100, "fp4") is None
    assert cards.memory_bandwidth(h100) == 3350e9
    assert cards.memory_bytes(h100) == 80e9
    assert cards.tdp_watts(h100) == 700
    assert cards.price(h100) is None


def test_a_sparse_figure_never_stands_for_a_dense_one():
    s30 = cards.find("S30")
    assert cards.peak_flops(s30, "int8") is None
    assert cards.peak_flops(s30, "int8", sparse=True) == 2880e12
    assert per_watt(s30, "int8") is None


def test_own_cards_and_prices_by_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mine(tmp_path)
    (tmp_path / "prices.yaml").write_text(
        "prices:\n  mine: {amount: 500, currency: EUR, date: 2026-10}\n  H100: {amount: 25000, currency: EUR, date: 2026-10-01}\n"
    )
    found = cards.load(tmp_path)
    own, h100 = cards.find("mine", found), cards.find("H100", found)
    assert per_currency(own, "EUR") == 200
    assert per_currency(h100, "EUR") == pytest.approx(989 / 25)
    assert h100.prices[0].source == "own"
    assert "own" in h100.sources
    assert BUILTIN["nvidia-h100-sxm5"].prices == (), "the built-in card is as it was"
    monkeypatch.setenv(cards.PATH_VARIABLE, str(tmp_path))
    assert "mine" in cards.load()


def test_rows_and_ratios(tmp_path: Path):
    own = cards.load(mine(tmp_path))["mine"]
    by_label = {row.label: row for row in rows([own, cards.find("T4")], "fp16")}
    assert by_label["bf16 dense"].values == (100, None)
    assert by_label["fp16 per watt"].values == (None, pytest.approx(65 / 70))
    assert ratios(by_label["memory"]) == (1, 2)
    assert "price" not in by_label
    assert "fp4 dense" not in by_label


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (MINE.replace("where: table 1}", "}", 1), "where is missing"),
        (
            MINE.replace("source: sheet, where: table 1}", "source: shet, where: table 1}", 1),
            "the source 'shet' is not among the card's sources",
        ),
        (MINE.replace("dense_tflops: 100, ", ""), "has no figure"),
        (MINE.replace("dense_tflops: 100", "dense_tflops: -1"), "can't be '-1'"),
        (MINE.replace("dtype: bf16", "dtype: bf61"), "did you mean 'bf16'"),
        (MINE.replace("tdp_watts", "tdp_wats"), "did you mean 'tdp_watts'"),
        (MINE.replace("https://example.org/sheet", "a friend said so"), "url"),
        (MINE.replace("table 1}\nmemory", "table 1}\n  - {dtype: bf16, sparse_tflops: 1, source: sheet, where: x}\nmemory"), "given twice"),
        ("prices:\n  nobody: {amount: 1, currency: EUR, date: 2026}\n", "there is no card 'nobody'"),
        ("prices:\n  T4: {amount: 1, currency: euro, date: 2026}\n", "currency"),
        ("prices:\n  T4: {amount: 1, currency: EUR}\n", "date is missing"),
    ],
)
def test_a_wrong_card_is_one_clear_line(tmp_path: Path, text: str, says: str):
    with pytest.raises(UserError) as error:
        cards.load(mine(tmp_path, text))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("place", ["missing.yaml", "."])
def test_a_path_without_cards_is_named(tmp_path: Path, place: str):
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        cards.load(tmp_path / place)


def test_a_card_keeps_what_it_was_given(tmp_path: Path):
    card = cards.load(mine(tmp_path))["mine"]
    assert msgspec.convert(plain(card), Card) == card
