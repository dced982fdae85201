"""From trace rows to requests: window and scale to the nanosecond, lengths, limits, shared prefixes."""

from __future__ import annotations

import json
import tracemalloc
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from bytemlperf.arrivals.delivered import arrival_test, expected_dispersion
from bytemlperf.errors import UserError
from bytemlperf_llm.metrics.facts import RunFacts
from bytemlperf_llm.plan import scenario as scenarios
from bytemlperf_llm.plan.scenario import Scenario
from bytemlperf_llm.workload import Workload
from bytemlperf_llm.workload.schedule import Schedule, Share
from bytemlperf_llm.workload.trace_prompts import TraceEnded
from engines.contract import Request

SECOND = 1_000_000_000
PINNED = {
    "trace-azure": "55ed9074c58099f15bb2cb2d95874a4083011491d20ec298eaa3d4bd693d7aa2",
    "trace-mooncake": "068c3db80d95f67fc2e6b91ca6f77dafb0c1c1e7415f7c9c7f8b7a0e953679dd",
}


def line(at_ms: float, prompt: int, output: int = 2, ids: Any = ()) -> str:
    return json.dumps({"timestamp": at_ms, "input_length": prompt, "output_length": output, "hash_ids": list(ids)})


def traced(folder: Path, lines: list[str], form: str = "mooncake", tokenizer: str | None = "words", **trace: Any) -> Scenario:
    (folder / "trace").write_text("\n".join(lines), encoding="utf-8")
    timed = form not in ("custom", "sharegpt")
    arrival = {"process": "trace"} if timed else {"process": "constant", "rate": 10.0}
    options = {"format": form, "file": str(folder / "trace"), **trace}
    changes = {"prompts": {"trace": options, "tokenizer": tokenizer}, "arrival": arrival, "duration_s": None}
    return scenarios.load("smoke").override(changes)


def words(request: Request) -> list[str]:
    assert request.messages is not None
    return request.messages[-1].content.split()


def sizes(scenario: Scenario) -> list[tuple[int, int]]:
    return [(len(words(request)), request.max_tokens) for request in Workload(scenario, 0)]


def offsets(scenario: Scenario) -> list[int]:
    return list(Schedule(scenario, 0).offsets())


TIMES = [line(at, 5) for at in (100, 100, 350.000001, 1100, 2100, 2100.5)]


def test_times_count_from_the_first_row(tmp_path):
    assert offsets(traced(tmp_path, TIMES)) == [0, 0, 250_000_001, SECOND, 2 * SECOND, 2_000_500_000]


@pytest.mark.parametrize(
    ("window", "kept"),
    [
        ((0, 1), [0, 0, 250_000_001]),
        ((0, 1.000000001), [0, 0, 250_000_001, SECOND]),
        ((0.25, None), [1, 750_000_000, 1_750_000_000, 1_750_500_000]),
        ((1, 2.0005), [0, SECOND]),
        ((2.0005, None), [0]),
        ((3, None), []),
    ],
)
def test_the_window_is_exact_to_the_nanosecond_and_half_open(tmp_path, window, kept):
    assert offsets(traced(tmp_path, TIMES, window_s=window)) == kept


@pytest.mark.parametrize(("scale", "last"), [(2.0, 4_001_000_000), (0.1, 200_050_000), (1 / 3, 666_833_333), (1e-9, 2)])
def test_the_scale_is_exact_to_the_nanosecond(tmp_path, scale, last):
    assert offsets(traced(tmp_path, TIMES, time_scale=scale))[-1] == last


def test_a_window_and_a_scale_together_and_bounds_of_the_run(tmp_path):
    scenario = traced(tmp_path, TIMES, time_scale=10.0, window_s=(0.25, None))
    assert offsets(scenario) == [10, 7_500_000_000, 17_500_000_000, 17_505_000_000]
    assert offsets(scenario.override({"duration_s": 17.5})) == [10, 7_500_000_000]
    assert offsets(scenario.override({"num_requests": 3})) == [10, 7_500_000_000, 17_500_000_000]


