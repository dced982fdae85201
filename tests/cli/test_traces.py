"""serve-bench with every dataset, on the reference engine: what the trace says is what was sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bytemlperf.runs.folder import read_run_json
from tests.cli.helpers import QUICK, bmp, run_folder
from tests.runs.reading import read_records
from tests.workload.tokenizers import byte_tokenizer

TIMED = [(0, 700, 3), (20, 300, 2), (20, 600, 4), (350, 9, 1)]  # ms, prompt, output
QUESTION = {"from": "human", "value": "one two three"}
ANSWER = {"from": "gpt", "value": "four five"}


def jsonl(unit: float, block: int) -> str:
    rows = (
        {"timestamp": at * unit, "input_length": prompt, "output_length": output, "hash_ids": list(range(-(-prompt // block)))}
        for at, prompt, output in TIMED
    )
    return "\n".join(map(json.dumps, rows))


def files() -> dict[str, str]:
    azure = [f"2023-11-16 18:15:59.{900 + at:03d}0001,{p},{o}" for at, p, o in TIMED if at < 100] + ["2023-11-16 18:16:00.2500001,9,1"]
    burst = [f"{at / 1000},GPT-4,{p},{o},{p + o},API log" for at, p, o in TIMED]
    return {
        "mooncake": jsonl(1, 512),
        "bailian": jsonl(0.001, 16),
        "timed_trace": jsonl(0.001, 16),
        "azure": "TIMESTAMP,ContextTokens,GeneratedTokens\r\n" + "\r\n".join(azure),
        "burstgpt": "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n" + "\n".join(burst),
        "custom": '{"prompt": "one two three", "output_tokens": 2}\n' * 4,
        "sharegpt": json.dumps([{"id": str(i), "conversations": [QUESTION, ANSWER]} for i in range(4)]),
    }


def replay(place: Path, *flags: str):
    ended = bmp(*QUICK, *flags, cwd=place)
    assert ended.returncode in (0, 1), ended.stderr  # a machine that is busy with something else may make a run invalid
    reader = read_records(run_folder(ended.stdout, place))
    return ended, read_run_json(reader.folder), sorted(reader, key=lambda record: record.index)


@pytest.mark.parametrize("name", list(files()))
def test_every_dataset(tmp_path, name):
    (tmp_path / "trace").write_text(files()[name], newline="")
    untimed = name in ("custom", "sharegpt")
    rate = ("--request-rate", "20") if untimed else ()
    ended, run, records = replay(tmp_path, "--dataset-name", name, "--dataset-path", "trace", *rate)
    assert [(each.prompt_tokens, each.max_tokens, each.output_tokens) for each in records] == (
        [(3, 2, 2)] * 4 if untimed else [(prompt, output, output) for _, prompt, output in TIMED]
    )
    if not untimed:
        assert [each.planned_ns for each in records] == [at * 1_000_000 for at, _, _ in TIMED]
        assert run["facts"]["process"] == "trace"
    trace = run["prompts"]["trace"]
    assert (trace["format"], trace["rows"], trace["requests"]) == (name, 4, 4)
    assert f"trace trace ({name}): 4 requests; prompt lengths exact: one token per word" in ended.stderr
    assert bmp("verify", str(run_folder(ended.stdout, tmp_path)), cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("name", ["trace-azure", "trace-mooncake"])
def test_the_built_in_scenarios_run_anywhere(tmp_path, name):
    flags = ("--scenario", name, "--time-scale", "0.05", "--num-prompts", "20", "--max-model-len", "4096", "--output-len", "2")
    _, run, records = replay(tmp_path, *flags)
    assert len(records) == 20
    assert all(record.prompt_tokens + record.output_tokens <= 4096 for record in records)
    trace = run["prompts"]["trace"]
    assert trace["too_long" if name == "trace-mooncake" else "truncated"] > 0


def test_counts_are_printed_and_kept(tmp_path):
    (tmp_path / "trace").write_text(files()["mooncake"])
    flags = ("--dataset-name", "mooncake", "--dataset-path", "trace", "--max-model-len", "500")
    ended, run, records = replay(tmp_path, *flags, "--on-too-long", "skip")
    assert "2 of 4 trace rows left out: longer than 500 tokens of context" in ended.stderr
    assert (run["prompts"]["trace"]["too_long"], len(records)) == (2, 2)
    failed = bmp(*QUICK, *flags, cwd=tmp_path)
    assert failed.returncode == 2
    assert failed.stderr.splitlines()[-1].endswith("truncate shortens them")
    assert "trace:1: request: needs 703 tokens of context" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_bad_line_far_down_is_found_before_anything_is_measured(tmp_path):
    (tmp_path / "trace").write_text(files()["mooncake"] + "\n" + '{"timestamp": 400, "input_length": "many"}')
    ended = bmp(*QUICK, "--dataset-name", "mooncake", "--dataset-path", "trace", cwd=tmp_path)
    assert ended.returncode == 2
    assert "trace:5: input_length: Expected `int`" in ended.stderr.splitlines()[-1]
    assert not list((tmp_path / "runs").glob("*/records.jsonl"))


def test_a_rate_replays_the_lengths_at_its_own_times(tmp_path):
    (tmp_path / "trace").write_text(files()["mooncake"])
    _, run, records = replay(tmp_path, "--dataset-name", "mooncake", "--dataset-path", "trace", "--request-rate", "40")
    assert [record.prompt_tokens for record in records] == [prompt for _, prompt, _ in TIMED]
    assert run["facts"]["process"] == "constant"
    assert [record.planned_ns for record in records] == [0, 25_000_000, 50_000_000, 75_000_000]


def test_input_len_makes_prompts_of_that_length(tmp_path):
    flags = ("--input-len", "40", "--random-prefix-len", "25", "--request-rate", "50", "--num-prompts", "5")
    ended, run, records = replay(tmp_path, *flags)
    assert [record.prompt_tokens for record in records] == [65] * 5
    assert "prompt lengths exact" in ended.stderr
    assert run["prompts"]["lengths"].startswith("exact")


def test_a_tokenizer_that_the_engine_does_not_have_is_the_users_word(tmp_path):
    pytest.importorskip("tokenizers")
    folder = byte_tokenizer(tmp_path / "bytes")
    flags = ("--input-len", "400", "--tokenizer", folder, "--request-rate", "50", "--num-prompts", "3")
    _, run, records = replay(tmp_path, *flags)
    assert run["prompts"]["lengths"] == f"exact: tokenizer of {folder}, chat template included"
    assert all(record.prompt_tokens < 100 for record in records)  # the reference engine counts words


def test_a_prompt_shorter_than_the_template_is_one_line(tmp_path):
    pytest.importorskip("tokenizers")
    folder = byte_tokenizer(tmp_path / "bytes")
    ended = bmp(*QUICK, "--input-len", "4", "--tokenizer", folder, cwd=tmp_path)
    assert ended.returncode == 2
    assert "no prompt has 4 tokens: the chat template and one word have" in ended.stderr
