"""bmp hardware, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

COMMAND = [sys.executable, "-c", "from bytemlperf.app import main; main()", "hardware"]


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "BMP_CARDS"} | {"NO_COLOR": "1", "COLUMNS": "160"}
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, cwd=cwd, env=environment, timeout=60, check=False)


def test_list_show_compare(tmp_path: Path):
    listed = run("list", "--vendor", "intel", cwd=tmp_path)
    assert listed.returncode == 0
    assert "intel-gaudi3" in listed.stdout
    assert "nvidia" not in listed.stdout
    shown = run("show", "gaudi 3", cwd=tmp_path)
    assert "15,625 USD" in shown.stdout
    assert "https://www.intel.com/" in shown.stdout
    compared = run("compare", "h100", "mi300x", cwd=tmp_path)
    assert "(1.58×)" in compared.stdout


def test_no_escape_sequence_of_a_card_reaches_the_terminal(tmp_path: Path):
    act = '"\\x1b]0;owned\\x07\\x9b2J[red]x"'
    source = f"{{s: {{title: {act}, publisher: {act}, url: 'https://example.org'}}}}"
    card = f"name: {act}\nvendor: {act}\nkind: accelerator\narchitecture: {act}\nnote: {act}\nsources: {source}\n"
    (tmp_path / "mine.yaml").write_text(card)
    for words in (("list",), ("show", "mine"), ("compare", "mine", "h100"), ("show", "mine", "--json")):
        done = run(*words, "--cards", str(tmp_path), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert not {"\x1b", "\x07", "\x9b"} & {*done.stdout, *done.stderr}


def test_json_is_whole(tmp_path: Path):
    found = json.loads(run("compare", "gaudi2", "gaudi3", "--json", cwd=tmp_path).stdout)
    assert found["cards"] == ["Intel Gaudi 2", "Intel Gaudi 3"]
    money = next(row for row in found["rows"] if row["label"] == "bf16 per 1,000 USD")
    assert money["values"] == [432 / 8.125, 1835 / 15.625]
    machine = json.loads(run("show", "--json", cwd=tmp_path).stdout)
    assert machine["hardware"]["numa"] is not None
    assert len(json.loads(run("list", "--json", cwd=tmp_path).stdout)) >= 30


def test_bad_input_is_one_line_and_status_2(tmp_path: Path):
    (tmp_path / "bad.yaml").write_text("name: x\nvendor: y\nkind: gpu\nsources: {}\nprize: 3\n")
    cases = (
        (("show", "H1000"), "did you mean H100"),
        (("show", "zzz"), "bmp hardware list"),
        (("compare", "h100"), "needs two cards"),
        (("compare", "h100", "t4", "--precision", "fp3"), "fp3"),
        (("list", "--vendor", "nobody"), "vendors: "),
        (("list", "--cards", "bad.yaml"), "did you mean 'prices'?"),
        (("list", "--cards", "gone"), "gone can't be read"),
    )
    for words, says in cases:
        done = run(*words, cwd=tmp_path)
        assert done.returncode == 2, words
        assert says in done.stderr, (words, done.stderr)
        assert done.stderr.count("\n") == 1, done.stderr
