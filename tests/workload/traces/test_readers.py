"""Every trace format: its quirks are read, and a bad line is named with file, line and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bytemlperf.errors import UserError
from bytemlperf_llm.plan.scenario import Trace
from bytemlperf_llm.workload.traces import FORMATS, read_rows
from bytemlperf_llm.workload.traces.rows import TraceRow

SECOND = 1_000_000_000


def rows_of(folder: Path, form: str, content: str | bytes, **options: Any) -> list[TraceRow]:
    path = folder / "trace"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_rows(path, Trace(format=form, file="trace", **options)))  # type: ignore[arg-type]


def error_of(folder: Path, form: str, content: str | bytes) -> str:
    with pytest.raises(UserError) as caught:
        rows_of(folder, form, content)
    assert "\n" not in str(caught.value)
    assert caught.value.fix
    return caught.value.cause.replace(str(folder / "trace"), "F")


def brief(row: TraceRow) -> tuple[Any, ...]:
    return (row.line, row.at_ns, row.prompt_tokens, row.output_tokens, row.hash_ids)


def test_mooncake(tmp_path):
    lines = (
        '{"timestamp": 0, "input_length": 700, "output_length": 6, "hash_ids": [0, 1]}\n'
        "\n"
        '{"timestamp": 27482, "input_length": 500, "output_length": 490, "hash_ids": [46]}\n'
        '{"timestamp": 30535.25, "input_length": 3, "output_length": 1, "hash_ids": [], "later": "field"}'
    )
    assert [brief(row) for row in rows_of(tmp_path, "mooncake", lines)] == [
        (1, 0, 700, 6, (0, 1)),
        (3, 27_482_000_000, 500, 490, (46,)),
        (4, 30_535_250_000, 3, 1, ()),
    ]


def test_azure_with_seven_decimals_and_windows_lines(tmp_path):
    lines = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:15:46.6805900,374,44\r\n2023-11-16 18:15:50.9951690,396,109"
    first, second = rows_of(tmp_path, "azure", lines)
    assert brief(first)[2:] == (374, 44, ())
    assert (first.line, second.line) == (2, 3)
    assert second.at_ns - first.at_ns == 4_314_579_000
    assert first.at_ns % SECOND == 680_590_000
    assert first.at_ns // SECOND == 1_700_158_546


@pytest.mark.parametrize(
    "text",
    [
        "2024-05-10 00:00:00.009930+00:00",
        "2024-05-10T02:00:00.00993+0200",
        "2024-05-09 19:00:00.0099300-05:00",
        "2024-05-10 00:00:00.009930Z",
    ],
)
def test_azure_with_offsets_and_images(tmp_path, text):
    (row,) = rows_of(tmp_path, "azure", f"\ufeffTIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n{text},3,2162,5\n")
    assert brief(row) == (2, 1_715_299_200 * SECOND + 9_930_000, 2162, 5, ())


def test_burstgpt_with_and_without_the_session_columns(tmp_path):
    new = (
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,s-1,1.5,GPT-4,472,18,490,API log\n"
    )
    old = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5.000000001,ChatGPT,472,18.0,490,Conversation log\n"
    (with_session,) = rows_of(tmp_path, "burstgpt", new)
    (without,) = rows_of(tmp_path, "burstgpt", old)
    assert (brief(with_session), with_session.session) == ((2, 5 * SECOND, 472, 18, ()), "s-1")
    assert (brief(without), without.session) == ((2, 5 * SECOND + 1, 472, 18, ()), None)


def test_bailian(tmp_path):
    lines = (
        '{"chat_id": 159, "parent_chat_id": -1, "timestamp": 61.114, "input_length": 17, "output_length": 16, "type": "text", "turn": 1, '
        '"hash_ids": [1089, 1090]}\n'
    )
    assert [brief(row) for row in rows_of(tmp_path, "bailian", lines)] == [(1, 61_114_000_000, 17, 16, (1089, 1090))]
    assert FORMATS["bailian"].block_tokens == 16


def test_timed_trace_has_its_time_unit_as_an_option(tmp_path):
    line = '{"timestamp": 1.5, "input_length": 16, "output_length": 2, "hash_ids": [7]}'
    assert rows_of(tmp_path, "timed_trace", line)[0].at_ns == 1_500_000_000
    assert rows_of(tmp_path, "timed_trace", line, timestamp_unit_s=0.001)[0].at_ns == 1_500_000


def test_custom(tmp_path):
    lines = (
        '{"prompt": "hi", "output_tokens": 7}\n'
        '{"prompt": "there"}\n'
        '{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}'
    )
    first, second, third = rows_of(tmp_path, "custom", lines)
    assert [message.content for message in first.messages] == ["hi"]
    assert (first.output_tokens, second.output_tokens, first.at_ns) == (7, None, None)
    assert [message.role for message in third.messages] == ["system", "user"]


def conversation(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"id": "x", "conversations": [{"from": who, "value": text} for who, text in turns]}


def test_sharegpt_takes_the_first_question_and_the_length_of_its_answer(tmp_path):
    conversations = [
        conversation(("human", 'a ["}] question\n'), ("gpt", "an answer"), ("human", "more"), ("gpt", "and more")),
        conversation(("gpt", "I begin"), ("human", "then I"), ("gpt", "and I")),
        conversation(("human", "never answered")),
    ]
    for text in (json.dumps(conversations), json.dumps(conversations, indent=2), "\ufeff \r\n" + json.dumps(conversations)):
        rows = rows_of(tmp_path, "sharegpt", text)
        assert [row.messages and row.messages[0].content for row in rows] == ['a ["}] question\n', "then I", None]
        assert [row.answer for row in rows] == ["an answer", "and I", None]
    assert rows_of(tmp_path, "sharegpt", "[]") == []


def test_sharegpt_is_read_in_pieces_and_lines_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("bytemlperf_llm.workload.json_values.READ_CHARS", 3)
    text = "[\n" + ",\n".join(json.dumps(conversation(("human", f"q{i}" * i + "x"), ("gpt", "a"))) for i in range(30)) + "\n]"
    rows = rows_of(tmp_path, "sharegpt", text)
    assert [row.line for row in rows] == list(range(2, 32))
    assert rows[5].messages[0].content == "q5q5q5q5q5x"


MOONCAKE = '{"timestamp": 0, "input_length": 7, "output_length": 6, "hash_ids": [0]}\n'
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
BURST = "Timestamp,Request tokens,Response tokens\n"
BAD = [
    ("mooncake", MOONCAKE + "{", "F:2: line: not JSON"),
    ("mooncake", MOONCAKE + '{"timestamp": 0, "input_length": 7.5, "output_length": 6}', "F:2: input_length: Expected `int`"),
    ("mooncake", MOONCAKE + '{"timestamp": 0, "input_length": -7, "output_length": 6}', "F:2: input_length: Expected `int` >= 0"),
    ("mooncake", MOONCAKE + '{"timestamp": 0, "input_length": 7}', "F:2: output_length: Object missing required field"),
    ("mooncake", '{"timestamp": 0, "input_length": 99999999, "output_length": 6}', "F:1: input_length: Expected `int` <="),
    ("mooncake", '{"timestamp": -1, "input_length": 9, "output_length": 6}', "F:1: timestamp: '-1' is not a time"),
    ("mooncake", '{"timestamp": 0, "input_length": 9, "output_length": 6, "hash_ids": [1, "a"]}', "F:1: hash_ids[1]: Expected `int`"),
    ("mooncake", b'{"timestamp": \xff}', "F:1: line: not UTF-8 text"),
    ("mooncake", MOONCAKE.replace("0,", "1e999999,", 1), "F:1: timestamp: '1E+999999' is not a time"),
    ("mooncake", MOONCAKE.replace("0,", "NaN,", 1), "F:1: timestamp: 'NaN' is not a time"),
    ("mooncake", MOONCAKE.replace("0,", "null,", 1), "F:1: timestamp: Expected"),
    ("custom", '{"prompt": "x", "more": ' + "[" * 100_000 + "]" * 100_000 + "}", "F:1: line: nested too deep"),
    ("custom", '{"prompt": "ok"}\n{"prompt": "\\ud83d"}', "F:2: line: half of a surrogate pair"),
    ("bailian", "[1]", "F:1: line: Expected `object`, got `array`"),
    ("timed_trace", '{"timestamp": null, "input_length": 1, "output_length": 1}', "F:1: timestamp: Expected"),
    ("azure", "TIMESTAMP,ContextTokens\n", "F:1: GeneratedTokens: no such column in the header"),
    ("azure", "", "F:1: TIMESTAMP: no such column in the header"),
    ("azure", AZURE + "2023-11-16 18:15:46.6805900,374\n", "F:2: line: 2 cells where the header has 3 columns"),
    ("azure", AZURE + "2023-11-16 18:15:46,374,44\n2023-13-16 18:15:46,374,44\n", "F:3: TIMESTAMP: '2023-13-16 18:15:46' is not a time"),
    ("azure", AZURE + "yesterday,374,44\n", "F:2: TIMESTAMP: 'yesterday' is not a time"),
    ("azure", AZURE + "2023-11-16 18:15:46,many,44\n", "F:2: ContextTokens: 'many' is not a number of tokens"),
    ("azure", AZURE + "2023-11-16 18:15:46,٣,44\n", "F:2: ContextTokens: '٣' is not a number of tokens"),
    ("azure", AZURE + "2023-11-16 18:15:46,3,-44\n", "F:2: GeneratedTokens: '-44' is not a number of tokens"),
    ("azure", AZURE.encode() + b"2023-11-16 18:15:46,\xff,44\n", "F:2: line: not UTF-8 text"),
    ("azure", AZURE + '2023-11-16 18:15:46,"3"4,44\n', "F:2: line: not CSV"),
    ("burstgpt", BURST + "soon,1,1\n", "F:2: Timestamp: 'soon' is not a time in seconds"),
    ("burstgpt", BURST + "nan,1,1\n", "F:2: Timestamp: 'nan' is not a time in seconds"),
    ("burstgpt", BURST + "1,1,1.5\n", "F:2: Response tokens: '1.5' is not a number of tokens"),
    ("custom", '{"text": "x"}', "F:1: prompt: exactly one of prompt and messages is needed, and the line has 'text'"),
    ("custom", '{"prompt": 3}', "F:1: prompt: Expected `str | null`, got `int`"),
    ("custom", '{"prompt": "a", "output_tokens": -3}', "F:1: output_tokens: Expected `int` >= 0"),
    ("custom", '{"messages": [{"role": "boss", "content": "x"}]}', "F:1: messages[0].role: Invalid enum value 'boss'"),
    ("sharegpt", "id,text", "F:1: conversation 1: not JSON: Expecting value, near 'id,text'"),
    (
        "sharegpt",
        '[{"conversations": []},\n{"conversations": [}]',
        "F:2: conversation 2: not JSON: Expecting value, near '{\"conversations\": [}]'",
    ),
    ("sharegpt", "[" * 100_000, "F:1: conversation 1: nested too deep"),
    ("sharegpt", '[{"conversations": []}\n', "F:2: file: the list does not end, after 1 conversations"),
]


@pytest.mark.parametrize(("form", "content", "cause"), BAD)
def test_a_bad_line_is_named(tmp_path, form, content, cause):
    assert error_of(tmp_path, form, content).startswith(cause)


@pytest.mark.parametrize("form", list(FORMATS))
def test_a_missing_file_is_named(tmp_path, form):
    with pytest.raises(UserError, match=r"none can't be read: No such file"):
        next(read_rows(tmp_path / "none", Trace(format=form, file="none")))


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("bytemlperf_llm.workload.data_files.MAX_LINE_BYTES", 1 << 20)
    assert error_of(tmp_path, "custom", b'{"prompt": "' + b"x" * (1 << 20)).startswith("F:1: line: longer than 1 MiB")
