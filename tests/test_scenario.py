"""Scenario files: the built-in ones load, and a wrong file is answered by one clear line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from bytemlperf.errors import UserError
from bytemlperf_llm.plan import scenario as scenarios

PAGE = Path(__file__).parents[1] / "docs" / "scenarios.md"
MINIMAL = """\
name: mine
description: a test
prompts: {files: [p.jsonl]}
output_tokens: {distribution: lognormal, mean: 48, sigma: 0.6, min: 8, max: 128}
arrival: {process: poisson, rate: auto}
duration_s: 60
"""


def write(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def error_of(folder: Path, text: str) -> UserError:
    path = write(folder, text)
    with pytest.raises(UserError) as caught:
        scenarios.load(path)
    assert "\n" not in str(caught.value)
    assert caught.value.cause.startswith(path)
    caught.value.cause = caught.value.cause.replace(path, "F")
    return caught.value


def test_built_in_scenarios_are_listed_with_one_line_each() -> None:
    listed = scenarios.builtin()
    mlperf = ["mlperf-multi-stream", "mlperf-offline", "mlperf-server", "mlperf-single-stream"]
    chat = ["agent", "chat", "chat-multiturn"]
    assert [each.name for each in listed] == [*chat, "code", "mixed", *mlperf, "rag", "smoke", "summarize", "trace-azure", "trace-mooncake"]
    assert all(len(each.description) < 100 for each in listed)


@pytest.mark.parametrize("name", [each.name for each in scenarios.builtin()])
def test_built_in_scenario_is_named_like_its_file(name: str) -> None:
    loaded = scenarios.load(name)
    assert loaded.name == name
    trace = (loaded.prompts.trace.file,) if loaded.prompts.trace else ()
    assert all((loaded.folder / file).is_file() for file in loaded.prompts.files or trace)


def test_chat_leaves_time_for_an_engine_start_within_three_minutes() -> None:
    chat = scenarios.load("chat")
    assert chat.duration_s is not None
    assert 50 + chat.auto.probe_s + chat.duration_s + chat.drain_s <= 150


def test_a_path_works_wherever_a_name_does(tmp_path: Path) -> None:
    loaded = scenarios.load(write(tmp_path, MINIMAL))
    assert (loaded.name, loaded.folder, loaded.warmup_requests) == ("mine", tmp_path, 4)
    assert loaded.arrival.rate == "auto"


def test_unknown_name_gives_the_nearest_and_says_that_a_path_works() -> None:
    with pytest.raises(UserError, match=r"no scenario 'chatt'; did you mean chat or chat-multiturn\? A path to a YAML file works too"):
        scenarios.load("chatt")
    with pytest.raises(
        UserError, match=r"built in: agent, chat, chat-multiturn, code, mixed, mlperf-multi-stream, .*, trace-azure, trace-mooncake"
    ):
        scenarios.load("zzzzzz")


WRONG = [
    ("sigma: 0.6", "sgima: 0.6", "F:4: 'sgima' is not a key of output_tokens", "did you mean 'sigma'?"),
    ("duration_s", "duraton_s", "F:6: 'duraton_s' is not a key here", "did you mean 'duration_s'?"),
    ("process: poisson", "process: poison", "F:5: arrival.process can't be 'poison'", "did you mean 'poisson'?"),
    (
        "distribution: lognormal",
        "distribution: lognorml",
        "F:4: output_tokens.distribution can't be 'lognorml'",
        "did you mean 'lognormal'?",
    ),
    (
        "distribution: lognormal",
        "distrbution: lognormal",
        "F:4: output_tokens.distribution is missing",
        "rename 'distrbution' to 'distribution'",
    ),
    ("distribution: lognormal, ", "", "F:4: output_tokens.distribution is missing", "add distribution: one of constant, uniform"),
    ("sigma: 0.6, ", "", "F:4: output_tokens.sigma is missing", "add sigma"),
    ("min: 8", "min: 800", "F:4: output_tokens: min 800 is above max 128", "swap them"),
    ("min: 8", "min: true", "F:4: output_tokens.min can't be 'True'", "give a whole number"),
    ("mean: 48", "mean: .nan", "F:4: output_tokens.mean can't be 'nan'", "give a number > 0"),
    ("rate: auto", "rate: 0", "F:5: arrival: 0 is not a rate", "give requests per second, a number above 0, or auto"),
    ("rate: auto", "rate: -1", "F:5: arrival: -1 is not a rate", "give requests per second"),
    ("rate: auto", "rate: fast", "F:5: arrival.rate can't be 'fast'", "auto, or a number"),
    (", rate: auto", "", "F:5: arrival: process poisson needs either rate or ramp", "give rate: auto"),
    ("process: poisson", "process: closed", "F:5: arrival: process closed has no rate", "remove rate"),
    ("process: poisson, rate: auto", "process: closed", "F:5: arrival: process closed needs max_concurrency", "in flight"),
    ("rate: auto", "rate: 2, burstiness: 0.5", "F:5: arrival: burstiness means nothing to process poisson", "use process: gamma"),
    ("duration_s: 60", "warmup_requests: 2", "F:1: nothing ends the run", "give num_requests, duration_s, or both"),
    ("process: poisson, rate: auto", "process: at_once", "F:1: process at_once needs num_requests", "number of requests"),
    ("duration_s: 60", "num_requests: 0", "F:6: num_requests can't be '0'", "give a whole number >= 1"),
    ("duration_s: 60", "duration_s: '60'", "F:6: duration_s can't be '60'", "give a number"),
    ("duration_s: 60", "duration_s: 60\nduration_s: 70", "F:7: the key 'duration_s' is given twice (first in line 6)", "remove one"),
    ("{files: [p.jsonl]}", "{}", "F:3: prompts: exactly one of files, synthetic, trace and sessions is needed", "give files"),
    ("files: [p.jsonl]", "files: [3]", "F:3: prompts.files.0 can't be '3'", "give text"),
    ("duration_s: 60", "duration_s: 60\nslo: {ttft_sm: 5}", "F:7: 'ttft_sm' is not a key of slo", "did you mean 'ttft_ms'?"),
    ("duration_s: 60", "duration_s: [60", "F:7: not valid YAML", "fix the line"),
    ("duration_s: 60", "duration_s: !!python/object:os.system 1", "F:6: could not determine a constructor", "plain YAML"),
    *(
        ("duration_s: 60", f"duration_s: {value}", "F: not valid YAML: a value is not what its tag says", "leave out tags")
        for value in ("!!bool x", "!!timestamp x", "!!int ''")
    ),
    ("name: mine", "name: '../x'", "F:1: name can't be '../x'", "text matching regex"),
    (MINIMAL, "- a\n- b\n", "F:1: not a mapping", "key: value"),
    (MINIMAL, "", "F is empty", "required"),
    (MINIMAL, "[" * 5000, "F is nested too deep", "plain keys"),
    (MINIMAL, "a: \x01", "F: not valid YAML", "fix"),
]


@pytest.mark.parametrize(("right", "wrong", "cause", "fix"), WRONG)
def test_a_wrong_file_names_line_key_and_fix(tmp_path: Path, right: str, wrong: str, cause: str, fix: str) -> None:
    assert right in MINIMAL
    error = error_of(tmp_path, MINIMAL.replace(right, wrong))
    assert error.cause.startswith(cause)
    assert fix in error.fix


def test_files_that_are_no_text_are_user_errors(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    (tmp_path / "big.yaml").write_bytes(b"#" * (1 << 20) + b"\n")
    for name, words in [("latin.yaml", "not UTF-8"), ("big.yaml", "larger than"), ("none.yaml", "No such file"), (".", "Is a directory")]:
        with pytest.raises(UserError, match=words):
            scenarios.load(str(tmp_path / name))


def test_an_alias_that_contains_itself_is_refused(tmp_path: Path) -> None:
    assert "files" in error_of(tmp_path, MINIMAL.replace("[p.jsonl]", "&a [*a]")).cause


def test_override_replaces_subtrees_and_checks_the_whole() -> None:
    chat = scenarios.load("chat")
    changed = chat.override({"arrival.rate": 4.0, "num_requests": 10, "output_tokens": {"distribution": "constant", "value": 5}})
    assert (changed.arrival.rate, changed.num_requests, changed.duration_s) == (4.0, 10, 60)
    assert changed.output_tokens == scenarios.Constant(value=5)
    assert (chat.arrival.rate, changed.folder) == ("auto", chat.folder)
    with pytest.raises(UserError, match=r"scenario chat: arrival: -1 is not a rate"):
        chat.override({"arrival.rate": -1})
    with pytest.raises(UserError, match="'rat' is not a key of arrival; did you mean 'rate'"):
        chat.override({"arrival.rat": 1})


def test_overriding_with_nothing_changes_nothing() -> None:
    for each in scenarios.builtin():
        loaded = scenarios.load(each.name)
        assert loaded.override({}) == loaded


# --- the page ---------------------------------------------------------------------------------


def structs_in(annotation: Any) -> set[type[msgspec.Struct]]:
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return {annotation}.union(*(structs_in(field.type) for field in msgspec.structs.fields(annotation)))
    return set().union(*map(structs_in, get_args(annotation)))


def words_in(annotation: Any) -> set[str]:
    return set().union(*({each} if isinstance(each, str) else words_in(each) for each in get_args(annotation)))


def test_the_page_names_every_key_and_every_choice() -> None:
    text = PAGE.read_text(encoding="utf-8")
    quoted = set(re.findall(r"`([^`\n]+)`", text))
    structs = structs_in(scenarios.Scenario)
    wanted = {key for struct in structs for key in struct.__struct_fields__}
    wanted |= {word for struct in structs for field in msgspec.structs.fields(struct) for word in words_in(field.type)}
    wanted |= {word for struct in structs for word in (struct.__struct_config__.tag, struct.__struct_config__.tag_field) if word}
    assert {"sigma", "idle_s", "ttft_ms", "lognormal", "at_once", "auto", "exponential"} <= wanted
    named = {part for word in quoted for part in word.split(".")}
    assert wanted - named == set()


def test_the_pages_example_loads(tmp_path: Path) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(examples) >= 2
    for example in examples:
        assert scenarios.load(write(tmp_path, example)).name
