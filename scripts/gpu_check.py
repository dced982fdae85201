"""Does everything that needs a GPU work on this one, and are its figures true? One command, under eight minutes.

    python scripts/gpu_check.py [--device cuda] [--out gpu-check] [--wheels FOLDER] [--minutes 8] [--only STEP ...]

Needs one NVIDIA GPU, torch with CUDA and no network; what else is installed (triton, transformers, onnxruntime, vLLM's kernels) is
used, what isn't is a row that says so. `--wheels` installs bytemlperf-llm and what it needs from a folder first. Each step is a command
of a user's, in a process and for a time of its own: what breaks is a row. Ends in one folder with the runs, `gpu_check.json` and
`index.html`, and in exit status 1 where a check failed. `--device cpu` runs the same steps, small: for the script itself.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

PASS, FAIL, SKIP = "pass", "fail", "not run"
APART = 0.03  # of our median from triton's and torch's own, on the same tensors
ABOVE_CARD = 1.02  # a measured peak above the card's is a measurement's mistake
OPERATORS = {
    "gemm": [{"dtype": ["float32", "bfloat16", "float16", "int8"], "M.K.N": [[4096, 4096, 4096]]}],
    "softmax": [{"dtype": ["bfloat16"], "batch_size": 4096, "dim_size": [8192]}],
    "rms_norm": [{"dtype": ["bfloat16"], "batch_size": 4096, "dim_size": [8192]}],
    "layer_norm": [{"dtype": ["bfloat16"], "batch_size": 4096, "dim_size": [8192]}],
    "flash_attention": [
        {
            "dtype": "bfloat16",
            "q_head_num.kv_head_num.head_dim": [[32, 8, 128]],
            "attn_mode.batch_size.cache_len.q_len.block_size": [["prefill", 1, 0, 4096, 0], ["decode", 32, 4096, 1, 0]],
        }
    ],
    "quant_matmul": [
        {
            "dtype.w_dtype.compute_dtype": [["int8", "int8", "int8"], ["float8", "float8", "float8"]],
            "num_tokens": 4096,
            "hidden_size.new_hidden_size": [[4096, 4096]],
        }
    ],
    "scale_dynamic_quant": [{"dtype": "bfloat16", "num_tokens": 4096, "hidden_size": 8192}],
    "moe_softmax_topk": [{"num_tokens": 4096, "num_experts.topk": [[128, 8]]}],
    "moe_quant_group_gemm": [
        {
            "dtype.w_dtype.compute_dtype.dst_dtype": [["int8", "int8", "int8", "bfloat16"]],
            "hidden_size.new_hidden_size": [[2048, 2048]],
            "num_experts.topk.num_tokens": [[32, 4, 2048]],
        }
    ],
    "stream_triad": [{"dtype": "float32", "size": 1 << 28}],
}
LINKS = {
    "host2device": [{"dtype": "float32", "batch_size": 65536, "dim_size": 1024}],
    "device2host": [{"dtype": "float32", "batch_size": 65536, "dim_size": 1024}],
}
MODELS = ("resnet50", "bert", "vit", "roberta", "whisper-encoder")


class Row(NamedTuple):
    """One check: what was seen, what it had to be, and whether it was."""

    step: str
    check: str
    seen: str
    required: str
    outcome: str


class Box:
    """Where and how long: the device, the folder of everything, the end of the time."""

    def __init__(self, device: str, out: Path, minutes: float) -> None:
        self.device, self.out, self.end_s = device, out, time.monotonic() + 60 * minutes
        self.small = device == "cpu"
        self.problem = ""

    def bmp(self, *args: object, program: str = "bmp", share: float = 1.0) -> dict[str, Any] | None:
        """A command's JSON, run for at most that share of the time left; None where it has none, and `problem` says why."""
        self.problem, words = "", [str(arg) for arg in args]
        module = {"bmp": "bytemlperf.app", "bmp-llm": "bytemlperf_llm.cli"}[program]
        log = self.out / "logs" / f"{len(list((self.out / 'logs').iterdir())):02}-{words[0]}-{words[1]}.log"
        command = [sys.executable, "-c", f"from {module} import main; main()", *words, "--json", "--runs-dir", str(self.out / "runs")]
        limit_s = max(5.0, share * (self.end_s - time.monotonic()))
        with log.open("w") as errors:
            errors.write(f"$ {program} {' '.join(words)}\n")
            errors.flush()
            try:
                ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True, timeout=limit_s, check=False)
            except subprocess.TimeoutExpired:
                self.problem = f"not done in {limit_s:.0f} s"
                return None
        try:
            read: dict[str, Any] = json.loads(ended.stdout)
        except ValueError:
            lines = log.read_text().strip().splitlines()
            self.problem = f"exit status {ended.returncode}: {lines[-1][:200]}"
            return None
        return read

    def part(self, name: str) -> list[Any] | None:
        """What a part of this script gives in a process of its own; None, and why, as for `bmp`."""
        command = [sys.executable, __file__, "--part", name, "--device", self.device]
        limit_s = max(5.0, self.end_s - time.monotonic())
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
        except subprocess.TimeoutExpired:
            self.problem = f"not done in {limit_s:.0f} s"
            return None
        if ended.returncode:
            self.problem = ended.stderr.strip()[-200:]
            return None
        read: list[Any] = json.loads(ended.stdout)
        return read


