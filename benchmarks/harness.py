"""What the benchmarks share: the C tools, pinned processes, and our own client as a user runs it.

The C server and the C client are independent measuring sticks. Their sources, mock_server.c and
limit_client.c, lie in the folder named by the environment variable BMP_TOOLS; they're built with gcc
once per process. The server gets the last core, the client under test the first; where there is one
core only they share it, and that is said.
"""

from __future__ import annotations

import csv
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import msgspec

from bytemlperf.runs.records import RunRecords
from bytemlperf_llm.record.record import RequestRecord

ROOT = Path(__file__).resolve().parents[1]
OURS = [sys.executable, "-c", "from bytemlperf_llm.cli import main; main()"]
TOOLS = {"mock_server": "mock_server.c", "limit_client": "limit_client.c"}
USER_AGENT_TIMEOUT_S = 60.0
QUIET_LOAD = 0.3  # more runnable processes than this before a benchmark: its figures are noisy


def fail(text: str) -> NoReturn:
    """What is missing, on one line; ends the program as the command line does on bad input."""
    print(f"error: {text}", file=sys.stderr)
    sys.exit(2)


def cores() -> tuple[int, int]:
    """(client's, server's): the first and the last usable core."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


@lru_cache(maxsize=1)
def tools() -> Path:
    """A folder with both C tools, built; ends the program with one line where they can't be."""
    named = os.environ.get("BMP_TOOLS")
    if not named:
        fail("BMP_TOOLS is not set; set it to the folder that holds mock_server.c and limit_client.c")
    source, compiler = Path(named), shutil.which("gcc") or shutil.which("cc")
    absent = [name for name in TOOLS.values() if not (source / name).is_file()]
    if absent:
        fail(f"{', '.join(absent)} not found in BMP_TOOLS={named}; name the folder that holds them")
    if compiler is None:
        fail("there is no C compiler; install gcc")
    folder = Path(tempfile.mkdtemp(prefix="bmp-tools-"))
    for name, file in TOOLS.items():
        subprocess.run([compiler, "-O2", "-w", "-o", str(folder / name), str(source / file), "-lm"], check=True)
    return folder


def say_machine() -> None:
    """One line: what the figures below are of."""
    client, server = cores()
    load = os.getloadavg()[0]
    shared = (
        ", one core for both: figures are of little worth" if client == server else f", client on core {client}, server on core {server}"
    )
    noisy = f"; load {load:.1f} before the start, so figures are noisy" if load > QUIET_LOAD else ""
    print(f"{os.cpu_count()} cores{shared}{noisy}", flush=True)


# -- servers --------------------------------------------------------------------------------


class Server(NamedTuple):
    """A server that listens."""

    port: int
    process: subprocess.Popen[Any]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> bytes:
        """One page."""
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(self.url + path, timeout=USER_AGENT_TIMEOUT_S) as answer:
            body: bytes = answer.read()
        return body

    def stats(self) -> dict[str, Any]:
        """What the server says of itself."""
        found: dict[str, Any] = json.loads(self.get("/stats"))
        return found

    def log(self) -> list[dict[str, str]]:
        """The C server's truth, a row a request; see its head for the columns."""
        return list(csv.DictReader(self.get("/log").decode().splitlines()))


@contextmanager
def mock_server(ttft_ms: float, itl_ms: float, events_per_write: int = 1) -> Iterator[Server]:
    """The C server, pinned."""
    port = free_port()
    command = [str(tools() / "mock_server"), "-p", str(port), "-t", str(ttft_ms), "-i", str(itl_ms), "-b", str(events_per_write)]
    with _serving(Server(port, _start(command, cores()[1], stderr=subprocess.DEVNULL))) as server:
        yield server


