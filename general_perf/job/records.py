"""What a run of kind `general` keeps: one record for each stage of a job (model × backend × precision).

A job writes `compile`, `load`, `sparsity`, `numerics`, `accuracy`, one `performance` for each batch size, number of instances and
loop, `coverage`, and at its end `job`. A resumed sweep does a job without its `job` record again, under the next
`attempt`; only the last attempt counts. Latencies are kept raw, so that every figure comes from here.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Status = Literal["ok", "failed", "refused", "skipped"]
Loop = Literal["closed", "open"]


class Record(msgspec.Struct, kw_only=True):
    """What all stages have. `status` other than ok comes with `error_class`, `reason` and `fix`."""

    job: str
    attempt: int
    model: str
    backend: str
    precision: str
    device: str
    stage: str
    status: Status = "ok"
    error_class: str = ""
    reason: str = ""
    fix: str = ""


class CompileRecord(Record, kw_only=True):
    """Source and artefact. Durations are of `Backend.compile` alone; building the source is apart.

    `sparsified` says what `--sparsity` did to the source, by what tool; empty without it.
    """

    weights: str = ""
    parameters: int = 0
    parameter_bytes: int = 0
    sparsified: str = ""
    build_s: float | None = None
    compile_s: float | None = None
    artefact_bytes: int | None = None
    peak_host_bytes: int | None = None
    options: dict[str, str] = {}
    optimisations: list[str] = []
    precision_tool: str = ""
    calibration: str | None = None
    notes: list[str] = []


class LoadRecord(Record, kw_only=True):
    """From the process's start to the first answer. `first_answer_s` counts imports, build, compile, load, one call."""

    load_s: float | None = None
    first_call_s: float | None = None
    first_answer_s: float | None = None


class SparsityRecord(Record, kw_only=True):
    """What the result declares: `sparsity` is `none`, `unstructured`, or a pattern such as `2:4`.

    Measured over the weights as compiled, with the source's beside (`values`, `zero_share`, `patterns`: see
    measure.sparsity). Of a backend that doesn't show its weights, `compiled` is None and `sparsity` is the backend's own
    word, which `backend_says` keeps.
    """

    sparsity: str = ""
    backend_says: str = ""
    source: dict[str, Any] = {}
    compiled: dict[str, Any] | None = None


class PerformanceRecord(Record, kw_only=True):
    """One batch size × instances × loop. Latencies in ns, in the order of completion within each instance.

    Closed loop: from the call to its answer. Open loop: `latency_ns` from when the request was due, `service_ns`
    from the call, `due_ns` is when it was due after the start, `late_ns` the client's own delay with a free instance;
    `process` and `burstiness` are those of the arrivals asked for. `window_ns` runs from the first due time to the last
    answer. `device_memory` says what `peak_device_bytes` is, or why there is none.
    """

    loop: Loop = "closed"
    batch_size: int = 0
    instances: int = 1
    threads: int = 1
    latency_ns: list[int] = []
    service_ns: list[int] = []
    window_ns: int = 0
    requested_rate: float | None = None
    planned: int | None = None
    dropped: int = 0
    due_ns: list[int] = []
    late_ns: list[int] = []
    process: str = ""
    burstiness: float = 1.0
    warmup_ns: list[int] = []
    peak_host_bytes: int | None = None
    peak_device_bytes: int | None = None
    device_memory: str = ""


class NumericsRecord(Record, kw_only=True):
    """Outputs against a reference of higher precision. `outputs` holds one comparison for each output by name."""

    reference: str = ""
    samples: int = 0
    passed: bool | None = None
    tolerance: dict[str, float] = {}
    outputs: dict[str, Any] = {}
    decisions: int | None = None
    decisions_changed: int | None = None


class AccuracyRecord(Record, kw_only=True):
    """Metrics on real data, ours and the reference's (the model in fp32 on the CPU) on the same samples.

    `samples` counts what the metrics count: questions and not the windows of their texts, queries and not documents.
    """

    dataset: str = ""
    data_source: str = ""
    samples: int = 0
    data_percent: float = 100.0
    metrics: dict[str, float] = {}
    reference_metrics: dict[str, float] = {}
    decisions_changed: int | None = None
    preprocess_ns: list[int] = []
    postprocess_ns: list[int] = []


class CoverageRecord(Record, kw_only=True):
    """What `Backend.coverage` measured (see backends.contract.Coverage)."""

    coverage: dict[str, Any] = {}
    analysis_s: float | None = None


class JobRecord(Record, kw_only=True):
    """The end of a job. Usability: what it took to get here with this backend.

    `stages_s` is where the time went, by stage (building the source belongs to compile, `start` is the process's own);
    `reference_s` what the reference's own process took, 0 where its outputs were there already.
    """

    wall_s: float = 0.0
    stages_s: dict[str, float] = {}
    reference_s: float = 0.0
    peak_tree_bytes: int | None = None
    usability: dict[str, Any] = {}


STAGES: dict[str, type[Record]] = {
    "compile": CompileRecord,
    "load": LoadRecord,
    "sparsity": SparsityRecord,
    "performance": PerformanceRecord,
    "numerics": NumericsRecord,
    "accuracy": AccuracyRecord,
    "coverage": CoverageRecord,
    "job": JobRecord,
}
