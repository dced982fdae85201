"""Live metrics of a sweep, by the shared exporter."""

from __future__ import annotations

from bytemlperf.export.prometheus import Exporter, Family
from general_perf.failures import ERROR_CLASSES

LATENCY = "bmp_general_inference_latency_seconds"
DONE = "bmp_general_jobs_total"
FAILED = "bmp_general_job_failure_total"
PLANNED = "bmp_general_jobs_planned"
COMPILE = "bmp_general_compile_duration_seconds"
MEMORY = "bmp_general_worker_memory_bytes"

FAMILIES = (
    Family(PLANNED, "gauge", "Jobs (model, backend, precision) of the sweep"),
    Family(DONE, "counter", "Jobs that ended, by status", "status", ("ok", "failed", "refused")),
    Family(FAILED, "counter", "Jobs that failed or were refused, by error class", "error_class", ERROR_CLASSES),
    Family(
        LATENCY,
        "histogram",
        "Latency of one call, closed loop from the call, open loop from when it was due",
        buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
    ),
    Family(COMPILE, "histogram", "Duration of a compilation", buckets=(0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)),
    Family(MEMORY, "gauge", "Peak resident memory of the last job's processes"),
)


def exporter() -> Exporter:
    """An exporter of a sweep's families."""
    return Exporter(FAMILIES)
