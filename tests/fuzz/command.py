"""The command line of a fuzz target."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable


def main(run: Callable[[int, int], str | None], count: int, about: str | None) -> None:
    """`run` gets how many inputs and a seed; what broke is told and ends in status 1."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--count", type=int, default=count)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    began = time.monotonic()
    broken = run(asked.count, asked.seed)
    if broken is not None:
        print(f"broken: {broken}")
        sys.exit(1)
    print(f"{asked.count:,} inputs, seed {asked.seed}: the invariant holds ({time.monotonic() - began:.0f} s)")