@contextmanager
def reference_server(ttft_ms: float, itl_ms: float) -> Iterator[Server]:
    """The package's own reference server, pinned."""
    port = free_port()
    command = [
        *OURS,
        "reference-server",
        "--port",
        str(port),
        "--engine-option",
        f"ttft_ms={ttft_ms}",
        "--engine-option",
        f"itl_ms={itl_ms}",
    ]
    process = _start(command, cores()[1], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with _serving(Server(port, process)) as server:
        yield server


@contextmanager
def _serving(server: Server) -> Iterator[Server]:
    try:
        for _ in range(200):
            try:
                server.get("/health")
                break
            except OSError:
                time.sleep(0.05)
        else:
            fail("the server did not come up within 10 s")
        yield server
    finally:
        server.process.terminate()
        server.process.wait()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


# -- clients --------------------------------------------------------------------------------


class Ran(NamedTuple):
    """A child that ended: seconds on the wall, of processor time (its own children included), peak RSS."""

    stdout: str
    status: int
    wall_s: float
    cpu_s: float
    peak_mb: float


def run_pinned(command: Sequence[str], core: int | Sequence[int] | None = None, watch: Callable[[int], None] | None = None) -> Ran:
    """Run to the end on `core` (default: the client's). `watch(pid)` is called every tenth of a second."""
    begin_s = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = _start(command, cores()[0] if core is None else core, stdout=output, cwd=str(ROOT))
        pid, status, used = os.wait4(process.pid, os.WNOHANG if watch else 0)
        while pid == 0:
            assert watch is not None
            watch(process.pid)
            time.sleep(0.1)
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
        wall_s = time.monotonic() - begin_s
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        return Ran(output.read(), process.returncode, wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3)


def _start(command: Sequence[str], core: int | Sequence[int], **options: Any) -> subprocess.Popen[Any]:
    def prepare() -> None:
        os.sched_setaffinity(0, {core} if isinstance(core, int) else set(core))
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is compiled once, not at every start
    return subprocess.Popen(list(command), preexec_fn=prepare, env=environment, **options)


def c_client(port: int, streams: int, requests: int, tokens: int, rate: float = 0.0) -> dict[str, Any]:
    """The floor: its own JSON line. Latencies in it are [p50, p90, p99] in ms; `rate` 0 is closed loop."""
    words = {"-p": port, "-c": streams, "-n": requests, "-T": tokens, "-r": rate}
    ran = run_pinned([str(tools() / "limit_client"), *(str(word) for pair in words.items() for word in pair)])
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


class Run(NamedTuple):
    """One run of ours. `loop_cpu_s` is the event loop's busy time, `cpu_s` the whole process."""

    ran: Ran
    run: dict[str, Any]
    summary: dict[str, Any]
    records: list[dict[str, Any]]

    @property
    def duration_s(self) -> float:
        return float(self.run["end"]["duration_ns"]) / 1e9

    @property
    def loop_cpu_s(self) -> float:
        return float(self.run["facts"]["loop_utilisation"]) * self.duration_s

    @property
    def tokens(self) -> int:
        return int(self.summary["tokens"]["output_tokens"])

    @property
    def ok(self) -> int:
        return int(self.summary["outcomes"]["ok"])


def scenario_for(*flags: str | int | float) -> str:
    """The same requests, at a rate or in a closed loop."""
    return "smoke" if "--request-rate" in flags else str(Path(__file__).with_name("closed.yaml"))


def our_run(
    url: str,
    *flags: str | int | float,
    keep_records: bool = False,
    report: bool = False,
    core: int | Sequence[int] | None = None,
    **options: Any,
) -> Run:
    """`bmp-llm serve-bench --engine openai` with these flags, quiet, its folder read and removed. Without `report`
    there is no page at its end, which is no part of a load."""
    with tempfile.TemporaryDirectory(prefix="bmp-benchmark-") as folder:
        fixed = ["serve-bench", "--engine", "openai", "--base-url", url, "--scenario", scenario_for(*flags), "--num-warmups", "0", "-q"]
        ran = run_pinned([*OURS, *fixed, "--runs-dir", folder, *([] if report else ["--no-report"]), *map(str, flags)], core, **options)
        runs = list(Path(folder).iterdir())
        if not runs or not (runs[0] / "summary.json").exists():
            fail(f"the client did not run, status {ran.status}; its message is above")
        run = json.loads((runs[0] / "run.json").read_text())
        summary = json.loads((runs[0] / "summary.json").read_text())
        records = [msgspec.structs.asdict(record) for record in RunRecords[RequestRecord](runs[0], RequestRecord)] if keep_records else []
    return Run(ran, run, summary, records)


# -- figures ----------------------------------------------------------------------------------


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest-rank."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(percent * len(ordered)) // 100) - 1)]


def median(values: Sequence[float]) -> float:
    """Of the rounds."""
    return statistics.median(values)


def judged(value: float, bound: float, at_least: bool = False) -> str:
    """The figure beside its bound."""
    good = value >= bound if at_least else value <= bound
    return f"{'ok' if good else 'OVER' if not at_least else 'UNDER'} (bound {bound:g})"
