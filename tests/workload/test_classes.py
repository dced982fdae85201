"""Classes of requests: the draw, what each request is made of, and what a scenario file may say of them."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from bytemlperf.errors import UserError
from bytemlperf_llm.plan import scenario as scenarios
from bytemlperf_llm.plan.flags import Flags
from bytemlperf_llm.plan.plan import resolve
from bytemlperf_llm.plan.scenario import ClassKeys, Scenario
from bytemlperf_llm.workload.classes import BLOCK_DRAWS, ClassSeries
from bytemlperf_llm.workload.schedule import Schedule, Share

WORDS = "{synthetic: {words: {distribution: constant, value: %d}}}"
PLAIN = f"""\
name: mix
description: a test
prompts: {WORDS % 6}
output_tokens: {{distribution: constant, value: 4}}
arrival: {{process: poisson, rate: 100}}
num_requests: 300
"""
MIXED = f"""{PLAIN}classes:
  chat: {{share: 3, priority: -1, headers: {{X-Tenant: a}}, model: adapter}}
  batch: {{share: 1, prompts: {WORDS % 9}, output_tokens: {{distribution: constant, value: 2}}, slo: {{e2e_ms: 900}}}}
"""


OF_SESSIONS = """
prompts: {sessions: {synthetic: {turns: {distribution: constant, value: 2}, words: {distribution: constant, value: 6}}}}"""


def mixed(folder: Path, text: str = MIXED) -> Scenario:
    (folder / "mix.yaml").write_text(text, encoding="utf-8")
    return scenarios.load(str(folder / "mix.yaml"))


def test_classes_are_drawn_by_their_shares_whatever_was_drawn_before() -> None:
    classes = {"a": ClassKeys(share=3), "b": ClassKeys(share=1), "c": ClassKeys(share=4)}
    series = ClassSeries(classes, 7, "class")
    forward = [series.at(index) for index in range(4 * BLOCK_DRAWS)]
    assert [ClassSeries(classes, 7, "class").at(index) for index in (4000, 3, 2049)] == [forward[index] for index in (4000, 3, 2049)]
    counts = Counter(drawn.name for drawn in forward)
    shares = {name: counts[name] / len(forward) for name in classes}
    assert shares == pytest.approx({"a": 0.375, "b": 0.125, "c": 0.5}, abs=0.02)
    assert [drawn.place for drawn in forward] == list(range(len(forward)))  # the same prompts are one deck


def test_a_request_is_of_its_own_class_whoever_makes_it(tmp_path: Path) -> None:
    schedule = Schedule(mixed(tmp_path), 5)
    whole = list(schedule.planned())
    shared = [planned for worker in range(3) for planned in schedule.planned(Share(worker, 3))]
    assert sorted(shared, key=lambda planned: planned.request.index) == whole
    of_class = {planned.request.class_name: planned.request for planned in whole}
    chat, batch = of_class["chat"], of_class["batch"]
    assert [(len(each.messages[0].content.split()), each.max_tokens) for each in (chat, batch)] == [(6, 4), (9, 2)]
    assert (chat.traffic_class.priority, chat.traffic_class.headers, chat.traffic_class.model) == (-1, (("X-Tenant", "a"),), "adapter")
    starts = {planned.request.messages[0].content.split()[:4].__repr__() for planned in whole}
    assert len(starts) == len(whole)  # no prefix in common between classes either


def test_the_schedules_hash_covers_classes(tmp_path: Path) -> None:
    one = mixed(tmp_path)
    hashes = {
        Schedule(scenario, 5).describe().sha256
        for scenario in (one, *(one.override({key: value}) for key, value in (("classes.chat.priority", 0), ("classes.chat.share", 4))))
    }
    assert len(hashes) == 3


def test_classes_without_prompts_of_their_own_share_the_scenarios(tmp_path: Path) -> None:
    plain = mixed(tmp_path, PLAIN)
    classes = plain.override({"classes": {"a": {"share": 1}, "b": {"share": 1, "priority": 5}}})
    texts = [[planned.request.messages for planned in Schedule(scenario, 3).planned()] for scenario in (plain, classes)]
    assert texts[0] == texts[1]


def test_a_trace_begins_again_where_classes_have_other_prompts(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("".join(f'{{"messages": [{{"role": "user", "content": "row {row}"}}]}}\n' for row in range(3)))
    text = MIXED.replace(f"prompts: {WORDS % 9}", "prompts: {trace: {format: custom, file: t.jsonl}}")
    requests = [planned.request for planned in Schedule(mixed(tmp_path, text), 5).planned()]
    rows = [request.messages[0].content for request in requests if request.class_name == "batch"]
    assert len(requests) == 300
    assert rows[:7] == ["row 0", "row 1", "row 2", "row 0", "row 1", "row 2", "row 0"]


def test_a_session_is_of_one_class(tmp_path: Path) -> None:
    scenario = scenarios.load("chat-multiturn").override({"classes": {"a": {"share": 1}, "b": {"share": 1, "priority": 5}}})
    sessions: dict[str | None, set[str | None]] = {}
    for planned in Schedule(scenario, 1).planned():
        sessions.setdefault(planned.request.session, set()).add(planned.request.class_name)
    assert len(sessions) == 32
    assert all(len(names) == 1 for names in sessions.values())
    assert set().union(*sessions.values()) == {"a", "b"}


SESSIONS = f"""\
name: mix
description: a test
prompts: {{sessions: {{synthetic: {{turns: {{distribution: uniform, min: 2, max: 4}}, words: {{distribution: constant, value: 6}}}}}}}}
output_tokens: {{distribution: constant, value: 4}}
classes:
  chat: {{share: 2}}
  batch: {{share: 1, prompts: {WORDS % 9}, output_tokens: {{distribution: constant, value: 2}}}}
