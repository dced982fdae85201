"""The error of `bmp predict` on real engines: predicted and measured TTFT and TPOT, their error, and the machine's load.

    python benchmarks/prediction.py                              SmolLM2 on vLLM and OpenVINO, batch 1 and 4
    python benchmarks/prediction.py --rounds 3 --engine vllm --batch 4

In every round the operators, what the engine does between them, and the engine itself are measured anew, one after the other, so that
they see the same machine. Figures are minima over the rounds, what the machine does when others leave it alone, with the error of those
(predicted / measured − 1); then the median of the rounds' own errors, and the median load average.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

LENGTHS = {1: 256, 4: 128}
"""Prompt tokens by batch; 32 come out."""


def predicted(engine: str, batch: int, seconds: float, runs_dir: Path) -> dict[str, Any]:
    """One round: everything measured anew."""
    command = [
        *(sys.executable, "-c", "from bytemlperf.app import main; main()", "predict", "--fresh", "--json"),
        *("--check", engine, "--model", "smollm2", "--batch-size", str(batch), "--input-len", str(LENGTHS.get(batch, 128))),
        *("--output-len", "32", "--seconds", str(seconds), "--runs-dir", str(runs_dir)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr.strip())
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def row(engine: str, batch: int, rounds: list[dict[str, Any]], load: float) -> str:
    """A line of the table."""
    cells = [f"{engine}, {batch} x {LENGTHS.get(batch, 128)} / 32"]
    for name in ("TTFT", "TPOT"):
        figures = [next(figure for figure in each["check"]["figures"] if figure["name"] == name) for each in rounds]
        expected, measured = (min(figure[key] for figure in figures) for key in ("predicted", "measured"))
        cells += [f"{expected:.4g}, {measured:.4g}", f"{expected / measured - 1:+.1%}", f"{median(each['error'] for each in figures):+.1%}"]
    return f"| {' | '.join(cells)} | {len(rounds)} | {load:.1f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", action="append", help="vllm, openvino or transformers; repeatable")
    parser.add_argument("--batch", action="append", type=int, help="1, 4; repeatable")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.2, help="sampling time of an operator")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    flags = parser.parse_args()
    print("| engine, batch x in / out | TTFT ms: predicted, measured | error | of rounds", end="")
    print(" | TPOT ms: predicted, measured | error | of rounds | rounds | load |\n|---|---|---|---|---|---|---|---|---|")
    for engine in flags.engine or ("vllm", "openvino"):
        for batch in flags.batch or (1, 4):
            loads, rounds = [], []
            for _ in range(flags.rounds):
                rounds.append(predicted(engine, batch, flags.seconds, flags.runs_dir))
                loads.append(os.getloadavg()[1])
            print(row(engine, batch, rounds, median(loads)), flush=True)


if __name__ == "__main__":
    main()
