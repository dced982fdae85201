"""What is measured before the first step: the operators' errors, the peak; then the start record."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from training.plan.plan import Plan
from training.rank.operators import check_operators
from training.rank.peak import measured_peak
from training.rank.saving import GatherNumbers, Write
from training.results.records import StartRecord
from training.trainers.contract import Trainer
from training.workload.flops import model_flops, recomputed_flops
from training.workload.workload import Workload

PACKAGES = ("torch", "transformers", "megatron-core", "numpy")
TERAFLOPS = 1e12


def begin(
    plan: Plan,
    workload: Workload,
    trainer: Trainer,
    device: Any,
    attempt: int,
    first_step: int,
    started_ns: int,
    gather: GatherNumbers,
    write: Write,
) -> None:
    """Measure and record. Every rank takes part."""
    ready = time.perf_counter_ns() - started_ns
    if plan.peak_tflops:
        peak, source = plan.peak_tflops * TERAFLOPS, plan.peak_source
    else:
        peak, source = measured_peak(device, workload.training.precision)
    own = sum(tensor.numel() for _, tensor in trainer.parameters())
    rows = gather([float(ready), float(own), peak])
    hosts, devices = _places(device)
    if os.environ["RANK"] != "0":
        return
    if plan.check_operators and attempt == 0:
        for record in check_operators(workload, plan.vocabulary, device, plan.seed):
            write(record)
    write(
        StartRecord(
            attempt=attempt,
            at_ns=time.perf_counter_ns(),
            first_step=first_step,
            start_ns=[int(row[0]) for row in rows],
            parameters=_parameters(workload, plan),
            parameters_by_rank=[int(row[1]) for row in rows],
            model_flops=_sample_flops(workload, plan),
            recomputed_flops=recomputed_flops(workload) if workload.family != "resnet" else 0,
            peak_flops=[row[2] for row in rows],
            peak_source=source,
            device=plan.device,
            devices=devices,
            hosts=hosts,
            threads=plan.threads,
            packages=_packages(),
        )
    )


def _places(device: Any) -> tuple[list[str], list[str]]:
    import torch
    import torch.distributed as dist

    from training.rank.before import host

    mine = host(), torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, mine)
    return [place[0] for place in every], [place[1] for place in every]


def _parameters(workload: Workload, plan: Plan) -> int:
    if workload.family == "resnet":
        import torch

        from training.workload.architectures import build_model

        with torch.device("meta"):
            return sum(parameter.numel() for parameter in build_model(workload, 0).parameters())
    from training.workload.flops import parameters

    return parameters(workload, plan.vocabulary)


def _sample_flops(workload: Workload, plan: Plan) -> int:
    if workload.family == "resnet":
        from training.workload.architectures import forward_flops_of_a_sample
        from training.workload.flops import FORWARD_AND_BACKWARD

        return FORWARD_AND_BACKWARD * forward_flops_of_a_sample(workload, plan.vocabulary)
    return model_flops(workload, plan.vocabulary)


def _packages() -> dict[str, str]:
    from bytemlperf.hardware.discover import package_versions

    return package_versions(PACKAGES)


def host() -> str:
    """This machine's name."""
    return socket.gethostname()