def test_lengths_are_those_of_the_trace_and_answers_run_to_their_end(tmp_path):
    scenario = traced(tmp_path, [line(0, 7, 3), line(1, 1, 1), line(2, 700, 9, [1, 2])])
    assert sizes(scenario) == [(7, 3), (1, 1), (700, 9)]
    assert all(request.sampling.ignore_eos for request in Workload(scenario, 0))


def test_output_len_goes_before_the_trace(tmp_path):
    scenario = traced(tmp_path, [line(0, 7, 3), line(1, 7, 4)], own_output_tokens=False)
    assert [
        request.max_tokens for request in Workload(scenario.override({"output_tokens": {"distribution": "constant", "value": 5}}), 0)
    ] == [5, 5]


def test_equal_hash_ids_share_their_tokens_whatever_line_run_or_seeded_order(tmp_path):
    ids = [[1, 2, 3], [1, 2, 4], [1, 9], [7, 2, 3]]
    scenario = traced(tmp_path, [line(i, 1300 if len(each) == 3 else 600, 2, each) for i, each in enumerate(ids)])
    one, two, three, four = [words(request) for request in Workload(scenario, 0)]
    assert one[:1024] == two[:1024]
    assert one[1024:1040] != two[1024:1040]
    assert one[:512] == three[:512]
    assert one[512:530] != three[512:530]
    assert one[1:20] != four[1:20]
    assert words(Workload(scenario, 0).request(2)) == three


def test_rows_without_hash_ids_share_nothing_and_an_id_says_more_than_the_line(tmp_path):
    plain = [words(request) for request in Workload(traced(tmp_path, [line(0, 600), line(1, 600)]), 0)]
    assert plain[0][1:20] != plain[1][1:20]
    shared = [words(request) for request in Workload(traced(tmp_path, [line(0, 512, 2, [5]), line(1, 512, 2, [5])]), 0)]
    assert shared[0] == shared[1]


def test_the_block_size_is_an_option_and_a_wrong_one_is_named(tmp_path):
    rows = [line(0, 64, 2, [1, 2, 3, 4]), line(1, 64, 2, [1, 2, 3, 5])]
    with pytest.raises(UserError, match=r"trace:1: hash_ids: 4 ids, and 64 prompt tokens are 1 blocks of 512; .*--trace-block-size"):
        Workload(traced(tmp_path, rows), 0).request(0)
    one, two = [words(request) for request in Workload(traced(tmp_path, rows, block_tokens=16), 0)]
    assert one[:48] == two[:48]
    assert one[48:] != two[48:]


LONG = [line(0, 50, 10), line(1, 95, 5), line(2, 96, 5), line(3, 500, 10), line(4, 10, 300), line(5, 99, 1)]


def test_too_long_requests_are_skipped_and_counted(tmp_path):
    scenario = traced(tmp_path, LONG, max_model_len=100, on_too_long="skip")
    assert sizes(scenario) == [(50, 10), (95, 5), (99, 1)]
    facts = Schedule(scenario, 0).describe()
    assert facts.trace is not None
    assert (facts.requests, facts.trace.rows, facts.trace.requests, facts.trace.too_long) == (3, 6, 3, 3)
    assert "3 of 6 trace rows left out: longer than 100 tokens of context" in facts.sentences(None)
    assert offsets(scenario) == [0, 1_000_000, 5_000_000]


def test_too_long_requests_are_truncated_and_counted(tmp_path):
    scenario = traced(tmp_path, LONG, max_model_len=100, on_too_long="truncate")
    assert sizes(scenario) == [(50, 10), (95, 5), (95, 5), (90, 10), (1, 99), (99, 1)]
    facts = Schedule(scenario, 0).describe()
    assert facts.trace is not None
    assert (facts.requests, facts.trace.truncated, facts.trace.too_long) == (6, 3, 0)
    assert "3 of 6 trace rows cut to fit 100 tokens of context" in facts.sentences(None)


