"""Command lines of `vllm bench serve` as public issues, pull requests and scripts have them: each makes a plan of a run here, or is refused
with the flag to use. Models' and files' names are shortened."""

from __future__ import annotations

import json
import shlex

import pytest

from bytemlperf.errors import UserError
from bytemlperf_llm.cli import app
from bytemlperf_llm.plan.plan import Plan

PLANS = {
    "--dataset-name random --random-input-len 20000 --random-output-len 250 --num-prompts 1 --request-rate inf": ("at_once", 1, 250),
    "--dataset-name random --random-input-len 20000 --random-output-len 250 --num-prompts 10 --request-rate 0.15 --seed 42": (
        0.15,
        10,
        250,
    ),
    "--backend openai --base-url http://localhost:8081 --model Llama-3.3-70B --dataset-name random --seed 12345": ("at_once", 1000, 128),
    "--port 10001 --seed 17 --model m --dataset-name random --random-input-len 1000 --random-output-len 10 --num-prompts 1 "
    "--request-rate 0.5": (0.5, 1, 10),
    "--model DeepSeek-V3 --dataset-name sharegpt --sharegpt-output-len 100 --port 9020 --dataset-path FILE.json --backend vllm": (
        *("at_once", 1000),
        100,
    ),
    "--backend vllm --base-url http://localhost:8000 --model m --dataset-name sharegpt --dataset-path FILE.json --num-prompts 32 "
    "--request-rate 8": (8.0, 32, None),
    "--seed 42 --burstiness 1.0 --backend vllm --host 127.0.0.1 --port 9999 --endpoint /v1/completions --model m --tokenizer words "
    "--dataset-name random --num-prompts 64 --random-input-len 512 --random-output-len 128 --ignore-eos": ("at_once", 64, 128),
    "--backend openai-chat --host 127.0.0.1 --port 8001 --endpoint /v1/chat/completions --model Qwen3.5-27B --tokenizer words "
    "--dataset-name custom --dataset-path FILE.jsonl --num-prompts 5 --no-oversample --max-concurrency 1 --request-rate 1 "
    "--percentile-metrics ttft,tpot,itl,e2el --metric-percentiles 50,95,99 --save-result --result-dir out --result-filename r.json": (
        *(1.0, 5),
        None,
    ),
    "--backend vllm --base-url http://127.0.0.1:8000 --model m --dataset-name random --random-input-len 7000 --random-output-len 100 "
    "--random-range-ratio 0 --num-prompts 3 --max-concurrency 1 --request-rate inf --ignore-eos --temperature 0": ("at_once", 3, 100),
    "--backend vllm --model Qwen3-Next-80B --served-model-name qwen3-next --endpoint /v1/completions --dataset-name random "
    "--random-input 2048 --random-output 1024 --max-concurrency 256": ("at_once", 1000, 1024),
    "--backend vllm --base-url http://127.0.0.1:8000 --model Qwen3.8-27B-FP8 --dataset-name random --num-prompts 32 "
    "--random-input-len 512 --random-output-len 128 --ignore-eos --request-rate inf --max-concurrency 8 --seed 42": ("at_once", 32, 128),
    "--host localhost --port 9000 --model m --dataset-name random --random-input-len 3584 --random-output-len 1024 --max-concurrency 64 "
    "--num-prompts 128 --percentile-metrics ttft,tpot,itl,e2el --ignore-eos --seed 123": ("at_once", 128, 1024),
    "--model gemma-4-31B-it --dataset-name random --random-input-len 8000 --random-output-len 1000 --request-rate 10000 "
    "--num-prompts 16 --ignore-eos": (10000.0, 16, 1000),
    "--model path --served-model-name qwen3 --port 8000 --dataset-name random --random-input 200 --num-prompts 200 --request-rate 1 "
    "--save-result --result-dir ./": (1.0, 200, 128),
    "--model path --host 127.0.0.1 --port 9001 --ignore-eos --dataset-name random --num-prompt 16 --append-result --save-result "
    "--result-filename result_sla.jsonl --max-concurrency 32 --random-input-len 128 --random-output-len 128": ("at_once", 16, 128),
    "--backend openai --base-url http://localhost:8000 --model m --dataset-name random --random-input-len 2048 --random-output-len 32 "
    "--num-prompts 64 --request-rate 8": (8.0, 64, 32),
    "--model m --backend vllm --base-url http://0.0.0.0:8000 --dataset-name random --random-input-len 1024 --random-output-len 1024 "
    "--random-range-ratio 0.8 --num-prompts 640 --max-concurrency 64 --request-rate inf --ignore-eos --save-result "
    "--percentile-metrics 'ttft,tpot,itl,e2el' --result-dir /workspace/ --result-filename r.json": ("at_once", 640, (204, 1844)),
    "--model m --base-url http://h:1 --tokenizer words --backend openai-chat --endpoint '/v1/chat/completions' --dataset-name random "
    "--random-input-len 512 --random-output-len 256 --seed 0 --num-prompts 20 --result-dir d --result-filename f --request-rate 4 "
    "--logprobs 1 --percentile-metrics ttft,tpot,itl,e2el": (4.0, 20, 256),
    "--backend openai-chat --base-url http://localhost:8001 --endpoint /v1/chat/completions --model Meta-Llama-3-8B --tokenizer words "
    "--dataset-name sharegpt --dataset-path FILE.json --num-prompts 1000 --request-rate 8 --seed 42 --save-result "
    "--result-dir results/vllm --result-filename vllm_rate8.json": (8.0, 1000, None),
    "--backend vllm --model Llama-3.3-70B --num-prompts 200 --request-rate 10": (10.0, 200, 128),
    "--backend openai-chat --host 127.0.0.1 --port 8000 --endpoint /v1/chat/completions --dataset-name random --num-prompts 1000": (
        *("at_once", 1000),
        128,
    ),
    "--backend vllm --base-url http://127.0.0.1:9400 --endpoint /v1/completions --dataset-name random --model qwen32b --tokenizer words "
    "--seed 12345 --random-input-len 2048 --random-output-len 2048 --num-prompts 16 --request-rate 8 --metric-percentiles 95,99 "
    "--trust-remote-code": (8.0, 16, 2048),
    "--backend openai-chat --host 127.0.0.1 --port 8000 --model Qwen2.5-1.5B --endpoint /v1/chat/completions --save-result "
    "--result-dir ./bench-results --metadata 'version=0.6.0' 'tp=1'": ("at_once", 1000, 128),
    "--model m --dataset-name random --random-input-len=10000 --random-output-len=50 --random-range-ratio=0 --num-prompts 10 "
    "--max-concurrency 1 --trust-remote-code --ignore-eos --metric-percentiles='50,90,99'": ("at_once", 10, 50),
    "--backend vllm --model m --dataset-name burstgpt --dataset-path FILE.csv --num-prompts 16 --request-rate 2": (2.0, 16, None),
    "--backend vllm --model m --random_input_len 64 --random_output_len 16 --num_prompts 4 --request_rate 2 --min-p 0.1 "
    "--repetition-penalty 1.1 --disable-tqdm --plot-timeline --request-id-prefix a-": (2.0, 4, 16),
    "--port 8000 --random-input-len 100 --num-prompts 8 --burstiness inf --request-rate 5 --goodput ttft:500 tpot:50": (
        5.0,
        8,
        128,
    ),
}
"""What stands behind `vllm bench serve`: the arrivals' process or rate, how many requests, how long the responses."""
REFUSALS = {
    "--model m --endpoint-type openai-chat --endpoint /v1/chat/completions --dataset-name hf --dataset-path a/ShareGPT": "--dataset-path",
    "--model Qwen2.5-VL-7B --backend openai-chat --endpoint /v1/chat/completions --dataset-name hf --dataset-path a/b --hf-split train "
    "--num-prompts 200 --request-rate 16": "--dataset-path",
    "--model m --tokenizer-mode deepseek_v4 --dataset-name hf --dataset-path mt-bench --num-prompts 80 --max-concurrency 4 "
    "--base-url http://127.0.0.1:8000 --temperature 1.0": "--dataset-path",
    "--backend vllm --model m --dataset-name prefix_repetition --prefix-repetition-prefix-len 512 --num-prompts 8": "--random-prefix-len",
    "--backend vllm --model m --dataset-name sonnet --dataset-path sonnet.txt --num-prompts 8": "--random-prefix-len",
}


