"""Command lines of `vllm bench serve`, taken as they are by `serve-bench`: words are rewritten before they are parsed.

`--backend` (or `--endpoint-type`), or without --engine and --scenario a length that is named as only vLLM does, says that a line is vLLM's:
then what it leaves out means what it means there (all at once, 1,000 random prompts, completions). The other words are understood in any
line. Read from vLLM 0.33's `vllm/benchmarks/serve.py` and `datasets/datasets.py`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator

import typer
import typer.core

from bytemlperf.errors import UserError

SAME = {"--random-input-len": "--input-len", "--random-output-len": "--output-len"}
SAME |= {"--random-input": "--input-len", "--random-output": "--output-len", "--num-prompt": "--num-prompts"}  # argparse takes them
SAME |= {"--sharegpt-output-len": "--output-len", "--custom-output-len": "--output-len"}
SAME |= {"--served-model-name": "--model", "--timed-trace-chunk-hash-size": "--trace-block-size"}
SAME |= {"--random-batch-size": "--batch-size"}
VLLM_ONLY = {name for name, flag in SAME.items() if flag.endswith("-len")}
MANY_VALUES = {
    "--goodput": re.compile(r"[a-z0-9]+:[0-9.]+"),
    "--metadata": re.compile(r"[^-=][^=]*=.*"),
    "--header": re.compile(r"[^-=][^=]*=.*"),
}
ENDPOINTS = {
    **dict.fromkeys(("vllm", "openai", "sglang", "sglang-oai", "lmdeploy", "scalellm", "llama.cpp"), "/v1/completions"),
    **dict.fromkeys(("openai-chat", "sglang-oai-chat", "chat"), "/v1/chat/completions"),
    **dict.fromkeys(("openai-responses", "responses"), "/v1/responses"),
    **dict.fromkeys(("openai-embeddings", "embeddings"), "/v1/embeddings"),
    **dict.fromkeys(("vllm-rerank", "rerank"), "/v1/rerank"),
}
"""What a backend of theirs asks, or an endpoint type of aiperf's."""
WHOLE_ENDPOINTS = tuple({f"/{path.rpartition('/')[2]}" for path in ENDPOINTS.values()})
RANDOM_NAMES = ("random", "random-rerank")
RANDOM = {"--input-len": "1024", "--output-len": "128"}  # vLLM's default data set
BODY = ("--min-p", "--frequency-penalty", "--presence-penalty", "--repetition-penalty", "--logprobs", "--chat-template-kwargs")
"""Fields of the request's body that are flags there."""
NOTED = {
    "--append-result": "every run has a folder of its own, with its own result",
    "--request-id-prefix": "request ids are the schedule's; --label names the run",
    "--plot-timeline": "the timeline is in the run's report.html",
    "--plot-dataset-stats": "lengths are in the run's report.html",
    "--timeline-itl-thresholds": "the timeline is in the run's report.html",
    "--self-timed": "a trace is sent at its own times unless --request-rate is given",
    "--skip-tokenizer-init": "tokens are counted where --tokenizer or the model says how",
    "--no-oversample": "--num-prompts bounds the run",
    "--disable-shuffle": "the order is the file's",
    "--custom-ensure-client-side-data": "prompts are read before the first request",
    "--tokenizer-mode": "the tokenizer is the model's tokenizer.json, or that of --tokenizer",
    "--profile": "the server isn't profiled",
}
"""vLLM's flags that are taken, and what is done instead."""
NO_VALUE: tuple[str, ...] = (
    "--trust-remote-code",
    "--disable-tqdm",
    "--append-result",
    "--plot-timeline",
    "--plot-dataset-stats",
    "--self-timed",
)
NO_VALUE += ("--skip-tokenizer-init", "--no-oversample", "--disable-shuffle", "--custom-ensure-client-side-data", "--profile")
FROM_FILE = "name the data as a file, with --dataset-name (custom or sharegpt) and --dataset-path"
TEXT_ONLY = "leave it out: prompts are text and images"
DRAWN = "images of a size are drawn with --images WIDTHxHEIGHT*COUNT"
ELSEWHERE = {
    "--use-beam-search": "give it with --extra-body '{\"use_beam_search\": true}'",
    "--probe-request-rate": "leave it out; --request-rate auto probes for a rate",
    "--lora-": "name the adapter the server serves with --model, or several as model of classes in a --scenario file",
    "--no-self-timed": "give --request-rate",
    "--skip-chat-template": "use --endpoint /v1/completions",
    "--no-stream": "leave it out: every response is streamed, so that its tokens can be timed",
    "--no-reranker": "leave it out: a rerank takes a query and documents as they are",
    "--enable-multimodal-chat": DRAWN,
    "--prefix-repetition-": "use --random-prefix-len with --input-len and --output-len",
    "--sonnet-": "use --random-prefix-len with --input-len and --output-len",
    "--hf-": FROM_FILE,
    "--spec-bench-": FROM_FILE,
    "--speed-bench-": FROM_FILE,
    "--blazedit-": FROM_FILE,
    "--bfcl-": FROM_FILE,
    "--timed-trace-label-": "leave it out: name the file's fields as the format does, see docs/traces.md",
    "--random-mm-": DRAWN,
    "--asr-": TEXT_ONLY,
}
"""vLLM's flags that have no equal, or what theirs begin with, and what to do instead."""
DATASETS = {"hf": FROM_FILE, "random-mm": DRAWN}
DATASETS |= dict.fromkeys(("sonnet", "prefix_repetition"), ELSEWHERE["--prefix-repetition-"])
OTHER_TOOLS = {
    "--request-rate": ("--rate", "--rps", "--qps"),
    "--max-concurrency": ("--concurrency", "--users", "--num-users", "--parallel", "--max-num-connections"),
    "--base-url": ("--target", "--url", "--server", "--api-base"),
    "--duration": ("--max-seconds", "--benchmark-duration", "--time"),
    "--num-prompts": ("--max-requests", "--num-requests", "--request-count", "--number", "--n-requests"),
    "--num-warmups": ("--warmup-request-count", "--warmup"),
    "--input-len": ("--isl", "--synthetic-input-tokens-mean", "--prompt-tokens", "--prompt-length", "--prompt-len"),
    "--output-len": ("--osl", "--output-tokens-mean", "--output-tokens", "--max-tokens", "--output-length"),
    "--dataset-path": ("--data", "--input-file", "--dataset"),
    "--result-dir": ("--output-path", "--output-dir", "--artifact-dir", "--outputs-dir"),
    "--goodput": ("--slo", "--sla"),
    "--seed": ("--random-seed",),
}
"""This program's flags, and what guidellm, aiperf, inference-perf, evalscope and k6 call them."""
MEANT = {other: flag for flag, others in OTHER_TOOLS.items() for other in others}


