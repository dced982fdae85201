"""Heavy work in a child Python: its prints, its memory and its crashes stay there.

A child module prints one JSON object of versions as its last line on standard output.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from bytemlperf.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def run(module: str, *arguments: str, what: str) -> dict[str, str]:
    """Run `python -m module arguments` offline; the versions that it reports.

    Raises UserError with the last line of its errors, or the signal that killed it.
    """
    environment = {**os.environ, **OFFLINE, **own_modules()}
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise UserError(f"{what} failed: {death(done.returncode, done.stderr)}", "see what is broken: bmp-llm doctor")
    versions: dict[str, str] = json.loads(done.stdout.strip().splitlines()[-1])
    return versions


def own_modules() -> dict[str, str]:
    """Environment with which a child finds this very copy of the package, installed or not, and nothing of the current folder."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])), "PYTHONSAFEPATH": "1"}


def death(returncode: int, stderr: str) -> str:
    """Why a child ended badly, in one line."""
    if returncode < 0:
        meaning = " (this CPU lacks an instruction that the library was built for)" if -returncode == signal.SIGILL else ""
        return f"killed by {signal.Signals(-returncode).name}{meaning}"
    return last_line(stderr)


def last_line(text: str) -> str:
    """The last line of `text` that says something, cut to a readable length."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    chosen = (errors or lines or ["no message"])[-1]
    return chosen.removeprefix("ERROR: ")[:200]