@pytest.fixture
def planned(monkeypatch, tmp_path):
    """Of a command line: the plan that would run."""
    plans: list[Plan] = []
    monkeypatch.setattr("bytemlperf_llm.run.bench.serve_bench", lambda plan, _: plans.append(plan) or 0)
    said = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    (tmp_path / "FILE.json").write_text(json.dumps([{"id": "a", "conversations": said}]))
    (tmp_path / "FILE.jsonl").write_text('{"prompt": "q"}\n')
    (tmp_path / "FILE.csv").write_text("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,4,2,6,API log\n")
    monkeypatch.chdir(tmp_path)

    def plan(line: str) -> Plan:
        app(["serve-bench", *shlex.split(line)], standalone_mode=False)
        return plans[-1]

    return plan


@pytest.mark.parametrize("line", PLANS)
def test_a_line_makes_its_run(planned, line):
    rate, requests, output = PLANS[line]
    plan = planned(line)
    scenario = plan.load.scenario
    assert plan.engine.name == "openai"
    assert (scenario.arrival.process if rate == "at_once" else scenario.arrival.rate) == rate
    assert scenario.num_requests == requests
    lengths = scenario.output_tokens
    if isinstance(output, tuple):
        assert (lengths.min, lengths.max) == output
    elif output is not None:
        assert lengths.value == output
    assert plan.engine.options.get("endpoint", "/v1/completions" if "chat" not in line else "") in line + " /v1/completions"


def test_sampling_flags_become_fields_of_the_body(planned):
    plan = planned("--backend vllm --model m --random-input-len 9 --num-prompts 4 --min-p 0.1 --logprobs 1 --extra-body '{\"a\": 1}'")
    assert json.loads(plan.engine.options["extra_body"]) == {"a": 1, "min_p": 0.1, "logprobs": 1}


@pytest.mark.parametrize("line", REFUSALS)
def test_what_has_no_equal_names_the_flag_to_use(planned, line):
    with pytest.raises(UserError) as refused:
        planned(line)
    assert REFUSALS[line] in refused.value.fix


@pytest.mark.parametrize(
    ("given", "flag"),
    [
        ("--rate 4", "--request-rate"),
        ("--concurrency 4", "--max-concurrency"),
        ("--target http://h:1", "--base-url"),
        ("--url=http://h:1", "--base-url"),
        ("--max-seconds 30", "--duration"),
        ("--users 8", "--max-concurrency"),
    ],
)
def test_another_tools_flag_is_answered_with_ours(given, flag):
    with pytest.raises(UserError) as refused:
        app(["serve-bench", *shlex.split(given)], standalone_mode=False)
    assert flag in refused.value.fix


def test_an_address_alone_is_a_servers(planned):
    assert planned("--base-url http://127.0.0.1:8000").engine.name == "openai"


def test_a_name_that_a_command_has_itself_is_its_own():
    from typer.main import get_group

    from bytemlperf_llm.plan.vllm_words import MEANT

    own = {name for parameter in get_group(app).commands["capacity"].params for name in parameter.opts}
    assert "--max-requests" in own & MEANT.keys()