class VllmCommand(typer.core.TyperCommand):
    """A command whose line may be one of vLLM's."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        own = {name for parameter in self.params for name in parameter.opts}
        for word in args:
            name = word.partition("=")[0].replace("_", "-")
            if name in MEANT and name not in own and MEANT[name] in own:
                raise UserError(f"{name} is another tool's flag", f"use {MEANT[name]}")
        return super().parse_args(ctx, ours(args))


def ours(words: list[str]) -> list[str]:
    """The same command line in this program's words. Raises UserError for what has no equal here, with the flag that is nearest."""
    pairs = list(_pairs(words))
    given = dict(pairs)
    is_vllms = not given.keys() & {"--engine", "--scenario"} and (VLLM_ONLY & given.keys() or given.get("--dataset-name") in RANDOM_NAMES)
    backend = given.get("--backend") or given.get("--endpoint-type") or ("openai" if is_vllms else None)
    dropped = {"--model"} if given.get("--served-model-name") else set()  # the name that requests say; vLLM's --model finds a tokenizer
    if backend is not None and "--save-result" not in given:
        if "--append-result" in given:
            pairs.append(("--save-result", None))
        else:
            dropped |= {"--result-dir", "--result-filename", "--save-detailed"}
    for name in dict.fromkeys(name for name, _ in pairs if name in NOTED):
        print(f"note: {name} of vllm bench serve: {NOTED[name]}", file=sys.stderr)
    if body := {name: value for name, value in pairs if name in BODY and value is not None}:
        pairs = [*((name, value) for name, value in pairs if name not in (*BODY, "--extra-body")), _body(body, given.get("--extra-body"))]
    pairs = [(SAME.get(name, name), value) for name, value in pairs if name not in dropped and not _is_dropped(name, value)]
    if backend is not None:
        pairs += _defaults(backend, given)
    elif given.get("--dataset-name") in RANDOM_NAMES:
        pairs += _missing(RANDOM, given)
    if "--host" in given or "--port" in given:
        pairs.append(("--base-url", f"http://{given.get('--host') or '127.0.0.1'}:{given.get('--port') or '8000'}"))
    return [word for name, value in pairs for word in ((name,) if value is None else (name, value))]


