"""Command lines of `vllm bench serve` mean here what they mean there, or name the flag that does."""

from __future__ import annotations

import argparse
import shlex

import pytest
from typer.main import get_group

from bytemlperf.errors import UserError
from bytemlperf_llm.cli import app
from bytemlperf_llm.plan.vllm_words import BODY, NO_VALUE, NOTED, SAME, ours
from engines.reference.server import ReferenceServer
from tests.cli.helpers import bmp


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("--num_prompts 3 --base_url=http://h:1", "--num-prompts 3 --base-url http://h:1"),
        ("--scenario chat --random-input-len 64 --random-output-len=20", "--scenario chat --input-len 64 --output-len 20"),
        ("--engine vllm --dataset-name random --random-input-len 64", "--engine vllm --input-len 64 --output-len 128"),
        ("--random-range-ratio 0 --random_range_ratio 0.5", "--random-range-ratio 0 --random-range-ratio 0.5"),
        ("--min-p 0.1 --profile", "--extra-body '{\"min_p\": 0.1}'"),
        ("--trust_remote_code --disable-tqdm --num-prompts 3", "--num-prompts 3"),
        ("--goodput ttft:500 tpot:50 e2el:10000 --model m", "--goodput ttft:500 --goodput tpot:50 --goodput e2el:10000 --model m"),
        ("--metadata a=1 b=2 --save-result", "--metadata a=1 --metadata b=2 --save-result"),
        ("--model some/folder --served-model-name m", "--model m"),
        ("--timed-trace-chunk-hash-size 16", "--trace-block-size 16"),
        ("--host h --port 9", "--base-url http://h:9"),
        (
            "--backend openai-chat --dataset-name random --random-input-len 64 --random-output-len 20 --num-prompts 6 --request-rate 10",
            "--input-len 64 --output-len 20 --num-prompts 6 --request-rate 10 --engine openai --endpoint /v1/chat/completions",
        ),
        (
            "--backend vllm --dataset-name sharegpt --dataset-path f.json --num-prompts 3 --ignore-eos",
            "--dataset-name sharegpt --dataset-path f.json --num-prompts 3 --ignore-eos "
            "--engine openai --endpoint /v1/completions --request-rate inf",
        ),
        (
            "--endpoint-type openai --dataset-name sharegpt --dataset-path f.json",
            "--dataset-name sharegpt --dataset-path f.json "
            "--engine openai --endpoint /v1/completions --request-rate inf --num-prompts 1000 --no-ignore-eos",
        ),
        (
            "--backend openai --base-url http://h/v1/chat/completions",
            "--base-url http://h/v1/chat/completions "
            "--engine openai --request-rate inf --num-prompts 1000 --input-len 1024 --output-len 128",
        ),
        (
            "--backend openai-embeddings --random-input-len 64 --random-batch-size 8 --num-prompts 6 --request-rate 10 --output-len 1",
            "--input-len 64 --batch-size 8 --num-prompts 6 --request-rate 10 --output-len 1 --engine openai --endpoint /v1/embeddings",
        ),
        (
            "--endpoint-type rerank --dataset-name random-rerank --num-prompts 6",
            "--num-prompts 6 --engine openai --endpoint /v1/rerank --request-rate inf --input-len 1024 --output-len 128",
        ),
        (
            "--backend openai-responses --base-url http://h/v1/responses --num-prompts 6 --request-rate 1 --random-input-len 9",
            "--base-url http://h/v1/responses --num-prompts 6 --request-rate 1 --input-len 9 --engine openai --output-len 128",
        ),
        ("--engine reference --request-rate -1 --label '' -q", "--engine reference --request-rate -1 --label '' -q"),
    ],
)
def test_a_line_is_rewritten(line, meant):
    assert ours(shlex.split(line)) == shlex.split(meant)


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ("--backend tgi", "--engine openai"),
        ("--backend vllm --engine transformers", "remove"),
        ("--min-p much", "give numbers"),
        ("--no-stream", "leave it out"),
        ("--hf-split train", "--dataset-path"),
        ("--use-beam-search", "--extra-body"),
        ("--prefix-repetition-prefix-len 5", "--random-prefix-len"),
        ("--random-mm-bucket-config x", "--images"),
        ("--no-reranker", "leave it out"),
        ("--endpoint-type rankings", "OpenAI-compatible"),
    ],
)
def test_what_has_no_equal_names_the_nearest_flag(line, fix):
    with pytest.raises(UserError) as refused:
        ours(shlex.split(line))
    assert fix in refused.value.fix


def test_every_flag_of_vllms_own_parser_is_taken_or_refused_with_what_to_do():
    serve = pytest.importorskip("vllm.benchmarks.serve")
    parser = argparse.ArgumentParser()
    serve.add_cli_args(parser)
    taken = {name for parameter in get_group(app).commands["serve-bench"].params for name in (*parameter.opts, *parameter.secondary_opts)}
    taken |= {*SAME, *NO_VALUE, *NOTED, *BODY, "--backend", "--endpoint-type", "--host", "--port", "--random-range-ratio", "--help"}
    for flag in (name for action in parser._actions for name in action.option_strings if name.startswith("--")):
        if flag not in taken:
            with pytest.raises(UserError):
                ours([flag])


async def test_a_whole_line_runs(tmp_path):
    import asyncio

    async with ReferenceServer({"ttft_ms": "2", "itl_ms": "1"}) as server:
        words = shlex.split(
            f"serve-bench --backend openai-chat --base-url {server.url} --endpoint /v1/chat/completions --dataset-name random "
            "--random-input-len 16 --random-output-len 4 --num_prompts 6 --request-rate inf --max-concurrency 2 "
            "--goodput ttft:5000 tpot:500 "
            "--percentile-metrics ttft,tpot,itl,e2el --metric-percentiles 50,99 --save-result --trust-remote-code --no-report"
        )
        ended = await asyncio.to_thread(bmp, *words, cwd=tmp_path)
    assert ended.returncode in (0, 1), ended.stderr
    assert len(list(tmp_path.glob("runs/*/vllm-bench.json"))) == 1


def test_a_flag_that_is_unknown_draws_no_hint_at_an_unrelated_one(tmp_path):
    far = bmp("serve-bench", "--frobnicate-rate", "3", cwd=tmp_path)
    near = bmp("serve-bench", "--num-promts", "3", cwd=tmp_path)
    assert (far.returncode, near.returncode) == (2, 2)
    assert "Possible" not in far.stderr
    assert "Did you mean" not in far.stderr
    assert "--num-prompts" in near.stderr