def test_a_truncated_prompt_keeps_the_start_that_it_shares(tmp_path):
    rows = [line(0, 1024, 2, [1, 2]), line(1, 1024, 2, [1, 3])]
    whole = [words(request) for request in Workload(traced(tmp_path, rows), 0)]
    short = [words(request) for request in Workload(traced(tmp_path, rows, max_model_len=602, on_too_long="truncate"), 0)]
    assert [text[:600] for text in whole] == short


def test_too_long_requests_fail_by_default(tmp_path):
    with pytest.raises(
        UserError, match=r"trace:3: request: needs 101 tokens of context \(96 prompt \+ 5 output\) and there are 100; --on-too-long"
    ):
        Schedule(traced(tmp_path, LONG, max_model_len=100), 0).describe()


def test_rows_that_ask_for_nothing_are_left_out_and_counted(tmp_path):
    scenario = traced(tmp_path, [line(0, 0, 5), line(1, 5, 0), line(2, 5, 5)])
    facts = Schedule(scenario, 0).describe()
    assert facts.trace is not None
    assert (facts.requests, facts.trace.empty) == (1, 2)
    assert any(sentence.startswith("2 of 3 trace rows left out: no prompt") for sentence in facts.sentences(None))


def test_it_says_when_the_trace_is_shorter_than_asked_for(tmp_path):
    scenario = traced(tmp_path, TIMES).override({"num_requests": 100})
    facts = Schedule(scenario, 0).describe()
    assert facts.requests == 6
    assert "the trace ends after 6 of 100 requests" in facts.sentences(100)


def test_lengths_without_a_tokenizer_are_called_estimated(tmp_path):
    facts = Schedule(traced(tmp_path, TIMES, tokenizer=None), 0).describe()
    assert facts.prompt_lengths is not None
    assert facts.prompt_lengths.startswith("estimated: one token per word, chat template not counted, since no tokenizer is known")
    assert facts.trace is not None
    assert not facts.trace.lengths_exact


def test_time_that_goes_back_is_named(tmp_path):
    with pytest.raises(UserError, match=r"trace:2: timestamp: earlier than the line before; sort the trace by time"):
        offsets(traced(tmp_path, [line(5, 5), line(4, 5)]))


def test_an_empty_trace_is_named(tmp_path):
    with pytest.raises(UserError, match="has no request"):
        Workload(traced(tmp_path, [""]), 0)


def test_requests_can_be_asked_for_in_any_order_and_end_where_the_trace_ends(tmp_path):
    scenario = traced(tmp_path, [line(i, 10 + i) for i in range(20)])
    forward = list(Workload(scenario, 0))
    workload = Workload(scenario, 0)
    for index in (19, 0, 7, 7, 3, 18):
        assert workload.request(index) == forward[index]
    for index in (20, 1000):
        with pytest.raises(TraceEnded):
            workload.request(index)
    assert workload.request(0) == forward[0]
    assert [request.id for request in forward[:2]] == ["0-00000000", "0-00000001"]


def test_warm_up_has_the_lengths_but_not_the_words_and_never_ends(tmp_path):
    scenario = traced(tmp_path, [line(i, 20 + i, 2 + i, [7]) for i in range(4)])
    workload = Workload(scenario, 0)
    measured = [words(request) for request in Workload(scenario, 0)]
    aside = [workload.aside(index) for index in range(10)]
    assert [len(words(each)) for each in aside] == [20, 21, 22, 23] * 2 + [20, 21]
    assert [each.max_tokens for each in aside[:4]] == [2, 3, 4, 5]
    assert words(aside[1])[1:] != measured[1][1:]
    assert words(aside[1])[1:] != words(aside[5])[1:]


def test_texts_of_a_trace_are_sent_as_they_are(tmp_path):
    lines = ['{"prompt": " as it is\\n", "output_tokens": 7}', '{"prompt": "length of the scenario"}']
    scenario = traced(tmp_path, lines, "custom")
    first, second = Workload(scenario, 0)
    assert first.messages is not None
    assert (first.messages[0].content, first.max_tokens) == (" as it is\n", 7)
    assert second.max_tokens == 8
    plain = scenario.override({"prompts.template": "plain"})
    assert next(iter(Workload(plain, 0))).prompt == " as it is\n"
    assert offsets(scenario.override({"num_requests": 2})) == [0, 100_000_000]
    assert Schedule(scenario, 0).describe().requests == 2


