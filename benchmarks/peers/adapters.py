"""How each client is told to make one load: the same server, model name, lengths and number of requests.

Prompts are 16 tokens of each peer's own synthetic data. A client that is pinned to one core gets one worker
where it asks for a number; everything else is as its authors set it. Requests go to
`/v1/chat/completions`, but for inference-perf, whose random data knows only `/v1/completions`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness import OURS, ROOT, scenario_for, tools
from benchmarks.peers.install import Needs

PROMPT_TOKENS = 16
NOWHERE = "http://127.0.0.1:9"
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
QUIET = {"DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false"}

LAUNCHERS = Path(__file__).parent


class Load(NamedTuple):
    """Closed loop of `streams` where `rate` (requests/s, Poisson) is None."""

    requests: int
    tokens: int
    streams: int
    rate: float | None = None


class Place(NamedTuple):
    """Where one run happens: the server, the tokenizer's folder, the run's own folder, the peer's environment."""

    url: str
    tokenizer: str
    folder: Path
    environment: Path

    @property
    def port(self) -> str:
        return self.url.rsplit(":", 1)[1]


class Client(NamedTuple):
    """`tokens_per_s` and `requests_per_s`: how fast one core of it is known to go; they size the runs, no more."""

    name: str
    command: Callable[[Place, Load], list[str]]
    tokens_per_s: int
    requests_per_s: int
    needs: Needs | None = None
    variables: dict[str, str] = OFFLINE
    note: str = ""
    good: tuple[int, ...] = (0,)  # exit statuses that come with a result


def _c_client(place: Place, load: Load) -> list[str]:
    words = {"-p": place.port, "-c": load.streams, "-n": load.requests, "-T": load.tokens, "-r": load.rate or 0}
    return [str(tools() / "limit_client"), *(str(word) for pair in words.items() for word in pair)]


def _ours(place: Place, load: Load) -> list[str]:
    pace = ["--request-rate", f"{load.rate:g}", "--burstiness", "1.0"] if load.rate else ["--max-concurrency", str(load.streams)]
    fixed = [
        "serve-bench",
        "--engine",
        "openai",
        "--base-url",
        place.url,
        "--scenario",
        scenario_for(*pace),
        "--num-warmups",
        "0",
        "-q",
        "--no-report",
    ]
    return [
        *OURS,
        *fixed,
        *pace,
        *("--num-prompts", str(load.requests), "--output-len", str(load.tokens), "--runs-dir", str(place.folder / "runs")),
    ]


def _vllm(place: Place, load: Load) -> list[str]:
    pace = ["--request-rate", f"{load.rate:g}"] if load.rate else ["--max-concurrency", str(load.streams)]
    return [
        *(
            sys.executable,
            "-P",
            str(LAUNCHERS / "launch_vllm.py"),
            "--backend",
            "openai-chat",
            "--endpoint",
            "/v1/chat/completions",
            "--base-url",
            place.url,
        ),
        *("--model", "mock", "--tokenizer", place.tokenizer, "--dataset-name", "random", "--random-input-len", str(PROMPT_TOKENS)),
        *("--random-output-len", str(load.tokens), "--num-prompts", str(load.requests), *pace, "--ignore-eos", "--disable-tqdm"),
        *("--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,99", "--request-id-prefix", "r"),
        *("--save-result", "--save-detailed", "--result-dir", str(place.folder), "--result-filename", "result.json"),
    ]


def _sglang(place: Place, load: Load) -> list[str]:
    pace = ["--request-rate", f"{load.rate:g}"] if load.rate else ["--max-concurrency", str(load.streams)]
    return [
        *(
            sys.executable,
            "-P",
            str(LAUNCHERS / "launch_sglang.py"),
            str(place.environment),
            "--backend",
            "vllm-chat",
            "--base-url",
            place.url,
            "--model",
            "mock",
        ),
        *("--tokenizer", place.tokenizer, "--dataset-name", "random-ids", "--random-input-len", str(PROMPT_TOKENS)),
        *("--random-output-len", str(load.tokens), "--random-range-ratio", "1", "--num-prompts", str(load.requests), *pace),
        *("--worker-threads", "1", "--warmup-requests", "0", "--disable-tqdm", "--disable-retokenize"),
        *("--output-file", str(place.folder / "result.jsonl")),
    ]


