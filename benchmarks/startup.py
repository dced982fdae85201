"""What starting up costs: a run of one request, and `--help`.

    BMP_TOOLS=folder python benchmarks/startup.py [--rounds 7]

Shows the CPU-seconds of `bmp-llm serve-bench` with one request against a server that is up (bound: 0.6),
without the page that it writes at its end and with it, and of `bmp-llm --help` against
`python -c "import typer"` (bound: 2.5 times), alternating, medians.
"""

from __future__ import annotations

import argparse
import sys

from harness import OURS, judged, median, mock_server, our_run, run_pinned, say_machine

RUN_BOUND_S, HELP_BOUND = 0.6, 2.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    say_machine()
    with mock_server(1, 1) as server:
        for report in (False, True):
            flags = ("--num-prompts", 1, "--request-rate", 100, "--output-len", 4)
            runs = [our_run(server.url, *flags, report=report).ran for _ in range(rounds)]
            cpu_s, wall_s = median([ran.cpu_s for ran in runs]), median([ran.wall_s for ran in runs])
            what = "with its page" if report else "without a page"
            print(f"run of one request, {what}: {cpu_s:.3f} s of CPU, {wall_s:.2f} s on the wall, {judged(cpu_s, RUN_BOUND_S)}")
    helps, floors = [], []
    for _ in range(rounds):
        floors.append(run_pinned([sys.executable, "-c", "import typer"]).cpu_s)
        helps.append(run_pinned([*OURS, "--help"]).cpu_s)
    ratio = median([ours / floor for ours, floor in zip(helps, floors, strict=True)])
    print(f"--help: {median(helps):.3f} s of CPU, import typer {median(floors):.3f} s: {ratio:.2f} times, {judged(ratio, HELP_BOUND)}")


if __name__ == "__main__":
    main()
