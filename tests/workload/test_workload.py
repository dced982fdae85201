"""The workload: the same requests for the same seed, every prompt once before any comes twice."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from itertools import islice
from pathlib import Path

import pytest

from bytemlperf.arrivals.processes import offsets_ns
from bytemlperf.errors import UserError
from bytemlperf_llm.plan import scenario as scenarios
from bytemlperf_llm.workload import Workload, schedule_line
from engines.contract import Message, Request, Sampling

PINNED = {
    "chat": "84551d307e2008583eef891091d0c796d1e3d01f4e72b731473b869d8e5324b9",
    "code": "37c9ae74fdefe30e15f558395f2870f3ce2ae29c6d490078d5653e68403f9f65",
    "smoke": "b30669e0183f31909c8cbac7e571eaa11cb5f311089b9218c2f7b8b007c49c84",
    "summarize": "c98ec00fe16bb4a83d4df079efa90d7688f7871b5d6e2065481954d85bb29ddb",
}


def written(folder: Path, lines: list[str], prompts: str = "{files: [p.jsonl]}") -> scenarios.Scenario:
    (folder / "p.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "s.yaml").write_text(
        f"name: s\ndescription: d\nprompts: {prompts}\noutput_tokens: {{distribution: uniform, min: 1, max: 50}}\n"
        "arrival: {process: closed, max_concurrency: 2}\nnum_requests: 9\nsampling: {temperature: 0.5, top_k: 3, seed: 4}\n"
    )
    return scenarios.load(str(folder / "s.yaml"))


def text_of(request: Request) -> str:
    return request.prompt if request.messages is None else json.dumps([message.content for message in request.messages])  # type: ignore[return-value]


@pytest.mark.parametrize("name", list(PINNED))
def test_first_thousand_requests_are_the_same_on_every_machine(name: str) -> None:
    workload = Workload(scenarios.load(name), seed=0)
    schedule = hashlib.sha256()
    for request, planned_ns in zip(islice(workload, 1000), offsets_ns("poisson", rate=2.0, seed=0), strict=False):
        schedule.update(schedule_line(request, planned_ns))
    assert schedule.hexdigest() == PINNED[name]


def test_any_order_of_asking_gives_the_same_requests() -> None:
    chat = scenarios.load("chat")
    forward = list(islice(Workload(chat, 3), 2000))
    workload = Workload(chat, 3)
    for index in (1999, 0, 700, 1025, 1024, 247, 248, 1):
        assert workload.request(index) == forward[index]
    assert [request.index for request in forward] == list(range(2000))
    assert len({request.id for request in forward}) == 2000
    assert forward[17].id == "3-00000017"


def test_no_prompt_comes_twice_before_all_were_used() -> None:
    workload = Workload(scenarios.load("chat"), 1)
    count = workload.prompt_count
    assert count is not None
    rounds = [[text_of(workload.request(n * count + i)) for i in range(count)] for n in range(3)]
    assert all(len(set(each)) == count for each in rounds)
    assert rounds[0] != rounds[1] != rounds[2]


def test_it_says_when_prompts_repeat() -> None:
    workload = Workload(scenarios.load("smoke"), 1)
    count = workload.prompt_count
    assert count is not None
    workload.request(count - 1)
    workload.request(count)


def test_warm_up_takes_other_prompts_and_ids() -> None:
    workload = Workload(scenarios.load("chat"), 1)
    measured = [workload.request(index) for index in range(100)]
    aside = [workload.aside(index) for index in range(100)]
    assert {text_of(each) for each in measured}.isdisjoint(text_of(each) for each in aside)
    assert {each.id for each in measured}.isdisjoint(each.id for each in aside)
    assert workload.aside(3, "probe").id == "1-probe-00000003"


def test_seeds_differ() -> None:
    chat = scenarios.load("chat")
    assert [text_of(each) for each in islice(Workload(chat, 1), 5)] != [text_of(each) for each in islice(Workload(chat, 2), 5)]


def test_a_long_run_costs_no_memory() -> None:
    workload = Workload(scenarios.load("chat"), 1)
    workload.request(0)
    tracemalloc.start()
    for request in islice(workload, 20_000):
        assert request.max_tokens
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1_000_000


def test_lines_of_both_forms_and_their_own_length(tmp_path: Path) -> None:
    lines = ['{"prompt": "once", "output_tokens": 77, "id": "x"}', "", '{"messages": [{"role": "user", "content": "hi"}], "lang": "en"}\r']
    workload = Workload(written(tmp_path, lines), 0)
    requests = {each.prompt: each for each in islice(workload, 2)}
    assert requests["once"].max_tokens == 77
    assert requests[None].messages == (Message(role="user", content="hi"),)
    assert requests[None].sampling == Sampling(temperature=0.5, top_k=3, seed=4, ignore_eos=True)


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("{", "line: not JSON"),
        ("[]", "line: Expected `object`, got `array`"),
        ('{"text": "x"}', "exactly one of messages and prompt is needed"),
        ('{"prompt": "x", "messages": []}', "exactly one of messages and prompt is needed"),
        ('{"messages": []}', "the prompt is empty"),
        ('{"prompt": ""}', "the prompt is empty"),
        ('{"messages": [{"role": "boss", "content": "x"}]}', "messages[0].role: Invalid enum value 'boss'"),
        ('{"prompt": "x", "output_tokens": 0}', "output_tokens is 0"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, cause: str) -> None:
    with pytest.raises(UserError) as caught:
        Workload(written(tmp_path, ['{"prompt": "ok"}', line]), 0)
    assert f"p.jsonl:2: {cause}" in caught.value.cause
    assert "\n" not in str(caught.value)


def test_a_prompt_file_that_is_missing_or_empty_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.jsonl can't be read: No such file"):
        Workload(written(tmp_path, [], "{files: [none.jsonl]}"), 0)
    with pytest.raises(UserError, match=r"no prompt in .*p.jsonl"):
        Workload(written(tmp_path, ["", " "]), 0)


def test_invalid_utf8_is_named(tmp_path: Path) -> None:
    scenario = written(tmp_path, [])
    (tmp_path / "p.jsonl").write_bytes(b'{"prompt": "caf\xe9"}')
    with pytest.raises(UserError, match=r"p.jsonl:1: "):
        Workload(scenario, 0)


def test_synthetic_prompts_have_exactly_the_words_asked_for_and_are_all_different(tmp_path: Path) -> None:
    workload = Workload(written(tmp_path, [], "{synthetic: {words: {distribution: uniform, min: 20, max: 30}}}"), 5)
    texts = [text_of(each) for each in islice(workload, 500)] + [text_of(workload.aside(index)) for index in range(100)]
    assert len(set(texts)) == 600
    assert {len(text.split()) for text in texts} == set(range(20, 31))
    assert workload.request(7) == Workload(
        written(tmp_path, [], "{synthetic: {words: {distribution: uniform, min: 20, max: 30}}}"), 5
    ).request(7)
    assert workload.prompt_count is None


def test_schedule_line_covers_what_is_sent_and_when() -> None:
    request = Request(index=3, id="x", max_tokens=9, prompt="a\n\u2028ü")
    assert schedule_line(request, 12) == b'[3,12,9,[0.0, null, null, null, true],"a\\n\\u2028\\u00fc"]\n'
    assert schedule_line(request, None).startswith(b'[3,"-",9,')
    chat = Request(index=3, id="x", max_tokens=9, messages=(Message(role="user", content="a"),))
    others = [
        Request(index=4, id="x", max_tokens=9, messages=chat.messages),
        Request(index=3, id="x", max_tokens=8, messages=chat.messages),
        Request(index=3, id="x", max_tokens=9, messages=(Message(role="system", content="a"),)),
        Request(index=3, id="x", max_tokens=9, messages=(Message(role="user", content="b"),)),
        Request(index=3, id="x", max_tokens=9, messages=chat.messages, sampling=Sampling(temperature=0.1)),
    ]
    assert len({schedule_line(each, 0) for each in [chat, *others]} | {schedule_line(chat, 1)}) == 7
