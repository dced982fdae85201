"""A campaign's file: what it means, in which order, and what a wrong one says."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from bytemlperf.errors import UserError
from bytemlperf_llm.campaign.file import Campaign
from bytemlperf_llm.campaign.jobs import flags_of, jobs_of, load, order_of

WHOLE = """\
name: two
engines:
  - name: fast
    engine: reference
    engine_options: {ttft_ms: 5, fail: false}
  - name: server
    base_url: http://127.0.0.1:8000
    card: h100*8
scenarios: [smoke, chat]
rates: [2, auto]
concurrency: [4]
repeats: 2
seed: 7
settings:
  num_prompts: 20
  goodput: ["ttft:500"]
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "campaign.yaml"
    path.write_text(textwrap.dedent(text))
    return path


def test_every_engine_scenario_load_and_repeat_engines_innermost(tmp_path):
    campaign = load(written(tmp_path, WHOLE))
    names = [job.key(campaign) for job in jobs_of(campaign)]
    assert len(set(names)) == len(names) == 2 * 2 * 3 * 2
    assert names[:4] == [
        ("fast", "smoke", "2 requests/s", 1),
        ("server", "smoke", "2 requests/s", 1),
        ("fast", "smoke", "rate auto", 1),
        ("server", "smoke", "rate auto", 1),
    ]
    assert names[4] == ("fast", "smoke", "4 concurrent", 1)
    assert names[6] == ("fast", "chat", "2 requests/s", 1)
    assert names[12] == ("fast", "smoke", "2 requests/s", 2)


def test_rates_of_sessions_are_called_so(tmp_path):
    text = WHOLE.replace("[smoke, chat]", "[smoke, chat-multiturn]").replace("  num_prompts: 20\n", "")
    campaign = load(written(tmp_path, text))
    loads = {(job.key(campaign)[1], job.load) for job in jobs_of(campaign)}
    assert {("smoke", "2 requests/s"), ("chat-multiturn", "2 sessions/s"), ("chat-multiturn", "4 concurrent")} < loads


def test_a_shuffled_order_is_the_seeds(tmp_path):
    stated = load(written(tmp_path, WHOLE))
    one, same = (load(written(tmp_path, WHOLE + "order: shuffled\n")) for _ in range(2))
    assert jobs_of(one) == jobs_of(same) != jobs_of(stated)
    assert sorted(job.key(one) for job in jobs_of(one)) == sorted(job.key(stated) for job in jobs_of(stated))
    other = load(written(tmp_path, WHOLE.replace("seed: 7", "seed: 8") + "order: shuffled\n"))
    assert jobs_of(other) != jobs_of(one)


def test_what_a_run_is_started_with(tmp_path):
    campaign = load(written(tmp_path, WHOLE))
    fast, server, auto = (flags_of(campaign, job) for job in jobs_of(campaign)[:3])
    assert fast.words() == [
        *("--engine", "reference", "--engine-option", "ttft_ms=5", "--engine-option", "fail=false", "--scenario", "smoke"),
        *("--request-rate", "2", "--num-prompts", "20", "--seed", "7", "--goodput", "ttft:500"),
        *("--label", "fast-smoke-2-requests", "--quiet"),
    ]
    assert (server.engine, server.base_url, server.device, server.request_rate) == ("openai", "http://127.0.0.1:8000", "h100*8", "2")
    assert auto.request_rate == "auto"
    assert flags_of(campaign, jobs_of(campaign)[2], 1.2345678901234567).request_rate == "1.2345678901234567"
    streams, repeat = jobs_of(campaign)[4], jobs_of(campaign)[12]
    assert (flags_of(campaign, streams).max_concurrency, flags_of(campaign, streams).request_rate) == (4, None)
    assert flags_of(campaign, repeat).seed == 8


def test_a_capacity_is_a_load_of_its_own(tmp_path):
    keys = "capacity: {share: 0.8, within: 20%, request_rate: 50}\nsettings: {num_prompts: 9, goodput: ['ttft:500']}\n"
    campaign = load(written(tmp_path, BASE + "concurrency: [2]\n" + keys))
    streams, search = (order_of(campaign, job) for job in jobs_of(campaign))
    assert [job.load for job in jobs_of(campaign)] == ["2 concurrent", "capacity"]
    assert (streams.capacity, streams.plan().load.scenario.arrival.sentence()) == (None, "closed loop, 2 in flight")
    assert search.capacity is not None
    assert (search.capacity["share"], search.capacity["within"], search.capacity["confidence"]) == (0.8, "20%", 0.95)
    assert (search.flags["request_rate"], search.flags["goodput"], "num_prompts" in search.flags) == ("50", ["ttft:500"], False)


