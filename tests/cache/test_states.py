"""--cache: what is sent before a run and in it, and what the result says of it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from bytemlperf.compare.comparison import compare_all, gather
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.plan import resolve
from bytemlperf_llm.run.cache import prepare_cache, primers
from bytemlperf_llm.workload.salt import salted, salted_messages
from bytemlperf_llm.workload.schedule import Schedule
from engines.contract import Image, Message, Request
from engines.openai.engine import OpenAIEngine
from tests.cache.servers import Caching
from tests.cli.helpers import bmp, run_folder
from tests.engines.small_server import answering, error, page
from tests.sessions.graphs import BROKEN
from tests.virtual import ScriptedEngine

RAN = (0, 1)  # a machine that is busy with something else may make a run invalid


def scenario_of(**flags: Any) -> Any:
    return resolve(Flags(**({"engine": "openai", "scenario": "chat", "num_prompts": 6, "request_rate": "100"} | flags))).load.scenario


async def engine_at(url: str, **options: str) -> OpenAIEngine:
    engine = OpenAIEngine()
    await engine.start(None, {"base_url": url, **options})
    return engine


@pytest.mark.parametrize("transport", ["lean", "aiohttp"])
@pytest.mark.parametrize("path", ["/reset_prefix_cache", "/flush_cache"])
async def test_cold_by_the_servers_own_call(path: str, transport: str) -> None:
    server = Caching(resets=path)
    async with answering(server.answer) as small:
        engine = await engine_at(small.url, transport=transport)
        server.cached(["a"] * 9)
        scenario, before = await prepare_cache(engine, scenario_of(cache="cold"), 0, lambda _: None)
        await engine.close()
    assert not server.blocks
    assert (before.state, before.how) == ("cold", f"POST {path}")
    assert scenario.prompts.salt is None


async def test_a_reset_that_is_refused_at_first_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.openai.endpoint.READY_POLL_S", 0.0)
    server = Caching(resets="/reset_prefix_cache", refusals=3)
    async with answering(server.answer) as small:
        engine = await engine_at(small.url)
        assert await engine.reset_cache() == "POST /reset_prefix_cache"
        await engine.close()


@pytest.mark.parametrize(
    "answer", [error("404 Not Found", "no"), error("401 Unauthorized", "no"), page("200 OK", {"success": False}), None], ids=str
)
async def test_cold_by_a_salt_where_no_call_answers(answer: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.openai.endpoint.READY_POLL_S", 0.0)
    server = Caching()
    async with answering(lambda asked: server.answer(asked) if asked.method == "GET" else answer) as small:
        engine = await engine_at(small.url)
        scenario, before = await prepare_cache(engine, scenario_of(cache="cold"), 0, lambda _: None)
        await engine.close()
    assert before.how == f"salt [{scenario.prompts.salt}] before every prompt"


async def test_two_cold_runs_have_two_salts_and_one_schedule() -> None:
    plain = scenario_of(cache="cold")
    one, other = [(await prepare_cache(object(), plain, 0, lambda _: None))[0] for _ in range(2)]  # type: ignore[arg-type]
    assert one.prompts.salt != other.prompts.salt
    assert len({Schedule(each, 0).describe().sha256 for each in (plain, one, other)}) == 1
    texts = [Schedule(each, 0).workload().request(3).messages[0].content for each in (plain, one)]  # type: ignore[index]
    assert texts[1] == f"[{one.prompts.salt}] {texts[0]}"


def test_a_salt_is_where_a_prompt_begins_whatever_it_begins_with() -> None:
    messages = (Message(role="system", content="Be brief."), Message(role="user", content="Why?"))
    request = salted(Request(index=0, id="r", max_tokens=1, messages=messages), "01234567")
    assert [message.content for message in request.messages or ()] == ["[01234567] Be brief.", "Why?"]
    assert salted(Request(index=0, id="r", max_tokens=1, prompt="Why?"), "01234567").prompt == "[01234567] Why?"
    (shown,) = salted_messages((Message("user", "What?", images=(Image(8, 8, "a"), "http://x/y.png")),), "01234567")
    assert shown == Message("user", "[01234567] What?", images=(Image(8, 8, "01234567/a"), "http://x/y.png"))


def test_every_turn_of_a_session_begins_with_the_salt() -> None:
    scenario = scenario_of(scenario="chat-multiturn", num_prompts=None, num_sessions=2, request_rate="1").override(
        {"prompts.salt": "0" * 8}
    )
    planned = list(Schedule(scenario, 0).planned())
    assert {request.messages[0].content[:11] for request, _ in planned} == {"[00000000] "}  # type: ignore[index]
    assert all("[0000" not in message.content for request, _ in planned for message in (request.messages or ())[1:])


def test_a_prompt_is_primed_once_and_a_sessions_longest_alone() -> None:
    singles = [request.messages for request in primers(Schedule(scenario_of(num_prompts=300), 0))]
    assert len(singles) == len(set(singles)) == Schedule(scenario_of(), 0).workload().prompt_count
    sessions = Schedule(scenario_of(scenario="chat-multiturn", num_prompts=None, num_sessions=5, request_rate="1"), 0)
    assert [request.turn + 1 for request in primers(sessions)] == [len(each.session.turns) for each in sessions.sessions()]
    live = Schedule(sessions.scenario.override({"prompts.sessions.answers": "live"}), 0)
    assert [request.turn for request in primers(live)] == [0] * 5


def test_a_schedule_without_an_end_is_primed_at_its_beginning() -> None:
    endless = scenario_of(num_prompts=None, request_rate=None, max_concurrency=2, duration_s=60.0)
    assert len(list(primers(Schedule(endless, 0)))) == Schedule(endless, 0).workload().prompt_count


async def test_warm_sends_each_prompt_for_one_token_and_leaves_no_record() -> None:
    server = Caching()
    async with answering(server.answer) as small:
        engine = await engine_at(small.url)
        _, before = await prepare_cache(engine, scenario_of(cache="warm"), 0, lambda _: None)
        await engine.close()
    assert before.how == "6 of 6 prompts sent before"
    assert {asked.body["max_tokens"] for asked in small.seen if asked.method == "POST"} == {1}


async def test_what_fails_of_priming_is_counted() -> None:
    engine = ScriptedEngine([BROKEN])
    _, before = await prepare_cache(engine, scenario_of(cache="warm"), 0, lambda _: None)
    assert before.how == "0 of 6 prompts sent before"


def test_an_unknown_state_is_one_line(tmp_path: Path) -> None:
    ended = bmp("serve-bench", "--cache", "hot", cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "--cache 'hot' is unknown" in ended.stderr


def ran(folder: Path, server: Caching, *words: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """run.json, the summary and what was printed of a run against it."""

    async def main() -> Any:
        async with answering(server.answer) as small:
            command = ("serve-bench", "--engine", "openai", "--base-url", small.url, "--scenario", "chat", "--max-concurrency", "1")
            return await asyncio.to_thread(bmp, *command, "--num-prompts", "12", "--output-len", "3", *words, cwd=folder)

    ended = asyncio.run(main())
    assert ended.returncode in RAN, ended.stderr
    run = run_folder(ended.stdout, folder)
    return json.loads((run / "run.json").read_text()), json.loads((run / "summary.json").read_text()), ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("state", "resets"), [("as-is", ""), ("cold", ""), ("cold", "/flush_cache"), ("warm", "")])
def test_the_state_is_in_the_result_and_in_both_heads(tmp_path: Path, state: str, resets: str) -> None:
    run, _, printed = ran(tmp_path, Caching(resets=resets), "--cache", state)
    assert run["cache"]["state"] == run["config"]["scenario"]["cache"] == state
    assert f"server http://127.0.0.1:{urlsplit(run['config']['engine_options']['base_url']).port} · prefix cache {state}" in printed
    folder = tmp_path / printed.strip().splitlines()[-1]
    assert "prefix cache" in (folder / "report.html").read_text()
    verified = bmp("verify", str(folder), cwd=tmp_path)
    assert verified.returncode == 0, verified.stdout + verified.stderr


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("--tokenizer", "words"), ("--num-warmups", "0")])
@pytest.mark.parametrize("reports", [True, False])
def test_an_earlier_run_is_found_in_a_later_one_and_in_no_other(tmp_path: Path, words: tuple[str, ...], reports: bool) -> None:
    """The server has no template: without a tokenizer 64 tokens of each response could be one. So prompts are long."""
    server, command = Caching(reports=reports), (*words, "--input-len", "300")
    warm = [any("cache was warm" in text for text in ran(tmp_path, server, *command)[1]["warnings"]) for _ in range(2)]
    assert warm == [False, True]
    for state in ("cold", "warm"):
        _, summary, _ = ran(tmp_path, server, *command, "--cache", state)
        assert not any("cache was warm" in text for text in summary["warnings"])
    assert (summary["prefix"]["beyond_share"] or 0) > 0.5


@pytest.mark.slow
def test_a_run_of_prompts_that_come_again_is_no_warm_one(tmp_path: Path) -> None:
    lines = [{"messages": [{"role": "user", "content": f"{number} " + "word " * 60}]} for number in range(6)]
    (tmp_path / "six.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    scenario = "name: six\ndescription: six prompts\nprompts: {files: [six.jsonl]}\noutput_tokens: {distribution: constant, value: 2}\n"
    scenario += "arrival: {process: closed, max_concurrency: 2}\nnum_requests: 30\n"
    (tmp_path / "six.yaml").write_text(scenario, encoding="utf-8")
    _, summary, _ = ran(tmp_path, Caching(), "--scenario", "six.yaml", "--num-prompts", "30")
    assert not any("cache was warm" in text for text in summary["warnings"])
    assert summary["prefix"]["total"]["cached_tokens"] > 0.6 * summary["prefix"]["total"]["prompt_tokens"]


@pytest.mark.slow
def test_a_run_that_goes_on_keeps_its_salt_and_one_that_is_repeated_has_another(tmp_path: Path) -> None:
    server = Caching()

    async def main() -> list[Any]:
        async with answering(server.answer) as small:
            command = ("serve-bench", "--base-url", small.url, "--scenario", "chat", "--max-concurrency", "1", "--output-len", "2")
            first = await asyncio.to_thread(bmp, *command, "--num-prompts", "6", "--cache", "cold", cwd=tmp_path)
            run = str(run_folder(first.stdout, tmp_path))
            more = await asyncio.to_thread(bmp, "resume", run, "--num-prompts", "9", "--base-url", small.url, cwd=tmp_path)
            again = await asyncio.to_thread(bmp, "serve-bench", "--config", run, "--base-url", small.url, cwd=tmp_path)
            return [first, more, again]

    ended = asyncio.run(main())
    assert all(each.returncode in RAN for each in ended), [each.stderr for each in ended]
    folders = [run_folder(each.stdout, tmp_path) for each in ended]
    runs = [json.loads((folder / "run.json").read_text()) for folder in folders]
    assert folders[0] == folders[1]
    salts = [run["config"]["scenario"]["prompts"]["salt"] for run in runs]
    assert salts[0] == salts[1] != salts[2]
    assert runs[1]["schedule_sha256"] == runs[2]["schedule_sha256"]
    firsts = [texts[0][1:9] for texts in server.prompts if texts[0].startswith("[")]
    assert [firsts.count(salt) for salt in (salts[0], salts[2])] == [6 + 3 + 1, 9]  # a resumed run's first request is salted too
    views = gather([folders[0], folders[2]])[0]
    (comparison,) = compare_all(views, views[0])
    assert not any("salt" in row[0] for row in comparison.settings)