def _pairs(words: list[str]) -> Iterator[tuple[str, str | None]]:
    """Each flag with its value, as far as a value is told from a word that stands alone; flags are spelled with hyphens."""
    place = 0
    while place < len(words):
        word = words[place]
        place += 1
        if not word.startswith("--") or word == "--":
            yield word, None
            continue
        name, equals, value = word.partition("=")
        name = name.replace("_", "-")
        if instead := next((text for flag, text in ELSEWHERE.items() if name == flag or (flag[-1] == "-" and name.startswith(flag))), None):
            raise UserError(f"{name} of vllm bench serve is not supported here", instead)
        if equals:
            yield name, value
        elif place == len(words) or words[place].startswith("-") or name in NO_VALUE:
            yield name, None
        else:
            yield name, words[place]
            place += 1
        while name in MANY_VALUES and place < len(words) and MANY_VALUES[name].fullmatch(words[place]):
            yield name, words[place]
            place += 1


def _is_dropped(name: str, value: str | None) -> bool:
    if name == "--dataset-name" and value in DATASETS:
        raise UserError(f"--dataset-name {value} of vllm bench serve is not supported here", DATASETS[value])
    always = (*NO_VALUE, *NOTED, "--backend", "--endpoint-type", "--host", "--port")
    return name in always or (name == "--dataset-name" and value in RANDOM_NAMES)


def _body(fields: dict[str, str], extra: str | None) -> tuple[str, str]:
    """The flag that merges them into every request's body. Raises UserError."""
    try:
        body = json.loads(extra or "{}")
        body |= {name[2:].replace("-", "_"): json.loads(value) for name, value in fields.items()}
    except (ValueError, TypeError):
        raise UserError(f"{' '.join(fields)} or --extra-body is not JSON", "give numbers, and JSON objects in quotes") from None
    return "--extra-body", json.dumps(body)


def _defaults(backend: str, given: dict[str, str | None]) -> list[tuple[str, str | None]]:
    """What vLLM's own line means by what it leaves out."""
    if backend not in ENDPOINTS:
        raise UserError(f"--backend {backend} is not supported here", "use the server's OpenAI-compatible address with --engine openai")
    if given.get("--engine") not in (None, "openai"):
        raise UserError(f"--backend is for servers, and --engine {given['--engine']} runs in process", "remove one of them")
    found = {"--engine": "openai"}
    if not (given.get("--base-url") or "").partition("?")[0].rstrip("/").endswith(WHOLE_ENDPOINTS):
        found["--endpoint"] = ENDPOINTS[backend]
    if "--ramp-up-strategy" not in given:
        found["--request-rate"] = "inf"
    if "--duration" not in given:
        found["--num-prompts"] = "1000"
    random = given.get("--dataset-name") in (None, *RANDOM_NAMES) and "--dataset-path" not in given
    more = _missing(found | (RANDOM if random else {}), given)
    return more if random or given.keys() & {"--ignore-eos", "--no-ignore-eos"} else [*more, ("--no-ignore-eos", None)]


def _missing(defaults: dict[str, str], given: dict[str, str | None]) -> list[tuple[str, str | None]]:
    names = {SAME.get(name, name) for name in given}
    return [(name, value) for name, value in defaults.items() if name not in names]