def test_paths_are_relative_to_the_file(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "name: mine\ndescription: mine\nprompts: {synthetic: {words: {distribution: constant, value: 4}}}\n"
        "output_tokens: {distribution: constant, value: 4}\narrival: {process: poisson, rate: 5}\nnum_requests: 5\n"
    )
    campaign = load(written(tmp_path, "name: a\nengines: [{name: reference}]\nscenarios: [./mine.yaml]\n"))
    (job,) = jobs_of(campaign)
    assert flags_of(campaign, job).scenario == str(tmp_path / "mine.yaml")
    assert job.key(campaign) == ("reference", "mine", "own load", 1)


BASE = "name: a\nengines:\n  - name: reference\nscenarios: [smoke]\n"
WRONG = [
    (BASE + "rates: []\n", r"campaign.yaml:5: rates can't be '\[\]'; give a list of length >= 1"),
    (BASE.replace("[smoke]", "[]"), r"campaign.yaml:4: scenarios can't be '\[\]'; give a list"),
    (BASE + "rate: [1]\n", r"campaign.yaml:5: 'rate' is not a key here; did you mean 'rates'\?"),
    (BASE + "rates: [1, 2, 1]\n", r"campaign.yaml:5: rates: '1.0' is there twice \(first in line 5\); remove or rename one"),
    (
        BASE.replace("scen", "  - name: openai\n  - name: reference\nscen"),
        r"campaign.yaml:5: engines: 'reference' is there twice \(first in line 3\)",
    ),
    (BASE.replace("reference", "vlm"), r"campaign.yaml:3: engines.0.name: there is no engine 'vlm'; did you mean 'vllm'\?"),
    (
        BASE.replace("reference\n", "mine\n    engine: opnai\n"),
        r"campaign.yaml:4: engines.0.engine: there is no engine 'opnai'; did you mean",
    ),
    (BASE.replace("reference", "Two words"), r"campaign.yaml:3: .*name"),
    (BASE.replace("smoke", "smoky"), r"campaign.yaml:4: scenarios.0: there is no scenario 'smoky'; did you mean smoke"),
    (BASE + "repeats: 0\n", r"campaign.yaml:5: repeats can't be '0'; give a whole number >= 1"),
    (BASE + "settings:\n  num_prompts: 0\n", r"campaign.yaml:6: num_prompts can't be '0'; give a whole number >= 1"),
    (BASE + "settings:\n  num_promts: 3\n", r"campaign.yaml:6: 'num_promts' is not a key here; did you mean 'num_prompts'\?"),
    (BASE + "settings:\n  request_rate: '3'\n", r"campaign.yaml:6: 'request_rate' is not a key here"),
    (BASE + "settings:\n  goodput: ['ttft=5']\n", r"campaign.yaml:6: settings.goodput: --goodput 'ttft=5' is not a service level"),
    (BASE + "fail_if:\n  - ttft p50 > 5%\n  - slower\n", r"campaign.yaml:7: fail_if: 'slower' is not a condition; write METRIC > LIMIT"),
    (BASE + "capacity:\n  shar: 0.9\n", r"campaign.yaml:6: 'shar' is not a key here; did you mean 'share'\?"),
    (
        BASE + "settings: {goodput: ['ttft:5']}\ncapacity:\n  share: 0.999\n  max_requests: 500\n",
        r"campaign.yaml:8: capacity.max_requests: a share .* needs at least .* requests",
    ),
    (
        BASE.replace("reference", "b\n    base_url: http://127.0.0.1:1\n    card: h1000"),
        r"campaign.yaml:5: engines.0.card: there is no card 'h1000'",
    ),
    (BASE + "name: b\n", r"campaign.yaml:5: the key 'name' is given twice \(first in line 1\)"),
    (BASE.replace("reference", "reference\n    endpoint: /v1"), r"campaign.yaml:4: engines.0.endpoint: --endpoint is for servers"),
]


@pytest.mark.parametrize(("text", "said"), WRONG, ids=[said[:60] for _, said in WRONG])
def test_what_is_wrong_is_one_line_with_its_place(text, said, tmp_path):
    path = written(tmp_path, text)
    with pytest.raises(UserError, match=said) as refused:
        load(path)
    assert "\n" not in str(refused.value)


def test_every_default_of_a_campaign_stands_in_the_documentation():
    page = (Path(__file__).parents[2] / "docs" / "campaigns.md").read_text()
    assert [name for name in Campaign.__struct_fields__ if f"`{name}`" not in page] == []
