"""Command lines of `vllm bench serve`, taken as they are by `serve-bench`: words are rewritten before they are parsed.

`--backend` (or `--endpoint-type`) says that a line is vLLM's: then what it leaves out means what it means there (all at once,
1,000 random prompts, completions). The other words are understood in any line. Read from vLLM 0.33's `vllm/benchmarks/serve.py`
and `datasets/datasets.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import typer
import typer.core

from bytemlperf.errors import UserError

SAME = {"--random-input-len": "--input-len", "--random-output-len": "--output-len"}
SAME |= {"--sharegpt-output-len": "--output-len", "--custom-output-len": "--output-len"}
SAME |= {"--served-model-name": "--model", "--timed-trace-chunk-hash-size": "--trace-block-size"}
WITHOUT_EFFECT = ("--trust-remote-code", "--disable-tqdm")
MANY_VALUES = {
    "--goodput": re.compile(r"[a-z0-9]+:[0-9.]+"),
    "--metadata": re.compile(r"[^-=][^=]*=.*"),
    "--header": re.compile(r"[^-=][^=]*=.*"),
}
BACKENDS = ("vllm", "openai", "openai-chat", "sglang", "sglang-oai", "sglang-oai-chat", "lmdeploy", "scalellm", "llama.cpp")
RANDOM = {"--input-len": "1024", "--output-len": "128"}  # vLLM's default data set
SAMPLING = ("min-p", "frequency-penalty", "presence-penalty", "repetition-penalty", "chat-template-kwargs", "logprobs", "use-beam-search")
FROM_FILE = "name the data as a file, with --dataset-name (custom or sharegpt) and --dataset-path"
TEXT_ONLY = "leave it out: prompts are text"
ELSEWHERE = {f"--{name}": f"give it with --extra-body '{{\"{name.replace('-', '_')}\": …}}'" for name in SAMPLING} | {
    "--tokenizer-mode": "leave it out, or name a folder with --tokenizer",
    "--random-batch-size": "leave it out: every prompt is its own request here",
    "--probe-request-rate": "leave it out; --request-rate auto probes for a rate",
    "--append-result": "leave it out; every run has a folder of its own under --runs-dir",
    "--request-id-prefix": "leave it out; --label names the run",
    "--profile": "leave it out",
    "--plot-timeline": "leave it out; the timeline is in report.html (--report)",
    "--plot-dataset-stats": "leave it out; lengths are in report.html (--report)",
    "--timeline-itl-thresholds": "leave it out; the timeline is in report.html (--report)",
    "--lora-modules": "name the adapter the server serves with --model",
    "--lora-assignment": "name the adapter the server serves with --model",
    "--self-timed": "leave it out: a trace is sent at its own times unless --request-rate is given",
    "--no-self-timed": "give --request-rate",
    "--skip-chat-template": "use --endpoint /v1/completions",
    "--skip-tokenizer-init": "leave it out: tokens are counted only where --tokenizer or the model says how",
    "--no-stream": "leave it out: every response is streamed, so that its tokens can be timed",
    "--no-oversample": "leave it out; --num-prompts bounds the run",
    "--disable-shuffle": "leave it out: the order is the file's",
    "--custom-ensure-client-side-data": "leave it out: prompts are read before the first request",
    "--no-reranker": "leave it out: only text generation is measured",
    "--enable-multimodal-chat": TEXT_ONLY,
    "--prefix-repetition-": "use --random-prefix-len with --input-len and --output-len",
    "--hf-": FROM_FILE,
    "--spec-bench-": FROM_FILE,
    "--speed-bench-": FROM_FILE,
    "--blazedit-": FROM_FILE,
    "--bfcl-": FROM_FILE,
    "--timed-trace-label-": "leave it out: name the file's fields as the format does, see docs/traces.md",
    "--random-mm-": TEXT_ONLY,
    "--asr-": TEXT_ONLY,
}
"""vLLM's flags that have no equal, or what theirs begin with, and what to do instead."""


class VllmCommand(typer.core.TyperCommand):
    """A command whose line may be one of vLLM's."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        return super().parse_args(ctx, ours(args))


def ours(words: list[str]) -> list[str]:
    """The same command line in this program's words. Raises UserError for what has no equal here, with the flag that is nearest."""
    pairs = list(_pairs(words))
    given = dict(pairs)
    backend = given.get("--backend") or given.get("--endpoint-type")
    dropped = {"--model"} if given.get("--served-model-name") else set()  # the name that requests say; vLLM's --model finds a tokenizer
    pairs = [(SAME.get(name, name), value) for name, value in pairs if name not in dropped and not _is_dropped(name, value)]
    if backend is not None:
        pairs += _defaults(backend, given)
    elif given.get("--dataset-name") == "random":
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
        elif place == len(words) or words[place].startswith("-") or name in WITHOUT_EFFECT:
            yield name, None
        else:
            yield name, words[place]
            place += 1
        while name in MANY_VALUES and place < len(words) and MANY_VALUES[name].fullmatch(words[place]):
            yield name, words[place]
            place += 1


def _is_dropped(name: str, value: str | None) -> bool:
    if name == "--random-range-ratio" and value is not None:
        if not re.fullmatch(r"0?\.?0*", value):
            raise UserError(f"--random-range-ratio {value} spreads lengths", "take 0, or give lengths' distributions in a --scenario file")
        return True
    return name in (*WITHOUT_EFFECT, "--backend", "--endpoint-type", "--host", "--port") or (name, value) == ("--dataset-name", "random")


def _defaults(backend: str, given: dict[str, str | None]) -> list[tuple[str, str | None]]:
    """What vLLM's own line means by what it leaves out."""
    if backend not in BACKENDS:
        raise UserError(f"--backend {backend} is not supported here", "use the server's OpenAI-compatible address with --engine openai")
    if given.get("--engine") not in (None, "openai"):
        raise UserError(f"--backend is for servers, and --engine {given['--engine']} runs in process", "remove one of them")
    found = {"--engine": "openai"}
    if not (given.get("--base-url") or "").partition("?")[0].rstrip("/").endswith("/completions"):
        found["--endpoint"] = "/v1/chat/completions" if backend.endswith("-chat") else "/v1/completions"
    if "--ramp-up-strategy" not in given:
        found["--request-rate"] = "inf"
    if "--duration" not in given:
        found["--num-prompts"] = "1000"
    random = given.get("--dataset-name") in (None, "random") and "--dataset-path" not in given
    more = _missing(found | (RANDOM if random else {}), given)
    return more if random or given.keys() & {"--ignore-eos", "--no-ignore-eos"} else [*more, ("--no-ignore-eos", None)]


def _missing(defaults: dict[str, str], given: dict[str, str | None]) -> list[tuple[str, str | None]]:
    names = {SAME.get(name, name) for name in given}
    return [(name, value) for name, value in defaults.items() if name not in names]
