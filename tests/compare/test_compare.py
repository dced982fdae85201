"""`bmp compare` as a user runs it: who is faster, gates and their status, bad input, formats."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from bytemlperf.compare.comparison import compare_all, gather, short_names
from bytemlperf.compare.gate import failures, percent
from bytemlperf.compare.page import page_of
from bytemlperf.compare.show import Shown
from bytemlperf.compare.terminal import print_comparison
from bytemlperf.report.text import escape_markdown
from bytemlperf.runs.conditions import parse
from tests.report.browser import Opened, chromium, have_chromium
from tests.report.inside import bmp
from tests.report.made import HOSTILE, llm_run, read


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    return {
        "base": llm_run(place / "base", label="base"),
        "slow": llm_run(place / "slow", label="slow", slower=1.1, seed=2),
        "again": llm_run(place / "again", label="again", seed=6),
    }


@pytest.fixture(scope="module")
def compared(runs):
    views, problems = gather(list(runs.values()))
    assert problems == []
    return compare_all(views, views[0])[0]


def side(compared, metric, name):
    return compared.row(metric)[0].sides[compared.names.index(name)]


def test_a_slower_engine_is_worse_and_the_same_one_is_not(compared):
    slow, again = side(compared, "tpot p50", "slow"), side(compared, "tpot p50", "again")
    assert slow.judgement == "worse"
    assert slow.change.low < 1.1 < slow.change.high
    assert again.judgement == "same"
    assert side(compared, "tpot p50", "base").change is None
    assert {row.sides[2].judgement for row in compared.rows} <= {"same", "unknown"}


def test_runs_of_one_schedule_are_paired_and_others_are_not(compared, runs, tmp_path):
    assert "paired" in side(compared, "tpot p50", "slow").change.method
    other = llm_run(tmp_path / "other", label="other", seed=3, schedule_sha256="b" * 64)
    views, _ = gather([runs["base"], other])
    apart = compare_all(views, views[0])[0]
    assert "paired" not in side(apart, "tpot p50", "other").change.method
    assert any("schedule" in row[0] for row in apart.settings)


@pytest.fixture(scope="module")
def loads(tmp_path_factory):
    """Runs of one server at two rates, in folders and as a comparison."""
    place = tmp_path_factory.mktemp("loads")
    folders = [llm_run(place / "four", label="four", rate=40.0), llm_run(place / "eight", label="eight", rate=80.0, seed=2)]
    views, _ = gather(folders)
    return folders, compare_all(views, views[0])[0]


def test_runs_at_different_loads_say_so_first_and_rates_are_not_judged(loads):
    folders, compared = loads
    rates = [row for row in compared.rows if row.unit.endswith("/s")]
    assert {"request_throughput", "output_token_throughput", "goodput"} <= {row.metric for row in rates}
    assert {(row.sides[1].judgement, row.sides[1].ratio) for row in rates} == {("unknown", None)}
    assert side(compared, "tpot p50", "eight").change.ratio
    sentence = "Different loads: four: Poisson, 40 req/s; eight: Poisson, 80 req/s. Rates follow the load and are not judged."
    assert compared.different_loads == sentence
    ended = bmp("compare", *map(str, folders))
    assert ended.stdout.startswith(sentence)
    assert bmp("compare", *map(str, folders), "--format", "md").stdout.startswith(f"**{sentence}**")
    page = page_of(Shown(comparisons=[compared]))
    assert page.problems == [sentence]
    assert json.loads(bmp("compare", *map(str, folders), "--format", "json").stdout)["comparisons"][0]["different_loads"] == sentence


def test_the_sentence_of_different_loads_is_red(loads, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    print_comparison(Shown(comparisons=[loads[1]]))
    assert capsys.readouterr().out.startswith("\x1b[1;31mDifferent loads")


def test_a_gate_on_what_follows_the_load_does_not_pass(loads):
    _, compared = loads
    for condition in ("output_token_throughput < -90%", "any worse > 90%"):
        (failure,) = failures([compared], [parse(condition)])
        assert "can't be evaluated" in failure


def test_lengths_are_part_of_the_load(runs, tmp_path):
    scenario = read(runs["base"], "run.json")["config"]["scenario"]
    lengths = {"distribution": "constant", "value": 64}
    other = llm_run(tmp_path / "o", label="o", config={"scenario": scenario | {"output_tokens": lengths}, "header_names": []})
    views, _ = gather([runs["base"], other])
    assert "o: Poisson, 40 req/s, 64 tokens out" in compare_all(views, views[0])[0].different_loads


def test_a_change_below_the_smallest_effect_is_negligible(runs):
    views, _ = gather([runs["base"], runs["slow"]])
    (compared,) = compare_all(views, views[0], min_effect=0.5)
    assert side(compared, "tpot p50", "slow").judgement == "negligible"
    assert failures([compared], [parse("any worse > 5%")]), "a gate's own limit goes before"
    command = ("compare", str(runs["base"]), str(runs["slow"]), "--metric", "tpot p50")
    assert "worse in 1" in bmp(*command).stdout
    assert "negligible in 1" in bmp(*command, "--min-effect", "50%").stdout


def test_one_percent_is_the_smallest_effect_unless_told(tmp_path):
    folders = [llm_run(tmp_path / name, label=name, slower=slower, seed=1) for name, slower in (("a", 1.0), ("b", 1.005))]
    views, _ = gather(folders)
    found = side(compare_all(views, views[0])[0], "tpot p50", "b")
    assert found.change.low > 1
    assert found.judgement == "negligible"
    assert side(compare_all(views, views[0], min_effect=0.0)[0], "tpot p50", "b").judgement == "worse"


def test_the_answer_is_the_last_line_and_no_number_is_minus_nothing(runs):
    ended = bmp("compare", str(runs["base"]), str(runs["slow"]), "--metric", "tpot p50")
    answer = ended.stdout.rstrip().splitlines()[-1]
    assert answer == "slow against base: worse in 1 (1 figure, request by request on the same schedule)"
    assert (percent(1.0), percent(0.99999), percent(0.99)) == ("+0.0 %", "+0.0 %", "-1.0 %")


@pytest.mark.parametrize(("width", "tables"), [(80, 2), (160, 1)])
def test_a_value_and_its_change_stay_together_at_any_width(compared, monkeypatch, width, tables):
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    monkeypatch.setattr("bytemlperf.compare.terminal.terminal", lambda: console)
    print_comparison(Shown(comparisons=[compared]))
    heads = [line for line in console.file.getvalue().splitlines() if line.rstrip().endswith("change")]
    assert len(heads) == tables
    assert all(line.count("change") == line.count("slow") + line.count("again") for line in heads)


def test_what_differs_by_itself_is_no_setting(runs, tmp_path):
    def other(name, memory, cores=2):
        folder = llm_run(tmp_path / name, 60, label=name)
        run = read(folder, "run.json")
        hardware = {"cpu": {"model": "a CPU", "usable_cores": cores}, "memory": {"total_bytes": memory}, "numa": [{"memory_bytes": memory}]}
        run["environment"]["hardware"] = hardware
        run["config"]["probe"] = {"tokens_per_s": memory}
        (folder / "run.json").write_text(json.dumps(run))
        return folder

    views, _ = gather([other("a", 16_000_000_000), other("b", 16_100_000_000)])
    assert compare_all(views, views[0])[0].settings == []
    views, _ = gather([other("c", 16_000_000_000), other("d", 32_000_000_000, 4)])
    named = {row[0] for row in compare_all(views, views[0])[0].settings}
    assert named == {"hardware.cpu.usable_cores", "hardware.memory.total_bytes", "hardware.numa.0.memory_bytes"}


def test_what_the_sample_cannot_carry_is_not_compared(compared):
    found = side(compared, "ttft p99.9", "slow")
    assert found.judgement == "unknown"
    assert "insufficient samples" in found.change.method


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ("tpot p50 > 5%", 1),
        ("tpot p50 > 50%", 0),
        ("tpot p50 < -5%", 0),
        ("any worse > 5%", 1),
        ("any worse > 60%", 0),
        ("TPOT p50 > 5%", 1),
        ("tpot p50 > 3", 1),
        ("tpot p50 > 3000", 0),
        ("ttft p99.9 > 5%", 1),  # can't be evaluated: must not pass
    ],
)
def test_a_gate_is_met_or_not(runs, condition, status):
    views, _ = gather([runs["base"], runs["slow"]])
    found = failures(compare_all(views, views[0], [parse(condition).metric] if "any" not in condition else ()), [parse(condition)])
    assert bool(found) == bool(status), found


def test_a_gate_fails_with_status_1_and_says_why(runs):
    command = ("compare", str(runs["base"]), str(runs["slow"]), "--metric", "tpot p50", "--fail-if")
    failed, passed = bmp(*command, "tpot p50 > 5%"), bmp(*command, "tpot p50 > 50%")
    assert (failed.returncode, passed.returncode) == (1, 0)
    assert "FAIL tpot p50 > 5%: slow: TPOT p50 +" in failed.stdout
    assert "gate passed" in passed.stdout


def test_chance_does_not_fail_a_gate(runs, compared):
    assert failures([compared], [parse("tpot p50 > 15%")]) == []
    views, _ = gather([runs["base"], runs["again"]])
    again = compare_all(views, views[0])
    assert failures(again, [parse("ttft p50 > 0%"), parse("any worse > 0%")]) == []


@pytest.mark.parametrize("verdict", ["invalid", "failing", "overloaded"])
def test_a_run_that_is_not_fit_does_not_pass_a_gate(runs, tmp_path, verdict):
    broken = llm_run(tmp_path / "broken", label="broken")
    (broken / "summary.json").write_text(json.dumps(read(broken, "summary.json") | {"verdict": verdict, "reasons": ["too late"]}))
    ended = bmp("compare", str(runs["base"]), str(broken), "--fail-if", "tpot p50 > 50%")
    assert ended.returncode == 1
    assert "too late" in ended.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("--fail-if", "nonsense"),
        ("--fail-if", "no such figure > 5%"),
        ("--fail-if", "any worse > 5"),
        ("--baseline", "nobody"),
        ("--min-effect", "1"),
        ("--min-effect", "-1%"),
        ("--metric", "nothing"),
        ("--format", "docx"),
        ("--format", "html"),
        ("--card", "no-such-card"),
        ("--card", "nobody=nvidia-t4"),
    ],
)
def test_bad_input_is_one_line_and_status_2(runs, words):
    ended = bmp("compare", str(runs["base"]), str(runs["slow"]), *words)
    assert ended.returncode == 2, ended.stdout
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1


def test_no_run_at_all_is_one_line(tmp_path):
    ended = bmp("compare", str(tmp_path), str(tmp_path / "missing"))
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1


def test_a_folder_that_is_no_run_is_named_and_the_others_are_compared(runs, tmp_path):
    ended = bmp("compare", str(runs["base"]), str(tmp_path), str(runs["slow"]))
    assert ended.returncode == 0
    assert "is not a run folder" in ended.stdout
    assert "worse in" in ended.stdout


def test_runs_of_different_kinds_are_named_and_each_kind_is_shown(runs, tmp_path):
    other = tmp_path / "ops"
    other.mkdir()
    (other / "run.json").write_text(json.dumps({"format_version": 1, "kind": "quantum", "label": "ops", "end": {}}))
    (other / "summary.json").write_text(json.dumps({"verdict": "valid"}))
    ended = bmp("compare", str(runs["base"]), str(runs["slow"]), str(other))
    assert ended.returncode == 0, ended.stderr
    assert "different kinds" in ended.stdout
    assert "quantum (ops)" in ended.stdout
    assert "worse in" in ended.stdout


def test_a_baseline_by_name_turns_the_comparison_round(runs):
    ended = bmp("compare", str(runs["base"]), str(runs["slow"]), "--baseline", "slow", "--metric", "tpot p50", "--format", "json")
    content = json.loads(ended.stdout)
    comparison = content["comparisons"][0]
    assert comparison["baseline"] == "slow"
    (row,) = comparison["rows"]
    assert row["sides"][0]["judgement"] == "better"
    assert row["sides"][0]["change"]["ratio"] < 1
    assert row["sides"][1]["change"] is None


def test_rates_are_normalised_by_a_card_and_a_users_own_price(runs, tmp_path):
    prices = tmp_path / "prices.yaml"
    amounts = {"nvidia-t4": 2000, "nvidia-l4": 4000}
    rows = [f"  {name}: {{amount: {amount}, currency: EUR, date: 2026-01-01}}" for name, amount in amounts.items()]
    prices.write_text("\n".join(["prices:", *rows]))
    cards = ("--card", "base=nvidia-t4", "--card", "slow=nvidia-l4", "--cards", str(prices))
    ended = bmp("compare", str(runs["base"]), str(runs["slow"]), *cards, "--format", "md")
    assert ended.returncode == 0, ended.stderr
    rates = [read(runs[name], "summary.json")["rates"]["output_token_throughput"]["value"] for name in ("base", "slow")]
    (line,) = [line for line in ended.stdout.splitlines() if "per 1,000 EUR" in line and line.startswith("| output token throughput")]
    shown = [float(cell) for cell in line.split("|")[2:4]]
    assert shown == pytest.approx([rates[0] / 2000 * 1000, rates[1] / 4000 * 1000], rel=1e-3)
    (line,) = [line for line in ended.stdout.splitlines() if "per watt" in line and line.startswith("| output token throughput")]
    assert float(line.split("|")[2]) == pytest.approx(rates[0] / 70, rel=1e-3), "a T4 is rated 70 W"


def test_markdown_is_a_table_in_which_nothing_acts(tmp_path):
    hostile = "|".join(HOSTILE) + "`code` **bold** [x](https://example.org)"
    one, other = llm_run(tmp_path / "one", 100, label=hostile), llm_run(tmp_path / "other", 100, label="other")
    ended = bmp("compare", str(one), str(other), "--format", "md")
    assert ended.returncode == 0, ended.stderr
    table = [line for line in ended.stdout.splitlines() if line.startswith("|")]
    assert len({line.count("|") - line.count("\\|") for line in table[:4]}) == 1, "no cell was split"
    without_ours = ended.stdout.replace("<br>", "").replace("<details><summary>", "").replace("</summary>", "").replace("</details>", "")
    assert "<" not in without_ours.replace("\\<", "")
    assert "](" not in ended.stdout.replace("\\](", "")
    assert escape_markdown("a\nb|c") == "a b\\|c"


def test_no_escape_sequence_of_a_run_reaches_the_terminal(tmp_path):
    one, other = llm_run(tmp_path / "one", 60, label="\x1b[31mred\x07\x9b2J[bold]x[/bold]"), llm_run(tmp_path / "other", 60, label="other")
    for words in (
        ("compare", str(one), str(other)),
        ("compare", str(one), str(other), "--format", "md"),
        ("runs", "--runs-dir", str(tmp_path)),
    ):
        ended = bmp(*words)
        assert ended.returncode == 0, ended.stderr
        assert not {"\x1b", "\x07", "\x9b"} & {*ended.stdout, *ended.stderr}
        assert "[bold]" in ended.stdout.replace("\\", "").replace("\n", "")


def test_names_are_distinct(runs, tmp_path):
    views, _ = gather([runs["base"], llm_run(tmp_path / "20260101T000000Z-llm-base-abc123", 60, label="base"), runs["base"]])
    assert len(set(short_names(views))) == 3


@pytest.mark.skipif(not have_chromium(), reason="no chromium here: apt-get install chromium")
def test_the_page_of_a_comparison_is_inert_and_drawn(tmp_path):
    pytest.importorskip("playwright")
    one, other = llm_run(tmp_path / "one", 200, label=" ".join(HOSTILE)), llm_run(tmp_path / "other", 200, label=HOSTILE[0], slower=1.2)
    out = tmp_path / "comparison.html"
    assert bmp("compare", str(one), str(other), "--format", "html", "--out", str(out), "--fail-if", "tpot p50 > 1%").returncode == 1
    with chromium() as browser:
        opened = Opened(browser.new_page())
        page = opened.open(out.as_uri())
        assert page.locator(".canvas.js-plotly-plot svg.main-svg").count() >= page.locator(".canvas").count() >= 4
        assert "GATE FAILED" in page.locator(".verdict").inner_text()
        assert opened.complaints(out.as_uri()) == []
        assert page.locator("a[href^='http'], main img").count() == 0


def test_a_comparison_is_a_pdf_too(runs, tmp_path):
    out = tmp_path / "comparison.pdf"
    done = bmp("compare", str(runs["base"]), str(runs["slow"]), "--format", "pdf", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert out.read_bytes().startswith(b"%PDF-")
    assert len(out.read_bytes()) > 10_000
    assert bmp("compare", str(runs["base"]), "--format", "pdf").returncode == 2
