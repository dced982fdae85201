"""A run recorded through the proxy by the command, and the file replayed unchanged; both against the reference server."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bytemlperf_llm.plan.scenario import load
from bytemlperf_llm.workload import Workload
from engines.reference.server import ReferenceServer
from tests.cli.helpers import bmp, run_folder, start
from tests.cli.test_sessions import RAN, SESSIONS
from tests.runs.reading import read_records


def recorded(folder: Path, *words: str) -> tuple[str, list[dict[str, Any]], list[Any], list[Any]]:
    """The command's last line, the rows, and the records of the run that was recorded and of its replay. The first row is the first
    request, which no record has."""

    async def main() -> Any:
        async with ReferenceServer({"ttft_ms": "3", "itl_ms": "1"}) as server:
            proxy = start("trace", "record", "--upstream", server.url, "--listen", "0", "--out", "t.jsonl", *words, cwd=folder)
            assert proxy.stderr is not None
            listening = await asyncio.to_thread(proxy.stderr.readline)
            address = next(word for word in listening.split() if word.startswith("http://127.0.0.1:"))
            bench = ("serve-bench", "--engine", "openai", "--tokenizer", "words")
            run = ("--scenario", "talk.yaml", "--num-warmups", "0", "--base-url", address)
            first = await asyncio.to_thread(bmp, *bench, *run, cwd=folder)
            proxy.send_signal(signal.SIGINT)
            told, error = await asyncio.to_thread(proxy.communicate, timeout=60)
            assert proxy.returncode == 0, error
            flags = told.strip().partition("replay: ")[2].split()
            again = await asyncio.to_thread(bmp, *bench, "--base-url", server.url, "--scenario", "smoke", *flags, cwd=folder)
            return told, first, again

    (folder / "talk.yaml").write_text(SESSIONS, encoding="utf-8")
    told, first, again = asyncio.run(main())
    assert first.returncode in RAN, first.stderr
    assert again.returncode in RAN, again.stderr
    rows = [json.loads(line) for line in (folder / "t.jsonl").read_bytes().splitlines()]
    runs = [sorted(read_records(run_folder(ended.stdout, folder)), key=lambda record: record.index) for ended in (first, again)]
    return told, rows, runs[0], runs[1]


def lengths(records: list[Any]) -> list[tuple[int, int]]:
    return sorted((record.prompt_tokens, record.output_tokens) for record in records if record.outcome == "ok")


@pytest.mark.slow
def test_a_recorded_run_is_replayed_with_its_lengths_sessions_and_times(tmp_path: Path) -> None:
    told, rows, first, again = recorded(tmp_path, "--tokenizer", "words", "--trace-block-size", "4")
    assert told.count("\n") == 1
    assert told.startswith(f"{len(rows)} requests of 13 sessions recorded; ")
    assert "estimated" not in told
    told_lengths = [(row["input_length"], row["output_length"]) for row in rows]
    assert lengths(first) == sorted(told_lengths[1:])
    assert lengths(again) == sorted(told_lengths)
    assert {record.session: record.session_turns for record in again} == Counter(row["session_id"] for row in rows)
    assert len({tuple(row["hash_ids"][:1]) for row in rows}) < len(rows), "the system prompt that all have is one block"
    at_their_times = load("trace-mooncake").override(
        {"prompts.trace": {"format": "mooncake", "file": str(tmp_path / "t.jsonl"), "block_tokens": 4}, "prompts.tokenizer": "words"}
    )
    workload = Workload(at_their_times, 0)
    assert [round(row["timestamp"] * 1e6) for row in rows] == [workload.trace_offset_ns(index) for index in range(len(rows))]
    assert [request.max_tokens for request in workload] == [row["output_length"] for row in rows]


@pytest.mark.slow
def test_kept_texts_are_replayed_as_sessions(tmp_path: Path) -> None:
    _, rows, first, again = recorded(tmp_path, "--keep-text")
    alone = rows[0]["session_id"]
    assert {record.session for record in again} == {row["session_id"] for row in rows}
    again = [record for record in again if record.session != alone]
    assert lengths(again) == lengths(first)
    assert sorted(record.session_turns for record in again) == sorted(record.session_turns for record in first)


def test_a_port_or_file_that_is_taken_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("kept")
    taken = bmp("trace", "record", "--out", "t.jsonl", cwd=tmp_path)
    assert (taken.returncode, taken.stderr) == (2, "error: t.jsonl exists; give another file with --out\n")
    assert (tmp_path / "t.jsonl").read_text() == "kept"

    async def main() -> Any:
        async with ReferenceServer() as server:
            words = ("trace", "record", "--upstream", server.url, "--listen", str(server.port), "--out", "u.jsonl")
            return await asyncio.to_thread(bmp, *words, cwd=tmp_path)

    busy = asyncio.run(main())
    assert (busy.returncode, busy.stdout, busy.stderr.count("\n")) == (2, "", 1)
    assert "can't listen on 127.0.0.1:" in busy.stderr
    assert not (tmp_path / "u.jsonl").exists()


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server whose answer has a beginning."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
    writer.write(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')
    await reader.read(-1)
    writer.close()


def test_a_second_interrupt_ends_a_recording_whose_answers_do_not(tmp_path: Path) -> None:
    async def main() -> Any:
        async with await asyncio.start_server(endless, "127.0.0.1", 0) as listener:
            upstream = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
            proxy = start("trace", "record", "--upstream", upstream, "--listen", "0", "--out", "t.jsonl", cwd=tmp_path)
            assert proxy.stderr is not None
            listening = await asyncio.to_thread(proxy.stderr.readline)
            url = next(word for word in listening.split() if word.startswith("http://127.0.0.1:"))
            body = {"messages": [{"role": "user", "content": "x"}]}
            async with aiohttp.ClientSession() as session, session.post(f"{url}/v1/chat/completions", json=body) as answer:
                await answer.content.readany()
                proxy.send_signal(signal.SIGINT)
                assert "once more" in await asyncio.to_thread(proxy.stderr.readline)
                proxy.send_signal(signal.SIGINT)
                told, _ = await asyncio.to_thread(proxy.communicate, timeout=60)
            return proxy.returncode, told

    status, told = asyncio.run(main())
    assert status == 130
    assert told.startswith("1 request of 1 session recorded; 1 cut short; blocks estimated by words")
    assert (tmp_path / "t.jsonl").read_bytes().count(b"\n") == 1


@pytest.mark.parametrize("upstream", ["ftp://x", "http://user:secret@x", "http://x/v1?api_key=secret", "http://x/v1?api-version=1"])
def test_an_upstream_that_cant_be_used_is_one_line_without_its_secret(tmp_path: Path, upstream: str) -> None:
    refused = bmp("trace", "record", "--upstream", upstream, cwd=tmp_path)
    assert (refused.returncode, refused.stderr.count("\n"), list(tmp_path.iterdir())) == (2, 1, [])
    assert "--upstream" in refused.stderr
    assert "secret" not in refused.stderr