arrival: {{process: closed, max_concurrency: 4}}
num_sessions: 60
"""


def test_single_requests_come_between_sessions(tmp_path: Path) -> None:
    scenario = mixed(tmp_path, SESSIONS)
    schedule = Schedule(scenario, 5)
    whole = list(schedule.planned())
    shared = [planned for worker in range(3) for planned in schedule.planned(Share(worker, 3))]
    assert sorted(shared, key=lambda planned: planned.request.index) == whole
    turns = Counter((planned.request.class_name, planned.request.session) for planned in whole)
    assert len(turns) == 60
    assert {count for (name, _), count in turns.items() if name == "batch"} == {1}
    assert {count for (name, _), count in turns.items() if name == "chat"} == {2, 3, 4}
    batch = next(planned.request for planned in whole if planned.request.class_name == "batch")
    assert (batch.session, batch.max_tokens, len(batch.messages[0].content.split())) == ("batch/0", 2, 9)
    chats = [planned.request.messages for planned in whole if planned.request.class_name == "chat"]
    alone = (planned.request.messages for planned in Schedule(scenario.override({"classes": {}}), 5).planned())
    assert chats == list(islice(alone, len(chats)))


def test_reuse_of_single_prompts_between_sessions_is_known(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "one and the same, always and always"}\n', encoding="utf-8")
    scenario = mixed(tmp_path, SESSIONS.replace(f"prompts: {WORDS % 9}", "prompts: {files: [p.jsonl]}"))
    sessions = Schedule(scenario, 5).workload().sessions
    assert sessions is not None
    shared = [sessions.session(number).turns[0].shared for number in range(60) if sessions.session(number).id.startswith("batch/")]
    assert (shared[0], {prefix is not None and prefix.whole for prefix in shared[1:]}) == (None, {True})


def test_what_is_not_measured_is_a_mix_too(tmp_path: Path) -> None:
    workload = Schedule(mixed(tmp_path), 5).workload()
    assert {workload.aside(index).class_name for index in range(40)} == {"chat", "batch"}
    longest = max(islice(workload, 50), key=lambda request: request.text_length())
    assert workload.unmeasured(longest) is longest


def test_a_flag_holds_for_every_class(tmp_path: Path) -> None:
    path = str(tmp_path / "mix.yaml")
    mixed(tmp_path)
    flags = {"engine": "openai", "scenario": path}
    keys = resolve(Flags(**flags, output_len=7, goodput=("ttft:100",))).load.scenario.classes["batch"]
    assert (keys.output_tokens, keys.slo, keys.prompts is None) == (None, None, False)
    assert resolve(Flags(**flags, input_len=50)).load.scenario.classes["batch"].prompts is None
    words = resolve(Flags(**flags, tokenizer="words")).load.scenario
    assert [prompts.tokenizer for prompts in words.all_prompts().values()] == ["words", "words"]


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ("{a: {share: 0}}", "mix.yaml:7: classes.a.share can't be '0'; give a number > 0.0"),
        ("{a: {share: 1}, a: {share: 1}}", "mix.yaml:7: the key 'a' is given twice (first in line 7); remove one of them"),
        ("{a: {share: 1, prority: 1}}", "mix.yaml:7: 'prority' is not a key of classes.a; did you mean 'priority'?"),
        ("{A b: {share: 1}}", "mix.yaml:7: 'A b' is not a key of classes; give text matching regex"),
        ("{a: {}}", "mix.yaml:7: classes.a.share is missing; add share"),
        ("{a: {share: 1, headers: {X-A: '{user}'}}}", "header 'X-A' has the unknown placeholder 'user'; known are {session}"),
        ("{a: {share: 1, headers: {X-Api-Key: k}}}", "header X-Api-Key is a secret, and a scenario is stored with its results"),
        ("{a: {share: 1, prompts: {sessions: {format: dag_jsonl, file: x}}}}", "sessions are the scenario's own, of all classes"),
        ("{a: {share: 1, prompts: {token_ids: true, files: [p]}}}" + OF_SESSIONS, "token ids don't go with sessions; leave them out"),
        ("{a: {share: 1, output_tokens: {distribution: constant, value: 2}}}" + OF_SESSIONS, "classes of sessions share output_tokens"),
        ("{a: {share: 1, slo: {session_ms: 9}}}", "classes.a.slo: session_ms is of all sessions; give it in the scenario's slo"),
        ("{a: {share: 1}}\nmlperf: server", "mlperf judges requests of one kind; leave out classes, or give mlperf: null"),
    ],
)
def test_what_is_wrong_with_classes_is_said_in_one_line(tmp_path: Path, classes: str, said: str) -> None:
    text = f"{PLAIN}classes: {classes}\n"
    with pytest.raises(UserError) as caught:
        mixed(
            tmp_path,
            text if OF_SESSIONS not in text else text.replace(f"prompts: {WORDS % 6}\n", "").replace("num_requests", "num_sessions"),
        )
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_trace_of_a_class_has_no_times(tmp_path: Path) -> None:
    text = MIXED.replace("{process: poisson, rate: 100}", "{process: trace}").replace(
        f"prompts: {WORDS % 6}", "prompts: {trace: {format: mooncake, file: x}}"
    )
    with pytest.raises(UserError, match="process trace sends at the times of the scenario's own trace"):
        mixed(tmp_path, text)
