"""Responses beside a reference's: shares with their intervals, noise, where they part, and what is garbage."""

from __future__ import annotations

import hashlib
import json
import random

import pytest

from bytemlperf_llm.quality.agreement import BEYOND, DIFFERS, GARBAGE, SAME, Share, agreement_of, is_repetitive
from bytemlperf_llm.record.record import RequestRecord
from tests.cli.helpers import bmp, run_folder
from tests.metrics.records import answered


def responses(texts: list[str]) -> list[RequestRecord]:
    return [
        answered(
            index,
            0,
            0,
            [1, 2],
            output=text,
            output_sha256=hashlib.sha256(text.encode()).hexdigest() if text else None,
            finish_reason="stop",
        )
        for index, text in enumerate(texts)
    ]


WORDS = [f"the answer to question {number} is seven" for number in range(100)]


def changed(count: int, seed: int) -> list[str]:
    chosen = set(random.Random(seed).sample(range(len(WORDS)), count))
    return [text.replace("seven", f"eight{seed}") if number in chosen else text for number, text in enumerate(WORDS)]


def test_the_same_responses_are_the_same() -> None:
    found = agreement_of(responses(WORDS), responses(WORDS))
    assert found is not None
    assert (found.verdict, found.equal.value, found.first_difference) == (SAME, 1.0, None)
    assert found.equal.interval == pytest.approx((0.963, 1.0), abs=5e-4), "Wilson's of 100 of 100"


def test_wilsons_interval_of_a_textbook() -> None:
    assert Share(81, 263).interval == pytest.approx((0.2553, 0.3662), abs=1e-4), "Newcombe 1998, table I"
    assert Share(0, 20).interval[0] == pytest.approx(0.0, abs=1e-9)


def test_without_the_noise_a_difference_is_no_more_than_that() -> None:
    found = agreement_of(responses(changed(10, 1)), responses(WORDS))
    assert found is not None
    assert (found.verdict, found.equal, found.noise) == (DIFFERS, Share(90, 100), None)
    assert found.first_difference_words == [6] * 10


@pytest.mark.parametrize(("ours", "noise", "verdict"), [(10, 10, SAME), (12, 9, SAME), (40, 10, BEYOND), (9, 0, BEYOND), (4, 0, SAME)])
def test_a_difference_is_held_against_the_noise(ours: int, noise: int, verdict: str) -> None:
    found = agreement_of(responses(changed(ours, 1)), responses(WORDS), responses(changed(noise, 2)))
    assert found is not None
    assert found.verdict == verdict


@pytest.mark.parametrize("bad", ["", "\N{REPLACEMENT CHARACTER}" * 9, "spam and eggs " * 40])
def test_garbage_is_called_so(bad: str) -> None:
    found = agreement_of(responses([bad] * 20 + WORDS[20:]), responses(WORDS))
    assert found is not None
    assert found.verdict == GARBAGE
    assert sum(ours for ours, _ in found.faults.values()) == 20
    same = agreement_of(responses([bad] * 100), responses([bad] * 100))
    assert same is not None
    assert same.verdict == SAME, "a small model that repeats itself does so in both"


def test_language_does_not_repeat_itself() -> None:
    draw = random.Random(3)
    text = " ".join(draw.choice(["a", "red", "fox", "and", "the", "dog", "ran", "off"]) for _ in range(60))
    assert not any(map(is_repetitive, responses([text])))


def test_no_request_in_common_is_none() -> None:
    assert agreement_of([], responses(WORDS)) is None


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory):
    place = tmp_path_factory.mktemp("quality")
    flags = ("--engine", "reference", "--scenario", "smoke", "--request-rate", "inf", "--num-prompts", "8", "--keep-output", "--no-report")
    made = {}
    for label, more in {"one": (), "two": (), "longer": ("--output-len", "9")}.items():
        made[label] = run_folder(bmp("serve-bench", *flags, *more, "--label", label, cwd=place).stdout, place)
    return place, made


def test_the_command_gives_a_row_a_run_and_a_gate(runs) -> None:
    place, made = runs
    printed = bmp("quality", str(made["one"]), "--reference", str(made["two"]), "--fail-if", "agreement < 98%", cwd=place)
    assert printed.returncode == 0, printed.stderr
    assert "100.0%" in printed.stdout
    gated = bmp("quality", str(made["one"]), "--reference", str(made["two"]), "--fail-if", "length_ratio < 2", "--json", cwd=place)
    assert gated.returncode == 1
    content = json.loads(gated.stdout)
    assert content["runs"][0]["agreement"] == {"value": 1.0, "ci95": pytest.approx([0.6756, 1.0], abs=1e-3), "n": 8}
    assert len(content["fail_if"]) == 1


def test_runs_of_other_requests_are_refused(runs) -> None:
    place, made = runs
    refused = bmp("quality", str(made["longer"]), "--reference", str(made["two"]), cwd=place)
    assert refused.returncode == 2
    assert "sent other requests" in refused.stderr
    assert "output_tokens" in refused.stderr
    assert "Traceback" not in refused.stderr