def _guidellm(place: Place, load: Load) -> list[str]:
    profile = f"kind=poisson,rate={load.rate:g}" if load.rate else f"kind=concurrent,streams={load.streams}"
    return [
        *(str(place.environment / "bin" / "guidellm"), "run", "--backend", f"kind=openai_http,target={place.url},model=mock"),
        *("--profile", profile, "--constraint", f"kind=max_requests,count={load.requests}"),
        *("--tokenizer", f"kind=huggingface_auto,model={place.tokenizer}"),
        *("--data", f"kind=synthetic_text,prompt_tokens={PROMPT_TOKENS},output_tokens={load.tokens}"),
        *("--output", f"kind=json,path={place.folder / 'result.json'}", "--disable-console"),
    ]


def _aiperf(place: Place, load: Load) -> list[str]:
    pace = ["--request-rate", f"{load.rate:g}", "--arrival-pattern", "poisson"] if load.rate else ["--concurrency", str(load.streams)]
    return [
        *(str(place.environment / "bin" / "aiperf"), "profile", "--model", "mock", "--url", place.url, "--endpoint-type", "chat"),
        *("--streaming", "--tokenizer", place.tokenizer, *pace, "--request-count", str(load.requests), "--isl", str(PROMPT_TOKENS)),
        *("--isl-stddev", "0", "--osl", str(load.tokens), "--osl-stddev", "0", "--num-dataset-entries", str(min(100, load.requests))),
        *("--extra-inputs", "ignore_eos:true", "--artifact-dir", str(place.folder), "--export-level", "records"),
        *("--ui", "none", "--no-gpu-telemetry", "--no-server-metrics"),
    ]


def _inference_perf(place: Place, load: Load) -> list[str]:
    file = place.folder / "config.json"
    file.write_text(json.dumps(inference_perf_config(place, load)))
    return [str(place.environment / "bin" / "inference-perf"), "-c", str(file)]


def inference_perf_config(place: Place, load: Load) -> dict[str, object]:
    """Its configuration file, which is YAML, and so may be JSON."""
    stage: dict[str, object] = {"num_requests": load.requests, "concurrency_level": load.streams}
    if load.rate:
        stage = {"rate": load.rate, "duration": max(1, round(load.requests / load.rate))}
    lengths = {"input_distribution": PROMPT_TOKENS, "output_distribution": load.tokens}
    return {
        "load": {
            "type": "poisson" if load.rate else "concurrent",
            "stages": [stage],
            "num_workers": 1,
            "worker_max_concurrency": 4096,
        },
        "api": {"type": "completion", "streaming": True},
        "server": {"type": "vllm", "model_name": "mock", "base_url": place.url, "ignore_eos": True},
        "tokenizer": {"pretrained_model_name_or_path": place.tokenizer},
        "data": {
            "type": "random",
            **{key: {"min": n, "max": n, "mean": n, "std_dev": 0, "total_count": load.requests} for key, n in lengths.items()},
        },
        "report": {"request_lifecycle": {"summary": True, "per_stage": False, "per_request": False}},
        "storage": {"local_storage": {"path": str(place.folder)}},
    }


CLIENTS = (
    Client("C client", _c_client, 60_000, 60_000, note="the floor: reads and stamps, parses nothing, keeps no records"),
    Client("bmp-llm", _ours, 60_000, 20_000, variables={"PYTHONPATH": str(ROOT)}, good=(0, 1)),  # 1: a result that it calls invalid
    Client("sglang (Rust)", _sglang, 60_000, 14_000, Needs("sglang==0.5.23", only_from_wheel="rust_extensions/_bench")),
    Client("vllm bench serve", _vllm, 45_000, 1_800),
    Client(
        "inference-perf", _inference_perf, 22_000, 450, Needs("inference-perf==0.7.0", (3, 12), without_torch=True), note="/v1/completions"
    ),
    # With HF_HUB_OFFLINE it looks for a folder on the hub; so it's left out, and the hub is a port that nobody listens on.
    Client("aiperf", _aiperf, 16_000, 300, Needs("aiperf==0.13.0"), {"HF_ENDPOINT": NOWHERE}),
    Client("guidellm", _guidellm, 9_000, 130, Needs("guidellm==0.8.1", first=("torch==2.13.0",))),
)
