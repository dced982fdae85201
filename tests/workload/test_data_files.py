"""Files as people have them: what can be read is read, and what can't is called what it is."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import socket
from pathlib import Path

import msgspec
import pytest

from bytemlperf.errors import UserError
from bytemlperf_llm.plan.scenario import Trace
from bytemlperf_llm.workload import Workload
from bytemlperf_llm.workload.prompts import read
from bytemlperf_llm.workload.traces import read_rows
from tests.workload.test_trace_prompts import traced

LINE = b'{"prompt": "one two", "output_tokens": 8}\n'
TABLE = b"TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00,60,8\n2024-05-10 00:00:01,61,9\n"
NOT_TEXT = {
    "compressed with gzip twice": gzip.compress(gzip.compress(LINE)),
    "compressed with bzip2": bz2.compress(LINE),
    "compressed with xz": lzma.compress(LINE),
    "damaged: Compressed file ended": gzip.compress(LINE)[:-9],
    "a ZIP archive": b"PK\x03\x04" + LINE,
    "damaged: parquet": b"PAR1" + LINE,
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "a Python pickle": b"\x80\x04\x95" + LINE,
    "UTF-16 text": LINE.decode().encode("utf-16"),
    "binary, or UTF-16": LINE.decode().encode("utf-16-le"),
    "UTF-32 text": LINE.decode().encode("utf-32"),
    "a web page": b"\xef\xbb\xbf\n<!DOCTYPE html><html><body>404</body></html>",
}


def rows(path: Path, form: str):
    return list(read_rows(path, Trace(format=form, file=path.name)))  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["custom", "sharegpt", "azure", "mooncake"])
@pytest.mark.parametrize("what", NOT_TEXT)
def test_what_is_not_text_is_called_what_it_is(tmp_path, form, what):
    path = tmp_path / "data"
    path.write_bytes(NOT_TEXT[what])
    with pytest.raises(UserError, match=f"data is {what}"):
        rows(path, form)


@pytest.mark.parametrize("form", ["custom", "sharegpt", "azure"])
def test_only_a_regular_file_is_opened(tmp_path, form):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for path, what in (
            (tmp_path, "a folder"),
            (tmp_path / "pipe", "a pipe"),
            (Path("/dev/zero"), "a device"),
            (tmp_path / "socket", "a socket"),
        ):
            with pytest.raises(UserError, match=f"is {what}.*give a regular file"):
                rows(path, form)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_lines_end_in_any_way_and_blank_ones_are_passed_over(tmp_path, end, mark):
    path = tmp_path / "data"
    path.write_bytes(mark + b" \n".join([LINE, LINE + LINE, b""]).replace(b"\n", end))
    assert [row.output_tokens for row in rows(path, "custom")] == [8, 8, 8]
    assert [prompt.output_tokens for prompt in read(path)] == [8, 8, 8]
    path.write_bytes(mark + (TABLE + b"\n,,\n  \n").replace(b"\n", end))
    assert [row.prompt_tokens for row in rows(path, "azure")] == [60, 61]


def test_a_whole_number_may_be_written_with_a_point_or_in_quotes(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(
        b'{"prompt": "x", "output_tokens": 8.0}\n{"prompt": "x", "output_tokens": "8"}\n{"prompt": "x", "output_tokens": null}\n'
    )
    assert [row.output_tokens for row in rows(path, "custom")] == [8, 8, None] == [prompt.output_tokens for prompt in read(path)]
    path.write_bytes(b'{"timestamp": "7", "input_length": 60.0, "output_length": 8.0, "hash_ids": null}')
    assert rows(path, "mooncake")[0].prompt_tokens == 60
    path.write_bytes(TABLE.replace(b",60,8\n", b',"60.0", 8.0,\n'))
    assert rows(path, "azure")[0].output_tokens == 8


def test_what_is_not_strict_json_may_stand_where_it_is_not_used(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(b'{"prompt": "x", "score": NaN, "other": [-Infinity]}')
    assert rows(path, "custom")[0].messages[0].content == "x" == read(path)[0].prompt


def test_a_prompt_file_is_held_to_the_same(tmp_path):
    path = tmp_path / "data"
    for content, said in (
        (bz2.compress(LINE), "compressed with bzip2"),
        (LINE + b'{"prompt": "\\udc00"}', "data:2: line: half of a surrogate pair"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=said):
            read(path)


# -- conversations ---------------------------------------------------------------------------


def turns(*texts, **more):
    return {"conversations": [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)], **more}


ODD = [
    (turns("q", None, id="qx7_0"), "conversation 3 (id 'qx7_0'): turn 2: value: Expected `str`, got `null`"),
    ({"id": 5, "conversations": [{"from": "human"}]}, "conversation 3 (id '5'): turn 1: value: Object missing required field `value`"),
    (turns("half \ud83d of a pair", "a"), "conversation 3: not UTF-8 text, or half of a surrogate pair"),
    ({"id": "m", "messages": []}, "conversation 3 (id 'm'): conversations: Object missing required field `conversations`"),
    ("text", "conversation 3: Expected `object`, got `str`"),
    (None, "conversation 3: Expected `object`, got `null`"),
    ({"id": "\x1b[31mred", "conversations": 4}, "conversation 3 (id ' [31mred'): conversations: Expected `array`, got `int`"),
]


@pytest.mark.parametrize(("odd", "said"), ODD)
def test_an_odd_conversation_is_left_out_counted_and_named(tmp_path, odd, said):
    conversations = [turns("q one", "a"), turns("q two", "b"), odd, turns("q three", "c"), odd]
    workload = Workload(traced(tmp_path, [json.dumps(conversations)], "sharegpt"), 0)
    assert [request.messages[-1].content for request in workload] == ["q one", "q two", "q three"]
    report = workload.trace_report
    assert (report.requests, report.unusable, report.first_unusable) == (3, 2, said)
    assert any(sentence.startswith("2 of 5 trace rows left out: wrong format") and said in sentence for sentence in report.sentences())


def test_one_conversation_in_another_encoding_is_left_out(tmp_path):
    path = tmp_path / "data"
    texts = json.dumps([turns("q one", "a"), turns("caf\xe9", "b", id="old"), turns("q three", "tab\there")], ensure_ascii=False)
    path.write_bytes(texts.replace("\\t", "\t").encode("latin-1"))
    assert [row.unusable for row in rows(path, "sharegpt")] == [
        "",
        "conversation 2 (id 'old'): not UTF-8 text, or half of a surrogate pair",
        "",
    ]


def test_a_conversation_that_is_torn_is_named_by_number_and_id(tmp_path):
    path = tmp_path / "data"
    path.write_text('[{"id": "a", "conversations": []}, {"id": "qx7_0", "conversations": [{"from" "human"}]}]')
    with pytest.raises(UserError, match=r"data:1: conversation 2 \(id 'qx7_0'\): not JSON: Expecting ':' delimiter, near"):
        rows(path, "sharegpt")


def test_turns_behind_the_first_pair_are_not_looked_at(tmp_path):
    path = tmp_path / "data"
    path.write_text(json.dumps([turns("q", "a", None, 4)]))
    assert [row.unusable for row in rows(path, "sharegpt")] == [""]


def test_a_file_of_nothing_but_odd_conversations_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no request: conversation 1: conversations: Object missing required field `conversations`"):
        Workload(traced(tmp_path, [json.dumps([{"messages": []}] * 3)], "sharegpt"), 0)


@pytest.mark.parametrize("form", ["custom", "sharegpt", "azure"])
def test_a_file_that_fails_while_it_is_read_is_one_line(form):
    with pytest.raises(UserError, match=r"/proc/self/mem can't be read: Input/output error"):
        rows(Path("/proc/self/mem"), form)


def packed(path: Path, how: str) -> Path:
    data = path.read_bytes()
    out = path.with_name(f"{path.name}.{how}")
    match how:
        case "gz":
            out.write_bytes(gzip.compress(data[:9]) + gzip.compress(data[9:]))
        case "zst":
            out.write_bytes(pytest.importorskip("backports.zstd").compress(data))
        case _:
            polars = pytest.importorskip("polars")
            frame = polars.read_csv(data) if path.suffix == ".csv" else polars.read_ndjson(data)
            frame.write_parquet(out)
    return out


@pytest.mark.parametrize("how", ["gz", "zst", "parquet"])
def test_packed_files_are_read_as_they_are(tmp_path, how):
    for name, data, form in (("a.jsonl", LINE * 3, "custom"), ("a.csv", TABLE, "azure")):
        path = tmp_path / name
        path.write_bytes(data)
        both = [[msgspec.structs.astuple(row)[1:] for row in rows(each, form)] for each in (path, packed(path, how))]
        assert both[0] == both[1] != []
    path = tmp_path / "s.jsonl"
    told = [{"from": "human", "value": "one"}, {"from": "gpt", "value": "two"}]
    path.write_text(json.dumps({"id": "x", "conversations": told}) + "\n", encoding="utf-8")
    assert [row.answer for row in rows(packed(path, how), "sharegpt")] == ["two"]


def test_damaged_zstandard_is_called_so(tmp_path):
    pytest.importorskip("backports.zstd")
    path = tmp_path / "data"
    path.write_bytes(b"\x28\xb5\x2f\xfd" + LINE)
    with pytest.raises(UserError, match="data is damaged: Unable to decompress Zstandard"):
        rows(path, "custom")


@pytest.mark.parametrize("how", ["gz", "zst", "parquet"])
def test_a_bad_row_of_a_packed_file_is_named(tmp_path, how):
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINE * 600 + LINE.replace(b"8", b"-8") + LINE)
    with pytest.raises(UserError, match=rf"a.jsonl.{how}:601: output_tokens: Expected `int` >= 0"):
        rows(packed(path, how), "custom")


def test_null_in_parquet_is_a_value_that_is_not_there(tmp_path):
    polars = pytest.importorskip("polars")
    path = tmp_path / "a.parquet"
    polars.DataFrame([{"prompt": "a", "messages": None}, {"prompt": None, "messages": [{"role": "user", "content": "b"}]}]).write_parquet(
        path
    )
    assert [row.messages[0].content for row in rows(path, "custom")] == ["a", "b"]
    table = polars.DataFrame({"TIMESTAMP": ["2024-05-10 00:00:00"] * 2, "ContextTokens": [5, None], "GeneratedTokens": [1, 1]})
    table.write_parquet(path)
    with pytest.raises(UserError, match=r"a\.parquet:2: ContextTokens: no such value"):
        rows(path, "azure")


def test_a_packed_file_is_read_as_far_as_it_is_asked_for(tmp_path):
    path = tmp_path / "a.gz"
    noise = b"".join(b'{"prompt": "%s", "output_tokens": 8}\n' % os.urandom(50).hex().encode() for _ in range(20_000))
    path.write_bytes(gzip.compress(LINE + noise)[:-20])
    read_so_far = read_rows(path, Trace(format="custom", file=path.name))
    assert next(read_so_far).messages[0].content == "one two"
    with pytest.raises(UserError, match=r"a\.gz is damaged: Compressed file ended"):
        list(read_so_far)
