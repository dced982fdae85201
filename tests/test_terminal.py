"""What comes from outside reaches a terminal without escape sequences: names, error texts, causes."""

from __future__ import annotations

import io
import re
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from bytemlperf.command.exits import one_line
from bytemlperf.report.terminal import print_run
from bytemlperf_llm.metrics.facts import RunFacts
from bytemlperf_llm.metrics.summary import summarize
from tests.metrics.records import answered, failed, poisson_run

HOSTILE = "\x1b]0;owned\x07\x1b[31mred\x1b[0m\x9b31m\u202edlrow\u2028end"
FORBIDDEN = "\x1b\x07\x9b\u202e\u2028"


def test_the_table_shows_hostile_names_and_errors_inert():
    records = [*poisson_run(20, 10), failed(20, 3000, 3100, error_detail=HOSTILE)]
    summary = summarize(records, RunFacts(open_loop=True, scheduled_requests=21))
    run = {
        "kind": "llm",
        "config": {"scenario": {"name": HOSTILE, "arrival": {"rate": 10.0}}, "flags": {"engine": "openai", "scenario": "smoke"}},
        "engine": {
            "name": HOSTILE,
            "model": HOSTILE,
            "dtype": HOSTILE,
            "versions": {HOSTILE: HOSTILE},
            "notes": [f"random weights {HOSTILE}"],
        },
        "seed": 0,
        "schedule_sha256": "0" * 64,
    }
    shown = io.StringIO()
    print_run(Console(file=shown, width=140, highlight=False), Path("runs/x"), run, msgspec.to_builtins(summary))
    assert "owned" in shown.getvalue()
    assert not set(FORBIDDEN) & set(shown.getvalue())


@pytest.mark.parametrize("text", [HOSTILE, "a\nb\r\nc\td"])
def test_a_cause_is_one_line_without_escapes(text):
    line = one_line(text)
    assert not set(FORBIDDEN + "\n\r\t") & set(line)
    assert line


def printed(records, facts, command=(), columns=140, verbose=False, **more):
    """What a run's summary looks like in a terminal."""
    run = {
        "kind": "llm",
        "command": ["bmp-llm", "serve-bench", *command],
        "config": {"scenario": {"name": "smoke", "arrival": {"rate": facts.requested_rate}}, "flags": {}},
        "engine": {"name": "openai"},
        "seed": 0,
        "schedule_sha256": "0" * 64,
        **more,
    }
    shown = io.StringIO()
    summary = msgspec.to_builtins(summarize(records, facts))
    print_run(Console(file=shown, width=columns, highlight=False), Path("runs/x"), run, summary, verbose=verbose)
    return shown.getvalue()


@pytest.mark.parametrize(("columns", "last"), [(160, "max"), (120, "max"), (100, "max"), (80, "p99")])
def test_a_narrow_terminal_gets_fewer_percentiles_and_no_cut_figure(columns, last):
    slow = [answered(i, 10 * i, 10 * i + 0.2, [10 * i + 4000 + 7 * i, 10 * i + 9000 + 7 * i]) for i in range(2000)]
    text = printed(slow, RunFacts(open_loop=True, scheduled_requests=2000), columns=columns)
    head = next(line for line in text.splitlines() if "mean" in line)
    assert head.split()[-2] == last
    assert "…" not in text


def test_failures_as_infinite_stand_below_the_successes():
    lost = [failed(1000 + i, 10 * i, 10 * i + 100) for i in range(50)]
    text = printed([*poisson_run(450, 50), *lost], RunFacts(open_loop=True, scheduled_requests=500))
    row = next(line for line in text.splitlines() if "TTFT, failures as ∞" in line)
    assert row.split()[-6] != "∞", "p90 is among the successes"
    assert row.split()[-5:] == ["∞", "∞", "insufficient", "∞", "500"], "p95, p99, p99.9, max, n"
    assert "failures as ∞" not in printed(poisson_run(450, 50), RunFacts(open_loop=True, scheduled_requests=450))


def test_the_head_says_what_was_measured_under_which_load():
    config = {"scenario": {"name": "smoke", "arrival": {"process": "poisson", "rate": 10.0}}}
    text = printed(poisson_run(20, 10), RunFacts(open_loop=True, requested_rate=10.0, scheduled_requests=20), seed=7, config=config)
    assert "measured openai · load Poisson, 10 req/s · seed 7" in text


