"""A job (one model on one backend at one precision) as it crosses to its own process, and what a run of kind `general` keeps of it.

A record for each stage: `compile`, `load`, `sparsity`, `numerics`, `accuracy`, one `performance` for each batch size, number of
instances and loop, `coverage`, and at its end `job`. A resumed sweep does a job without its `job` record again, under the next
`attempt`; only the last attempt counts. Latencies are kept raw, so that every figure comes from here.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from general_perf.backends.contract import Coverage
from general_perf.card import Card
from general_perf.choices import ArrivalProcess, Loop, Precision

NO_REFERENCE = "failure.txt"
"""In a model's reference folder: why its reference was not made."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a worker needs; JSON. `card` is at its size.

    `stages` are those that are wanted, `compile` and `load` among them. `loops` are `closed` and `open`; the open loop sends at `rate`
    requests/s, or at `rate_share` of what the closed loop reached. A closed loop ends after `seconds`, or after
    `iterations` calls of each instance where given. Accuracy takes at most `accuracy_samples`, and at most `data_percent` of the data.
    `failed` is class, reason and fix of what is known to be wrong before it runs: such a job is a row without a process.
    `sparsity` prunes the source before it is compiled; empty leaves it.
    """

    id: str
    attempt: int
    card: Card
    size: str
    backend: str
    precision: Precision
    device: str
    threads: int
    instances: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    stages: tuple[str, ...]
    loops: tuple[Loop, ...]
    seconds: float
    iterations: int | None
    rate: float | None
    rate_share: float
    process: ArrivalProcess
    burstiness: float
    seed: int
    numeric_samples: int
    accuracy_samples: int
    calibration_samples: int
    backend_options: dict[str, str]
    memory_limit_bytes: int
    weights: str | None
    sparsity: str
    data_percent: float = 100.0
    failed: tuple[str, str, str] | None = None
    work: str
    reference: str


def job_id(model: str, size: str, backend: str, precision: str) -> str:
    """`resnet50/openvino/fp32`, with the size where it isn't the published one."""
    return "/".join([model if size == "published" else f"{model}@{size}", backend, precision])


Status = Literal["ok", "failed", "refused", "skipped"]


class Record(msgspec.Struct, kw_only=True, tag_field="stage"):
    """What all stages have, and `stage` itself. `status` other than ok comes with `error_class`, `reason` and `fix`."""

    job: str
    attempt: int
    model: str
    backend: str
    precision: str
    device: str
    status: Status = "ok"
    error_class: str = ""
    reason: str = ""
    fix: str = ""


def facts_of(job: Job) -> dict[str, Any]:
    """The fields that every record of a job has."""
    facts = {"job": job.id, "model": job.card.name}
    return facts | {name: getattr(job, name) for name in ("attempt", "backend", "precision", "device")}


class CompileRecord(Record, kw_only=True, tag="compile"):
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


class LoadRecord(Record, kw_only=True, tag="load"):
    """From the process's start to the first answer. `first_answer_s` counts imports, build, compile, load, one call."""

    load_s: float | None = None
    first_call_s: float | None = None
    first_answer_s: float | None = None


NONE, UNSTRUCTURED = "none", "unstructured"
HALF = 0.5
"""Share of zeros from which weights without a pattern are called sparse: less comes from rounding to int8 alone."""
LEAST_SHARE = 0.01
"""Of all values, for a pattern to be the verdict: a mask or an identity among the constants is none."""


class Sparsity(msgspec.Struct, frozen=True, kw_only=True):
    """Of `values` weights, what share is 0; and what share lies in tensors of each pattern."""

    values: int
    zero_share: float
    patterns: dict[str, float]

    @property
    def verdict(self) -> str:
        """The most frequent pattern; `unstructured` where half and more are zeros without one; else `none`."""
        pattern = max(self.patterns, key=self.patterns.__getitem__, default=NONE)
        if self.patterns.get(pattern, 0.0) >= LEAST_SHARE:
            return pattern
        return UNSTRUCTURED if self.zero_share >= HALF else NONE


class SparsityRecord(Record, kw_only=True, tag="sparsity"):
    """What the result declares: `sparsity` is `none`, `unstructured`, or a pattern such as `2:4`.

    Measured over the weights as compiled, with the source's beside (`values`, `zero_share`, `patterns`: see
    measure.sparsity). Of a backend that doesn't show its weights, `compiled` is None and `sparsity` is the backend's own
    word, which `backend_says` keeps.
    """

    sparsity: str = ""
    backend_says: str = ""
    source: Sparsity | None = None
    compiled: Sparsity | None = None


class PerformanceRecord(Record, kw_only=True, tag="performance"):
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


class NumericsRecord(Record, kw_only=True, tag="numerics"):
    """Outputs against a reference of higher precision. `outputs` holds one comparison for each output by name."""

    reference: str = ""
    samples: int = 0
    passed: bool | None = None
    tolerance: dict[str, float] = {}
    outputs: dict[str, Any] = {}
    decisions: int | None = None
    decisions_changed: int | None = None


class AccuracyRecord(Record, kw_only=True, tag="accuracy"):
    """Metrics on real data, ours and the reference's (the model in fp32 on the CPU) on the same samples.

    `samples` counts what the metrics count: questions and not the windows of their texts, queries and not documents. A metric
    that isn't finite is None.
    """

    dataset: str = ""
    data_source: str = ""
    samples: int = 0
    data_percent: float = 100.0
    metrics: dict[str, float | None] = {}
    reference_metrics: dict[str, float | None] = {}
    decisions_changed: int | None = None
    preprocess_ns: list[int] = []
    postprocess_ns: list[int] = []


class CoverageRecord(Record, kw_only=True, tag="coverage"):
    """What `Backend.coverage` measured (see backends.contract.Coverage)."""

    coverage: Coverage = Coverage()
    analysis_s: float | None = None


class JobRecord(Record, kw_only=True, tag="job"):
    """The end of a job. Usability: what it took to get here with this backend.

    `stages_s` is where the time went, by stage (building the source belongs to compile, `start` is the process's own);
    `reference_s` what the reference's own process took, 0 where its outputs were there already. `ended_unix_ns` is the time of day.
    """

    wall_s: float = 0.0
    ended_unix_ns: int = 0
    stages_s: dict[str, float] = {}
    reference_s: float = 0.0
    peak_tree_bytes: int | None = None
    usability: dict[str, Any] = {}


AnyRecord = CompileRecord | LoadRecord | SparsityRecord | PerformanceRecord | NumericsRecord | AccuracyRecord | CoverageRecord | JobRecord
STAGES: dict[str, type[Record]] = {str(kind.__struct_config__.tag): kind for kind in Record.__subclasses__()}
"""Records by stage."""


class Message(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What the parent reads of a line that a job's process says. `begin` (the stage `name`), `progress` (latencies since the last
    one) and `reference` (why there is none) are told alone; what has another `stage` is a record, and kept as it came."""

    stage: str
    name: str = ""
    status: Status = "ok"
    error_class: str = ""
    reason: str = ""
    fix: str = ""
    latency_ns: list[int] = []
    compile_s: float | None = None
    peak_host_bytes: int | None = None
