"""Prompts that are drawn with replacement and salted: MLPerf Endpoints' order, by its published seed."""

from __future__ import annotations

import pytest

from bytemlperf.errors import UserError
from bytemlperf_llm.plan.scenario import Prompts, load
from bytemlperf_llm.workload import Workload
from bytemlperf_llm.workload.prefixes import PrefixIndex
from bytemlperf_llm.workload.prompts import DrawnPrompts, Prompt, PromptSet, read
from bytemlperf_llm.workload.schedule import Schedule, Share
from engines.contract import Message, Request

SEED_A = 586478644936801402
"""sample_index_rng_seed of the set A, whose first draws from ten are these."""
DRAWS = [6, 3, 2, 0, 0, 5, 7, 6, 6, 5, 8, 8]


def prompt_set(prompts: list[Prompt]) -> PromptSet:
    return PromptSet(prompts, 0, PrefixIndex(Prompts(files=("prompts.jsonl",))))


def text_of(request: Request) -> str:
    return (request.messages or ())[0].content


def test_draws_are_those_of_the_reference_client() -> None:
    source = DrawnPrompts(prompt_set([Prompt(prompt=f"no. {number}") for number in range(12)]), 10, SEED_A)
    texts = [source.at(index).prompt or "" for index in range(12)]
    assert [int(text.split()[-1]) for text in texts] == DRAWS
    assert len({text.split()[0] for text in texts}) == 12
    assert source.at(3).prompt == texts[3]


def test_the_salt_stands_between_the_system_prompt_and_the_users_text() -> None:
    messages = (Message(role="system", content="Be brief."), Message(role="user", content="Hello"))
    (system, user) = DrawnPrompts(prompt_set([Prompt(messages=messages)]), 1, 7).at(5).messages or ()
    assert system == messages[0]
    salt, text = user.content.split()
    assert text == "Hello"
    assert (salt[0], len(bytes.fromhex(salt[1:-1])), salt[-1]) == ("[", 8, "]")


def test_every_number_of_workers_sends_the_same() -> None:
    scenario = load("chat").override({"prompts.drawn": 20, "num_requests": 40, "arrival.rate": 5.0, "duration_s": None})
    schedule = Schedule(scenario, SEED_A)
    whole = [planned.request for planned in schedule.planned()]
    parts = [planned.request for worker in range(3) for planned in schedule.planned(Share(worker, 3))]
    assert sorted(parts, key=lambda request: request.index) == whole
    files = [prompt for file in scenario.prompts.files or () for prompt in read(scenario.folder / file)]
    firsts = {(prompt.messages or ())[0].content for prompt in files[:20]}
    assert {text_of(request).partition("] ")[2] or text_of(request) for request in whole} <= firsts


def test_made_up_prompts_are_a_data_set_then() -> None:
    workload = Workload(
        load("chat").override({"prompts": {"synthetic": {"words": {"distribution": "constant", "value": 5}}, "drawn": 3}}), 1
    )
    assert workload.prompt_count == 3
    assert len({text_of(workload.request(index)).partition("] ")[2] for index in range(30)}) == 3


def test_more_than_there_are_is_said() -> None:
    with pytest.raises(UserError, match="300 prompts to draw from, and the files hold 248"):
        Workload(load("chat").override({"prompts.drawn": 300}), 1)
