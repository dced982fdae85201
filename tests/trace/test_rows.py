"""Rows of a recorded trace: blocks, sessions, order."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest

from bytemlperf_llm.trace.rows import Blocks, Row, RowFile, Sessions
from bytemlperf_llm.workload.sessions.conversations import FileMessage
from tests.virtual import MS


def test_equal_blocks_behind_equal_blocks_have_one_id() -> None:
    blocks = Blocks(4)
    assert blocks.ids(list(range(10)), 10) == [0, 1, 2]
    assert blocks.ids([*range(8), 99], 9) == [0, 1, 3]
    assert blocks.ids([7, *range(1, 8)], 8) == [4, 5], "the same block behind another is another"
    assert blocks.ids(list(range(10)), 10) == [0, 1, 2]


@pytest.mark.parametrize("tokens", [1, 4, 5, 8, 40])
def test_a_prompt_has_as_many_ids_as_its_length_has_blocks(tokens: int) -> None:
    """Whatever the words are, the reader of the trace wants ids for the server's length."""
    blocks = Blocks(4)
    ids = blocks.ids(["a", "b", "c", "d", "e", "f"], tokens, 0.5)
    assert len(ids) == -(-tokens // 4)
    assert len(set(ids)) == len(ids)
    assert blocks.ids(["a", "b", "c", "d", "e", "f"], tokens, 0.5) == ids
    assert blocks.ids(["a", "b", "c", "d", "e", "x"], tokens, 0.5)[-1] != ids[-1], "what is behind the last block is part of it"


def test_words_taken_for_a_token_keep_shared_prefixes() -> None:
    blocks = Blocks(8)
    first, second = (blocks.ids([*range(12), tail], 20, 0.75) for tail in (1, 2))
    assert [one == other for one, other in zip(first, second, strict=True)] == [True, True, False]


def chat(*texts: str) -> list[FileMessage]:
    return [FileMessage(("user", "assistant")[place % 2], text) for place, text in enumerate(texts)]


def test_a_chat_that_begins_with_another_and_an_answer_is_its_session() -> None:
    sessions = Sessions()
    told = [sessions.of({}, chat(*texts)) for texts in (["a"], ["b"], ["a", "yes", "c"], ["a", "yes", "c", "no", "d"], ["a", "other", "e"])]
    assert told == ["session-1", "session-2", "session-1", "session-1", "session-1"]
    assert sessions.of({}, chat("a", "yes", "c2")) == "session-1"
    system = [FileMessage("system", "s")]
    assert sessions.of({}, [*system, FileMessage("user", "x")]) != sessions.of({}, [*system, FileMessage("user", "y")])


def test_a_header_names_a_session_and_is_not_written() -> None:
    sessions = Sessions()
    told = [
        sessions.of(headers, chat("same")) for headers in ({"x-session-id": "secret"}, {"x-session-id": "b"}, {"x-session-id": "secret"})
    ]
    assert told == ["session-1", "session-2", "session-1"]
    assert sessions.of({"x-correlation-id": "b"}, ()) == "session-2"
    assert len(sessions) == 2


def test_a_delay_runs_from_the_end_of_the_sessions_last_answer() -> None:
    sessions = Sessions()
    assert sessions.delay_ms("session-1", 5 * MS) is None
    sessions.ended("session-1", 7 * MS)
    assert sessions.delay_ms("session-1", 9 * MS + 1_400) == 2.001
    assert sessions.delay_ms("session-1", 6 * MS) == 0


def row(at: float) -> Row:
    return Row(timestamp=at, session_id="session-1", input_length=1, output_length=1, hash_ids=[0])


def test_rows_stand_in_the_order_of_arrival(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    rows = RowFile(path.open("xb"))
    rows.put(1, row(1))
    assert path.read_bytes() == b""
    rows.put(0, row(0))
    assert path.read_bytes().count(b"\n") == 2
    rows.put(2, None)
    rows.put(4, row(4))
    rows.close()
    assert [msgspec.json.decode(line)["timestamp"] for line in path.read_bytes().splitlines()] == [0, 1, 4]
    assert rows.written == 3


def test_a_disk_that_is_full_is_said() -> None:
    class Full(io.BytesIO):
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    rows = RowFile(Full())
    rows.put(0, row(0))
    rows.put(1, row(1))
    assert (rows.failure, rows.written) == ("No space left on device", 0)