def main() -> int:
    """Run the steps; 0 where no check failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--out", type=Path, default=Path("gpu-check"))
    parser.add_argument("--wheels", type=Path, help="install bytemlperf-llm from the wheels in this folder first")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--only", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.part:
        print(json.dumps(list(PARTS[flags.part](flags.device))))
        return 0
    if flags.wheels is not None:
        install = ("install", "-q", "--no-index", "--find-links", flags.wheels, "bytemlperf-llm[report]")
        subprocess.run([sys.executable, "-m", "pip", *install], check=True)
    (flags.out / "logs").mkdir(parents=True, exist_ok=True)
    box, rows = Box(flags.device, flags.out, flags.minutes), list[Row]()
    for name in flags.only:
        begun_s = time.monotonic()
        print(f"{name} …", end=" ", flush=True)
        rows += (Row(name, *checked) for checked in STEPS[name](box))
        print(f"{time.monotonic() - begun_s:.0f} s", flush=True)
    write(box, rows)
    for row in rows:
        print(f"{row.outcome:7}  {row.step:8}  {row.check}: {row.seen}" + (f" (required: {row.required})" if row.required else ""))
    failed, skipped = (sum(row.outcome == outcome for row in rows) for outcome in (FAIL, SKIP))
    print(f"{len(rows)} check{'s' * (len(rows) != 1)}, {failed} failed, {skipped} not run: {box.out / 'index.html'}")
    return min(1, failed)


Checked = tuple[str, str, str, str]
"""A Row without its step."""


def device(box: Box) -> Iterator[Checked]:
    """What it is, its spec card, and that NVML is heard."""
    import torch

    from bytemlperf.hardware.machine import discover

    found = discover()
    (box.out / "machine.json").write_text(json.dumps(found, indent=1, default=str))
    if box.small:
        yield "device", "cpu", "", PASS
        return
    if not torch.cuda.is_available():
        yield "CUDA", f"torch {torch.__version__} sees no GPU", "a GPU", FAIL
        return
    yield "device", f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}", "", PASS
    cards = [gpu.get("card") for gpu in found.get("gpus", ()) if isinstance(gpu, dict)]
    yield "spec card", str(cards[0] if cards else None), "a card of `bmp hardware list`", PASS if any(cards) else FAIL


def timing(box: Box) -> Iterator[Checked]:
    """Our stopwatch beside triton's and torch's, on the same tensors, in a process of its own."""
    read = box.part("stopwatches")
    if read is None:
        yield "stopwatches", box.problem, "figures", FAIL
        return
    for name, other, ours_us, theirs_us in read:
        if theirs_us is None:
            yield f"{name} beside {other}", "is not installed", "", SKIP
            continue
        apart = ours_us / theirs_us - 1
        limit = f"within {APART:.0%}"
        outcome = SKIP if box.small else PASS if abs(apart) <= APART else FAIL  # a CPU that others use proves nothing
        yield f"{name} beside {other}", f"{ours_us:.1f} against {theirs_us:.1f} µs, {apart:+.1%}", limit, outcome


def stopwatches(where: str) -> Iterator[tuple[str, str, float, float | None]]:
    """Kernel, the other stopwatch, our median and its, in µs: one set of buffers (hot) against torch's, many (cold) against triton's,
    which clears the cache before each call."""
    import torch
    from torch.nn import functional
    from torch.utils import benchmark

    from micro.measure.timing import Rules, measure, stopwatch_of

    size, dtype = (256, torch.float32) if where == "cpu" else (4096, torch.bfloat16)
    square = [torch.randn(size, size, device=where, dtype=dtype) for _ in range(2)]
    heads = [torch.randn(1, 16, size // 2, 64, device=where, dtype=dtype) for _ in range(3)]
    kernels: dict[str, tuple[Callable[..., Any], list[Any]]] = {
        "gemm": (torch.matmul, square),
        "softmax": (lambda x: torch.softmax(x, -1), square[:1]),
        "rms_norm": (lambda x: functional.rms_norm(x, (size,)), square[:1]),
        "attention": (functional.scaled_dot_product_attention, heads),
    }
    rules = Rules(warm_up_s=0.3, budget_s=1.0)
    for name, (run, tensors) in kernels.items():
        hot = measure(run, [tuple(tensors)], stopwatch_of(where), rules)
        timer = benchmark.Timer("run(*tensors)", globals={"run": run, "tensors": tensors}, num_threads=torch.get_num_threads())
        yield name, "torch.utils.benchmark", _median_us(hot), timer.blocked_autorange(min_run_time=1.0).median * 1e6
        if where == "cpu":
            continue
        try:
            from triton.testing import do_bench  # type: ignore[import-not-found]
        except ImportError:
            yield name, "triton.testing.do_bench", 0.0, None
            continue
        sets = [tuple(tensor.clone() for tensor in tensors) for _ in range(max(2, (512 << 20) // sum(t.nbytes for t in tensors)))]
        cold = measure(run, sets, stopwatch_of(where), rules)
        yield (
            name,
            "triton.testing.do_bench",
            _median_us(cold),
            do_bench(lambda run=run, tensors=tensors: run(*tensors), return_mode="median") * 1e3,
        )


def _median_us(timed: Any) -> float:
    from statistics import median

    return float(median(timed.samples_ns) / timed.calls / 1e3)


def one_rank(where: str) -> Iterator[float]:
    """The sum over the one rank there is, by NCCL (gloo on CPUs): what of it is wrong."""
    import tempfile

    import torch
    from torch import distributed

    with tempfile.TemporaryDirectory() as folder:
        store = distributed.FileStore(f"{folder}/store", 1)
        distributed.init_process_group("gloo" if where == "cpu" else "nccl", store=store, rank=0, world_size=1)
        numbers = torch.arange(1 << 20, dtype=torch.float32, device=where)
        summed = numbers.clone()
        distributed.all_reduce(summed)
        yield float((summed - numbers).abs().max())
        distributed.destroy_process_group()


PARTS: dict[str, Callable[[str], Iterator[Any]]] = {"stopwatches": stopwatches, "one-rank": one_rank}


def operators(box: Box) -> Iterator[Checked]:
    """Every provider that is there, over the operators that serving is made of: right, and below the card's peaks."""
    cases = (
        {"gemm": [{"dtype": "float32", "M.K.N": [[64, 64, 64]]}], "softmax": [{"batch_size": 8, "dim_size": 64}]}
        if box.small
        else OPERATORS
    )
    yield from _swept(box, "operators", cases, 0.5)