def test_long_texts_follow_the_same_policies(tmp_path):
    lines = [json.dumps({"prompt": " ".join(["word"] * 50), "output_tokens": 10}), '{"prompt": "short", "output_tokens": 3}']
    assert sizes(traced(tmp_path, lines, "custom", max_model_len=30, on_too_long="skip")) == [(1, 3)]
    assert sizes(traced(tmp_path, lines, "custom", max_model_len=30, on_too_long="truncate")) == [(20, 10), (1, 3)]
    with pytest.raises(UserError, match=r"trace:1: request: needs 60 tokens"):
        sizes(traced(tmp_path, lines, "custom", max_model_len=30))


def test_sharegpt_answers_give_the_output_lengths(tmp_path):
    turns = [{"from": "human", "value": "why so?"}, {"from": "gpt", "value": "because of this"}]
    text = json.dumps([{"id": "1", "conversations": turns}, {"id": "2", "conversations": []}])
    scenario = traced(tmp_path, [text], "sharegpt")
    assert sizes(scenario) == [(2, 3)]
    facts = Schedule(scenario, 0).describe()
    assert facts.trace is not None
    assert facts.trace.empty == 1


@pytest.mark.parametrize(
    "process", [{"process": "poisson", "rate": 50.0}, {"process": "at_once"}, {"process": "closed", "max_concurrency": 2}]
)
def test_other_arrivals_take_the_rows_in_order_and_end_with_them(tmp_path, process):
    scenario = traced(tmp_path, [line(i, 10 + i) for i in range(30)]).override({"arrival": process})
    facts = Schedule(scenario, 0).describe()
    assert facts.requests == 30
    assert [len(words(planned.request)) for planned in Schedule(scenario, 0).planned()] == list(range(10, 40))


def test_workers_share_a_trace_without_telling_each_other(tmp_path):
    scenario = traced(tmp_path, [line(i, 90 + i, 2, ()) for i in range(25)], max_model_len=110, on_too_long="skip")
    whole = list(Schedule(scenario, 0).planned())
    dealt = [planned for worker in range(3) for planned in Schedule(scenario, 0).planned(Share(worker, 3))]
    assert len(whole) == 19
    assert sorted(dealt, key=lambda planned: planned.request.index) == whole


def test_no_process_is_expected_of_a_traces_arrivals():
    assert expected_dispersion("trace", 1.0) is None
    facts = RunFacts(open_loop=True, process="trace")
    assert arrival_test(range(0, 1000 * SECOND, SECOND), facts.process, facts.burstiness, facts.requested_rate) is None


def test_a_session_goes_with_its_request(tmp_path):
    rows = ["Timestamp,Session ID,Request tokens,Response tokens", "1,chat-9,5,6"]
    assert [request.session for request in Workload(traced(tmp_path, rows, "burstgpt"), 0)] == ["chat-9"]


@pytest.mark.parametrize("name", list(PINNED))
def test_the_built_in_traces_are_the_same_on_every_machine(name):
    scenario = scenarios.load(name).override({"prompts.tokenizer": "words", "duration_s": None, "prompts.trace.max_model_len": 4096})
    assert Schedule(scenario, 0).describe().sha256 == PINNED[name]


@pytest.mark.parametrize("lines", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_trace_streams_within_memory_that_its_length_does_not_change(tmp_path, lines):
    with (tmp_path / "big").open("w") as file:
        for i in range(lines):
            file.write(line(10 * i, 40 + i % 50, 2, (i // 7, i)).replace(" ", "") + "\n")
    scenario = traced(tmp_path, [], "timed_trace", block_tokens=32, timestamp_unit_s=0.001)
    scenario = scenario.override({"prompts.trace.file": str(tmp_path / "big")})
    list(islice(Schedule(scenario, 0).planned(), 10))
    tracemalloc.start()
    try:
        facts = Schedule(scenario, 0).describe()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert facts.requests == lines
    assert peak_bytes < 8_000_000
