"""How often the right cause is named first, and how often one is named where there is none.

    python -m benchmarks.causes [--seeds 100] [--first 3000] [--show CAUSE]

Runs of a simulated server (planted.py) with a planted cause each, and of one without. A run passes through what a real one passes through:
records, accumulator, evidence, rules, test. Bounds: the right cause first in 95 of 100 seeds each; none in 95 of 100 without one.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

from benchmarks.planted import CLEAN, PLANTS, Run, run_of, server_with
from bytemlperf_llm.causes.evidence import evidence_of
from bytemlperf_llm.causes.judge import Causes, causes_of
from bytemlperf_llm.metrics.accumulator import Accumulator

BOUND = 0.95


def judged(run: Run) -> Causes:
    """As a summary has it."""
    causes = causes_of(evidence_of(Accumulator().add_all(run.records), None, run.samples, run.connects))
    assert causes is not None
    return causes


def named_first(causes: Causes) -> str:
    return next((finding.cause for finding in causes.findings if finding.named), CLEAN)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=3_000)
    parser.add_argument("--show", default="")
    arguments = parser.parse_args()
    missed = []
    for cause in [*PLANTS, CLEAN]:
        if arguments.show not in ("", cause):
            continue
        seen: Counter[str] = Counter()
        begun, judging = time.perf_counter(), 0.0
        for seed in range(arguments.first, arguments.first + arguments.seeds):
            run = run_of(server_with(cause, seed), seed)
            before = time.perf_counter()
            causes = judged(run)
            judging += time.perf_counter() - before
            name = named_first(causes)
            seen[name] += 1
            if arguments.show:
                show(seed, name, causes)
        right = seen[cause] / arguments.seeds
        missed += [cause] if right < BOUND else []
        others = ", ".join(f"{name} {count}" for name, count in seen.most_common() if name != cause)
        spent = f"{judging / arguments.seeds * 1e3:.0f} ms of {(time.perf_counter() - begun) / arguments.seeds * 1e3:.0f} a run"
        print(f"{cause:10} right {seen[cause]:4} of {arguments.seeds}   {spent}   {others}", flush=True)
    if missed:
        raise SystemExit(f"under {BOUND:.0%}: {', '.join(missed)}")


def show(seed: int, name: str, causes: Causes) -> None:
    tails = ", ".join(f"{latency} {tail.typical_ms:.0f} → {tail.slow_ms:.0f}" for latency, tail in causes.tails.items())
    print(f"-- {seed}: {name}; {tails}: {causes.sentence}")
    for finding in causes.findings[:6]:
        mark = "*" if finding.named else " "
        share = f"{finding.share:6.2f} ({finding.low:.2f} – {finding.high:.2f})"
        print(f"   {mark} {finding.cause:18} {finding.latency} {share} {finding.ms:8.1f} ms p {finding.p_value:.4f}")


if __name__ == "__main__":
    main()
