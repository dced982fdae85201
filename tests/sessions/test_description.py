"""`bmp-llm trace describe`: what each trace holds, the format that its first row tells, and what is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bytemlperf.errors import UserError
from bytemlperf_llm.plan.scenario import BUILTIN_FOLDER
from bytemlperf_llm.trace.command import describe_trace
from bytemlperf_llm.trace.description import Description, describe
from bytemlperf_llm.trace.detection import NAMES, format_of
from bytemlperf_llm.trace.flags import DescribeFlags
from tests.sessions.test_agents import MLPERF, SPANS
from tests.sessions.test_files import DAG, said, written
from tests.sessions.test_hashed import BAILIAN, WEKA, tracelab
from tests.workload.test_data_files import packed

ROWS: dict[str, list[Any]] = {
    "sharegpt_turns": [{"id": "x", "conversations": [{"from": "human", "value": "a b"}, {"from": "gpt", "value": "c"}]}],
    "openai_messages": [{"messages": [said("user", "a"), said("assistant", "b c"), said("user", "d")]}],
    "mooncake_sessions": [{"session_id": "a", "timestamp": 0, "text_input": "a b", "output_length": 4}],
    "lmcache_agentic": [{"session_id": "a", "input": [said("user", "a")], "output_length": 4}],
    "dag_jsonl": DAG,
    "weka": [WEKA],
    "tracelab": [tracelab(0, 0, 50, 0, "user_message")],
    "bailian_chains": BAILIAN,
    "mlperf_agentic": MLPERF,
    "otel_spans": [SPANS],
    "custom": [{"prompt": "a b", "output_tokens": 3}],
    "mooncake": [{"timestamp": 0, "input_length": 600, "output_length": 2, "hash_ids": [1, 2]}],
    "timed_trace": [{"timestamp": 0, "input_length": 600, "output_length": 2, "hash_ids": list(range(38))}],
}


def described(path: Path, name: str | None = None, **flags: Any) -> Description:
    return describe(path, format_of(path, name), DescribeFlags(**flags))


@pytest.mark.parametrize("form", ROWS)
def test_the_first_row_tells_the_format(tmp_path: Path, form: str) -> None:
    path = written(tmp_path, *ROWS[form])
    assert format_of(path, None) == form
    assert described(path).requests > 0


def test_tables_tell_their_format_by_their_columns(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    for head, form in (
        ("TIMESTAMP,NumImages,ContextTokens,GeneratedTokens", "azure"),
        ("Timestamp,Model,Request tokens,Response tokens", "burstgpt"),
    ):
        path.write_text(f"{head}\n", encoding="utf-8")
        assert format_of(path, None) == form
    assert {*ROWS, "azure", "burstgpt", "sharegpt", "bailian"} == set(NAMES)


@pytest.mark.parametrize("content", ["", "hello", '{"a": 1}', "[7]", "[]"])
def test_a_row_that_tells_nothing(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="doesn't tell its format"):
        format_of(path, None)
    with pytest.raises(UserError, match="--dataset-name 'weca' is unknown"):
        format_of(path, "weca")


def test_sessions_of_blocks(tmp_path: Path) -> None:
    told = described(written(tmp_path, WEKA, WEKA | {"id": "x"}), time_scale=2.0)
    assert (told.sessions, told.requests, told.counted_by) == (2, 12, "")
    assert told.reusable_tokens == 2 * (64 + 128 + 64) + 5, "and the first word, which all made-up prompts have"
    assert told.prompt_tokens is not None
    assert (told.prompt_tokens.sum, told.prompt_tokens.min, told.prompt_tokens.p50, told.prompt_tokens.max) == (2 * 734, 64, 70, 200)
    assert told.turns is not None
    assert told.turns.mean == 6
    assert told.pause_s is not None
    assert (told.pause_s.count, told.pause_s.max) == (10, 10.0)
    assert (told.longest_session_s, told.one_user_s, told.duration_s, told.peak) == (34.0, 68.0, None, None)


def test_sessions_at_their_own_times(tmp_path: Path) -> None:
    told = described(written(tmp_path, *BAILIAN))
    assert (told.sessions, told.peak, told.duration_s, told.longest_session_s) == (2, 2, 80.0, 80.0)
    assert told.reusable_tokens == 16 * (2 + 2 + 1) + 1


def test_texts_are_counted_and_what_is_not_said_is_told(tmp_path: Path) -> None:
    told = described(written(tmp_path, *ROWS["openai_messages"]))
    assert (told.counted_by, told.unsaid_outputs, told.reusable_tokens) == ("one per word", 1, 1)
    assert told.prompt_tokens is not None
    assert (told.prompt_tokens.min, told.prompt_tokens.max) == (1, 4)


def test_requests(tmp_path: Path) -> None:
    rows = [
        {"timestamp": at, "input_length": 1024, "output_length": 2, "hash_ids": [1, place]}
        for place, at in enumerate((0, 10, 999, 1010, 5000))
    ]
    told = described(written(tmp_path, *rows), "mooncake", time_scale=0.5)
    assert (told.sessions, told.requests, told.peak, told.duration_s) == (None, 5, 3, 2.5)
    assert told.reusable_tokens == 4 * 512 + 512 * 0
    with pytest.raises(UserError, match="2 ids, and 1024 prompt tokens are 64 blocks of 16"):
        described(written(tmp_path, *rows), "timed_trace")


def test_what_a_terminal_shows(capsys: pytest.CaptureFixture[str]) -> None:
    describe_trace(BUILTIN_FOLDER / "traces" / "mooncake-excerpt.jsonl", DescribeFlags())
    shown = capsys.readouterr().out
    assert shown.startswith("mooncake-excerpt.jsonl (mooncake): 200 requests\n")
    assert "45.0% of 4,383,826 prompt tokens" in shown
    describe_trace(BUILTIN_FOLDER / "traces" / "azure-code-2023-excerpt.csv", DescribeFlags())
    assert "prefix" not in capsys.readouterr().out
    describe_trace(BUILTIN_FOLDER / "traces" / "mooncake-excerpt.jsonl", DescribeFlags(json=True))
    assert json.loads(capsys.readouterr().out)["prompt_tokens"]["max"] == 191378


def typed(value: Any) -> Any:
    """As columns can hold it: no object without fields, and AIPerf's spawns all as objects."""
    if isinstance(value, dict):
        spawns = (
            {"spawns": [{"children": [each]} if isinstance(each, str) else each for each in value["spawns"]]} if "spawns" in value else {}
        )
        return {key: typed(each) for key, each in (value | spawns).items() if each != {}}
    return [typed(each) for each in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("form", ROWS)
@pytest.mark.parametrize("how", ["gz", "zst", "parquet"])
def test_every_format_may_be_packed(tmp_path: Path, form: str, how: str) -> None:
    path = written(tmp_path, *map(typed, ROWS[form]))
    plain, told = described(path), described(packed(path, how))
    assert told == msgspec.structs.replace(plain, file=told.file)
