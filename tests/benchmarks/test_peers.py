"""What peers report is read as they mean it, and the page shows it: from small recorded files, no peer is run."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from benchmarks.peers import measure, process_tree, results, table
from benchmarks.peers.adapters import CLIENTS, Load, Place, inference_perf_config
from benchmarks.peers.install import CannotInstall, chosen, find_python

SAMPLES = Path(__file__).parent / "samples"
FOLDERS = {
    "C client": "c-client",
    "bmp-llm": "bmp-llm",
    "sglang (Rust)": "sglang",
    "vllm bench serve": "vllm",
    "inference-perf": "inference-perf",
    "aiperf": "aiperf",
    "guidellm": "guidellm",
}
EXPECTED = {  # completed, TTFT p50, p99, ITL p50, p99 in ms
    "C client": (100, 50.122, 53.1258, 9.9999, 13.7108),
    "bmp-llm": (60, 50.582234, None, 10.000319, 13.382327),
    "sglang (Rust)": (50, 50.9279575, 54.61965214, 9.999333, 14.395506),
    "vllm bench serve": (60, 51.785482, 53.809774, 10.000987, 11.235255),
    "inference-perf": (100, 50.794279, 55.511992, 10.000161, 13.394737),
    "aiperf": (60, 51.7204065, 60.872232, 10.001231, 10.139853),
    "guidellm": (60, 103.300095, 2373.466492, 27.286037, 32.47890165),
}


def read(name: str) -> results.Reported:
    return results.READERS[name](SAMPLES / FOLDERS[name])


@pytest.mark.parametrize("name", EXPECTED)
def test_reports_are_read_in_milliseconds(name: str) -> None:
    reported = read(name)
    completed, *figures = EXPECTED[name]
    assert reported.completed == completed
    for found, wanted in zip((*reported.ttft_ms, *reported.itl_ms), figures, strict=True):
        assert found is wanted if wanted is None else found == pytest.approx(wanted, rel=1e-6)


def test_every_client_has_a_reader_a_formula_and_a_sample() -> None:
    names = {client.name for client in CLIENTS}
    assert names == set(results.READERS) == set(results.ITL_OF) == set(FOLDERS) == set(EXPECTED)


def test_request_ids_join_ours_and_vllm_and_aiperf() -> None:
    assert read("bmp-llm").ttft_by_id == {"0-00000000": pytest.approx((87705026 - 37346271) / 1e6)}
    assert set(read("vllm bench serve").ttft_by_id or {}) == {"r0", "r1"}  # r2 failed
    assert len(read("aiperf").ttft_by_id or {}) == 2
    assert read("bmp-llm").verdict == "valid"
    assert read("guidellm").ttft_by_id is None


def seen(count: int = 100, gap_ms: float = 5.0) -> list[dict[str, str]]:
    rows = []
    for place in range(count):
        arrival = round(place * gap_ms * 1e6)
        first, last = arrival + 50_000_000, arrival + 50_000_000 + 31 * 10_000_000
        row = {"arr_ns": arrival, "first_ns": first, "last_ns": last, "done_ns": last, "sent": 32, "ntok": 32, "rid": f"r{place}"}
        rows.append({key: str(value) for key, value in row.items()})
    return rows


def test_reported_is_held_against_the_servers_truth() -> None:
    reported = results.Reported(100, (51.0, 53.0), (10.5, 12.0), {"r0": 50.25, "r1": 52.0, "unknown": 9.0})
    found = measure.against(reported, seen(), {"p50": 10.1, "p99": 11.0}, results.GAPS)
    assert found["true_ttft_ms"] == pytest.approx([50, 50])
    assert found["joined_requests"] == 2
    assert found["joined_ttft_error_ms"] == pytest.approx([0.25, 2.0])
    assert found["true_itl_ms"] == [10.1, 11.0]
    assert found["offered_per_s"] == pytest.approx(200)
    assert found["dispersion"] == pytest.approx(0, abs=0.05)
    assert measure.against(reported, seen(), {"p50": 10.1, "p99": 11.0}, results.PER_REQUEST)["true_itl_ms"] == pytest.approx([10, 10])


def test_start_up_is_apart_from_what_a_token_costs() -> None:
    small, large = {"cpu_s": 10.1, "tokens": 8_192}, {"cpu_s": 12.1, "tokens": 48_192}
    assert measure.cost(small, large) == pytest.approx({"start_up_cpu_s": 10.1 - 0.4096, "cpu_s_per_million_tokens": 50.0})


def test_throughput_is_by_the_servers_clock() -> None:
    found = measure.throughput(seen(2, 140.0))
    assert found["tokens"] == 64
    assert found["tokens_per_s"] == pytest.approx(64 / 0.5)
    assert found["requests_per_s"] == pytest.approx(4)


def comparison() -> dict:
    truth = measure.against(results.Reported(100, (51.0, None), (10.5, 12.0)), seen(), {"p50": 10, "p99": 11}, results.GAPS)
    good = {
        "name": "good",
        "note": "a note",
        "cost": {"start_up_cpu_s": 0.5, "cpu_s_per_million_tokens": 12.34},
        "peak": {"tokens_per_s": 51234.5, "peak_mb": 41.2, "requests": 2344},
        "one_token": {"failed": "did not finish in 120 s"},
        "truth": {"200": truth | {"command": "good --rate 200"}, "1000": truth},
    }
    bad = {"name": "bad", "note": "", "failed": "not installed: needs a | newer Python"}
    return {
        "date": "2026-01-02",
        "cpu": "a CPU",
        "cores": 2,
        "load_before": 0.1,
        "took_s": 600.0,
        "versions": {"good": "1.0"},
        "rates": [200.0, 1000.0],
        "clients": [good, bad],
    }


def test_the_page_shows_figures_reasons_and_what_was_not_delivered() -> None:
    text = table.markdown(comparison())
    assert "| good | 0.50 | 12.3 | 51,234 | – | did not finish in 120 s | 41 (2,344) |" in text
    assert "| bad | not installed: needs a \\| newer Python | – | – | – | – | – |" in text
    assert "| good | 200.0 | 0.00 | +1.00 / – | – | +0.50 / +1.00 | gaps |" in text
    assert "| good | 200.0 **(short)** |" in text  # of 1,000
    assert "      good --rate 200" in text
    doubted = comparison()
    doubted["clients"][0]["truth"]["200"]["verdict"] = "client-limited"
    assert "| good | 200.0 (client-limited, it says) |" in table.markdown(doubted)


def test_only_what_is_between_the_markers_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "compare.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.write(page, comparison())
    table.write(page, comparison())
    assert json.loads((tmp_path / "compare.json").read_text())["clients"][1]["name"] == "bad"
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert text.count(table.BEGIN) == 1
    with pytest.raises(ValueError, match="compare-peers: begin"):
        table.page("no markers", comparison())


def test_the_page_in_docs_has_its_markers() -> None:
    text = (Path(__file__).parents[2] / "docs" / "results" / "peers.md").read_text()
    assert "2026-01-02" in table.page(text, comparison())


def test_nothing_for_cuda_is_installed() -> None:
    pins = [("torch", "2.13.0"), ("nvidia-cublas", "13"), ("triton", "3"), ("nvidia-ml-py", "13"), ("NumPy", "2")]
    assert chosen(pins, without_torch=True) == ["nvidia-ml-py==13", "numpy==2"]
    with pytest.raises(CannotInstall, match="CUDA"):
        chosen(pins, without_torch=False)
    assert chosen([("torch", "2.13.0+cpu")], without_torch=False) == ["torch==2.13.0+cpu"]


def test_a_python_that_is_new_enough_is_found_or_it_is_said() -> None:
    assert find_python(sys.version_info[:2]) == sys.executable
    with pytest.raises(CannotInstall, match=r"3\.99"):
        find_python((3, 99))


def test_inference_perf_is_told_a_rate_or_a_number_of_streams(tmp_path: Path) -> None:
    place = Place("http://127.0.0.1:1", "/tokenizer", tmp_path, tmp_path)
    assert inference_perf_config(place, Load(400, 32, 64, 50.0))["load"]["stages"] == [{"rate": 50.0, "duration": 8}]
    assert inference_perf_config(place, Load(400, 32, 64))["load"]["stages"] == [{"num_requests": 400, "concurrency_level": 64}]


def test_commands_are_shown_without_this_machines_folders(tmp_path: Path) -> None:
    for client in CLIENTS:
        if client.name != "C client":  # that one is built from BMP_TOOLS
            place = Place("http://127.0.0.1:1", "/some/tokenizer", tmp_path, measure.ROOT / ".peers" / client.name.split()[0])
            shown = measure.plain(client.command(place, Load(400, 32, 64, 50.0)), place)
            assert not any(path in shown for path in (str(tmp_path), str(measure.ROOT), "/some/tokenizer", place.url)), shown


def run_tree(code: str, folder: Path, limit_s: float) -> process_tree.Ended:
    core = min(os.sched_getaffinity(0))
    return process_tree.run([sys.executable, "-c", code], core, folder, os.environ, limit_s, memory=True)


def test_the_whole_process_tree_is_accounted_for(tmp_path: Path) -> None:
    child = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True)"
    ended = run_tree(parent, tmp_path, 30)  # the parent is gone before its child
    assert ended.status == 0
    assert ended.cpu_s >= 0.3


def test_a_run_past_its_limit_is_stopped_with_its_children(tmp_path: Path) -> None:
    sleeper = "import time; time.sleep(600)"
    parent = f"import subprocess, sys, time; print(subprocess.Popen([sys.executable, '-c', {sleeper!r}]).pid, flush=True); time.sleep(600)"
    ended = run_tree(parent, tmp_path, 1.0)
    assert ended.status is None
    assert not Path(f"/proc/{int((tmp_path / 'stdout').read_text())}").exists()


def test_an_interrupted_run_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_tree, "_memory_mb", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_tree("import time; time.sleep(600)", tmp_path, 30)
    assert not set(process_tree.descendants(os.getpid())) & interrupted.seen


def interrupted(pids: set[int]) -> float:
    interrupted.seen = set(pids)
    raise KeyboardInterrupt


interrupted.seen = set()


def a_comparison(*names: str, **more: object) -> dict[str, object]:
    clients = [{"name": name, "note": "", "failed": "not installed: here"} for name in names]
    fixed = {"date": "2026-01-02", "cpu": "A CPU", "cores": 2, "load_before": 0.1, "took_s": 60.0, "versions": {}, "rates": [50.0]}
    return {**fixed, "clients": clients, **more}


def test_some_clients_are_added_below_and_take_the_place_of_an_earlier_time(tmp_path: Path) -> None:
    path = tmp_path / "compare.md"
    path.write_text(f"before\n{table.BEGIN}\n{table.END}\nafter\n")
    table.write(path, a_comparison("one", "two", note="A note."))
    table.add(path, a_comparison("two", "three", date="2026-02-03"))
    table.add(path, a_comparison("two", "three", date="2026-03-04"))
    text = path.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert ("A note." in text, "2026-01-02" in text, "2026-02-03" in text, "2026-03-04" in text) == (True, True, False, True)
    assert text.index("### Cost") < text.index("### Measured by themselves: two, three") < text.index("#### Cost")
    kept = json.loads(path.with_suffix(".json").read_text())
    assert [row["name"] for row in kept["clients"]] == ["one", "two"]
    assert [each["date"] for each in kept["further"]] == ["2026-03-04"]