def test_what_was_cut_from_the_rates_is_printed():
    text = printed(poisson_run(450, 50), RunFacts(open_loop=True, scheduled_requests=450), verbose=True)
    assert re.search(r"steady state: rates leave out [0-9.]+ s of ramp-up and [0-9.]+ s of ramp-down of [0-9.]+ s", text)
    short = printed(poisson_run(10, 50), RunFacts(open_loop=True, scheduled_requests=10), verbose=True)
    assert "steady state: nothing cut: 10 responses are insufficient" in short


def test_a_run_ends_in_verdict_answers_and_next_command():
    *_, verdict, answers, following = printed(
        poisson_run(450, 50), RunFacts(open_loop=True, scheduled_requests=450), columns=400
    ).splitlines()
    assert verdict == "VALID"
    assert re.match(r"TTFT p50 [0-9.]+ ms \([0-9.]+ – [0-9.]+\) · TTFT p95 [0-9.]+ ms ", answers), "the highest that the sample carries"
    assert " · TPOT p50 " in answers
    assert " · output token throughput " in answers
    assert following.startswith("next: bmp-llm ")


def test_what_went_to_plan_is_printed_with_verbose_alone():
    facts = RunFacts(open_loop=True, scheduled_requests=450)
    brief, whole = printed(poisson_run(450, 50), facts), printed(poisson_run(450, 50), facts, verbose=True)
    for detail in ("TTFT from sent", "send delay", "client delay p50", "steady state", "schedule 000000000000"):
        assert detail not in brief
        assert detail in whole
    invalid = printed([*poisson_run(20, 50), *[failed(1000 + i, 10 * i, 10 * i + 100) for i in range(50)]], facts)
    assert "client delay p50" in invalid, "it may be why"


def test_the_next_command_is_the_runs_own():
    asked = ("--base-url", "http://box:1", "--num-prompts=450", "--request-rate", "auto", "--header", "X-Team: [redacted]")
    facts = RunFacts(open_loop=True, process="poisson", requested_rate=50.0, scheduled_requests=450)
    line = printed(poisson_run(450, 50), facts, asked).splitlines()[-1]
    expected = "bmp-llm serve-bench --base-url http://box:1 --header 'X-Team: [redacted]' --request-rate 50 --num-prompts 459"
    assert line.startswith(f"next: {expected} ")


def test_a_run_that_was_cut_short_is_to_be_resumed():
    facts = RunFacts(open_loop=True, scheduled_requests=900)
    for end in ({}, {"stopped_by_user": True}, {"failure": "disk full"}):
        assert "next: bmp-llm resume runs/x " in printed(poisson_run(450, 50), facts, end=end)


def test_an_overloaded_run_is_to_be_repeated_at_a_rate_that_is_found():
    facts = RunFacts(open_loop=True, process="constant", requested_rate=100.0, scheduled_requests=200)
    falling_behind = [answered(i, 10 * i, 10 * i, [30 * i + 20, 30 * i + 30]) for i in range(200)]
    text = printed(falling_behind, facts, ("--request-rate", "100", "--num-prompts", "200"))
    assert "OVERLOADED" in text
    assert "because target rate 100 requests/s, completed 33.33 requests/s" in " ".join(text.split())
    assert "next: bmp-llm serve-bench --num-prompts 200 --request-rate auto " in text


def test_a_client_that_could_not_keep_its_load_is_to_be_calibrated():
    late = [answered(i, 10 * i, 10 * i + 200, [10 * i + 250, 10 * i + 260]) for i in range(100)]
    text = printed(late, RunFacts(open_loop=True, scheduled_requests=100), end={"stopped_by_user": False})
    assert "INVALID" in text
    assert "next: bmp-llm doctor --calibrate " in text


def test_a_server_that_fails_is_no_matter_of_the_clients_speed():
    facts = RunFacts(open_loop=True, scheduled_requests=100)
    answers = [failed(i, 10 * i, 10 * i + 1) if i % 2 else answered(i, 10 * i, 10 * i, [10 * i + 5, 10 * i + 9]) for i in range(100)]
    text = printed(answers, facts, end={"stopped_by_user": False})
    assert "FAILING" in text
    assert "read the server's own log" in text
    assert "--calibrate" not in text
