"""Closed-loop run folders made on paper: a server whose service times are stated, over as long a run as a test needs."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bytemlperf.checked import plain
from bytemlperf_llm.plan.scenario import load
from bytemlperf_llm.record.record import RequestRecord
from tests.metrics.records import MS, answered
from tests.report.made import llm_run_json, write_run

HARDWARE = {
    "cpu": {"model": "Intel(R) Xeon(R) Platinum 8480+", "physical_cores": 112, "logical_cores": 224, "sockets": 2},
    "memory": {"total_bytes": 1 << 40},
    "os": {"name": "Linux"},
}


def steady_ms(_: int) -> float:
    """Time per token, whatever the request."""
    return 20.0


def closed_records(concurrency: int, requests: int, tokens: int = 8, tpot_ms: Callable[[int], float] = steady_ms) -> list[RequestRecord]:
    """Requests one after another in each of the slots; TTFT goes from 100 to 115 ms and TPOT over 1.5 %, again and again in 16 steps."""
    free, records = [0.0] * concurrency, []
    for index in range(requests):
        sent, step = heapq.heappop(free), index % 16
        first, gap = sent + 100 + step, tpot_ms(index) * (1 + step / 1000)
        records.append(answered(index, None, sent, [first + gap * place for place in range(tokens)]))
        heapq.heappush(free, records[-1].end_ns / MS)
    return records


def closed_run(
    folder: Path,
    concurrency: int,
    records: list[RequestRecord],
    mlperf: dict[str, Any] | None = None,
    seed: int = 0,
    sampling: int | None = None,
) -> Path:
    """A finished run folder of them, on a machine with a known CPU."""
    changes = {"arrival": {"process": "closed", "max_concurrency": concurrency}, "warmup_requests": 0, "num_requests": len(records)}
    drawn = None if mlperf is None else mlperf["dataset_size"]
    scenario = load("chat").override(changes | {"sampling.seed": sampling, "prompts.drawn": drawn})
    config = {"flags": {"engine": "reference"}, "scenario": plain(scenario), "scenario_folder": "built in", "header_names": []}
    run = llm_run_json(folder.name, config=config, seed=seed, **({} if mlperf is None else {"mlperf": mlperf}))
    run["environment"]["hardware"] = HARDWARE
    run["facts"] = {"open_loop": False, "process": "closed", "max_concurrency": concurrency, "loop_utilisation": 0.1}
    return write_run(folder, run, records, summary=False)