def links(box: Box) -> Iterator[Checked]:
    """Host to device and back, and NCCL with the one rank that there is."""
    if not box.small:
        yield from _swept(box, "links", LINKS, 0.5, "torch")
    wrong = box.part("one-rank")
    yield "all-reduce of one rank", box.problem if wrong is None else f"off by {wrong[0]:g}", "off by 0", PASS if wrong == [0.0] else FAIL


def _swept(box: Box, name: str, cases: dict[str, Any], share: float, provider: str = "all") -> Iterator[Checked]:
    workload = box.out / f"{name}.json"
    workload.write_text(json.dumps(cases))
    seconds = 0.05 if box.small else 0.5
    said = box.bmp("micro", "run", workload, "--device", box.device, "--provider", provider, "--seconds", seconds, share=share)
    if said is None:
        yield name, box.problem, "a row for every case", FAIL
        return
    counts = said["counts"]
    yield (
        "cases",
        ", ".join(f"{count} {word}" for word, count in counts.items() if count),
        "none failed",
        FAIL if counts["failed"] or not counts["ok"] else PASS,
    )
    for reason in said.get("reasons", []):
        if "failed" in reason:
            yield "failed", reason[:300], "", FAIL
    for row in _rows(Path(said["folder"])):
        share_of_peak = row.get("efficiency")
        if isinstance(share_of_peak, float) and share_of_peak > ABOVE_CARD:
            yield f"{row['op']} {row['provider']}", f"{share_of_peak:.0%} of the peak", f"at most {ABOVE_CARD:.0%}", FAIL


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    from bytemlperf.runs.records import RunRecords

    yield from RunRecords(folder)


def general(box: Box) -> Iterator[Checked]:
    """Models in torch, eager and compiled."""
    models, backends = (("digits-resnet",), ("torch-eager",)) if box.small else (MODELS, ("torch-eager", "torch-inductor"))
    for backend in backends:
        flags = (
            "--backend",
            backend,
            "--device",
            box.device,
            "--seconds",
            0.2 if box.small else 1,
            "--accuracy-samples",
            8,
            "--numeric-samples",
            1,
        )
        said = box.bmp("general", "run", *models, *flags, share=0.4)
        yield _verdict(f"{', '.join(models)} on {backend}", said, box)


def training(box: Box) -> Iterator[Checked]:
    """A GPT's loss and step times."""
    workload = "gpt-tiny" if box.small else "gpt-345m"
    steps = (
        ("--steps", 6, "--warmup", 1, "--trace-steps", 1)
        if box.small
        else ("--steps", 12, "--global-batch", 8, "--micro-batch", 8, "--precision", "bf16")
    )
    yield _verdict(workload, box.bmp("train", "run", workload, "--device", box.device, *steps, share=0.4), box)


def serving(box: Box) -> Iterator[Checked]:
    """The transformers engine under load, with the device's power beside it."""
    flags = ("--engine", "transformers", "--engine-option", f"device={box.device}", "--scenario", "smoke", "--model", "smollm2")
    load = ("--num-prompts", 4 if box.small else 40, "--output-len", 8 if box.small else 64, "--max-concurrency", 4)
    said = box.bmp("serve-bench", *flags, *load, program="bmp-llm", share=0.6)
    yield _verdict("transformers engine", said, box)
    if said is not None and not box.small:
        power = json.dumps(said.get("devices"))
        yield "NVML: memory, clocks, power", power[:300], "figures of the device", PASS if "power" in power else FAIL


def _verdict(what: str, said: dict[str, Any] | None, box: Box) -> Checked:
    if said is None:
        return what, box.problem, "a verdict", FAIL
    bad = said["verdict"] in ("invalid", "failing")
    return what, "; ".join([said["verdict"], *said.get("reasons", [])])[:300], "not invalid", FAIL if bad else PASS


STEPS: dict[str, Callable[[Box], Iterator[Checked]]] = {
    "device": device,
    "timing": timing,
    "operators": operators,
    "links": links,
    "general": general,
    "training": training,
    "serving": serving,
}


def write(box: Box, rows: list[Row]) -> None:
    """gpu_check.json, and a page with the table and a link to each run's report."""
    (box.out / "gpu_check.json").write_text(json.dumps([row._asdict() for row in rows], indent=1))
    runs = sorted((box.out / "runs").glob("*/report.html"))
    cells = "".join(
        f"<tr class={row.outcome.split()[0]}>" + "".join(f"<td>{html.escape(cell)}" for cell in row) + "</tr>\n" for row in rows
    )
    reports = "".join(f'<li><a href="{html.escape(os.path.relpath(path, box.out))}">{html.escape(path.parent.name)}</a>\n' for path in runs)
    style = (
        "body{font:15px system-ui;margin:2em}td,th{text-align:left;padding:.2em .8em;vertical-align:top}.fail{color:#b00}.not{color:#777}"
    )
    head = "".join(f"<th>{name}" for name in Row._fields)
    page = f"<!doctype html><meta charset=utf-8><title>GPU check</title><style>{style}</style><h1>GPU check</h1>\n"
    (box.out / "index.html").write_text(f"{page}<table><tr>{head}</tr>\n{cells}</table><h2>Runs</h2><ul>{reports}</ul>\n")


if __name__ == "__main__":
    sys.exit(main())
