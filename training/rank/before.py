"""What is measured before the first step: the operators' errors, the peak; then the start record."""

from __future__ import annotations

import socket
import time

import torch

from bytemlperf.hardware.machine import package_versions
from training.rank.operators import check_operators
from training.rank.peak import measured_peak
from training.rank.rank import Rank
from training.results.records import StartRecord
from training.workload.architectures import build_model, forward_flops_of_a_sample
from training.workload.flops import FORWARD_AND_BACKWARD, model_flops, parameters, recomputed_flops

PACKAGES = ("torch", "transformers", "megatron-core", "numpy")
TERAFLOPS = 1e12


def begin(rank: Rank, first_step: int, started_ns: int) -> None:
    """Measure and record. Every rank takes part."""
    ready_ns = time.perf_counter_ns() - started_ns
    plan, workload = rank.plan, rank.workload
    if plan.peak_tflops:
        peak, source = plan.peak_tflops * TERAFLOPS, plan.peak_source
    else:
        peak, source = measured_peak(rank.device, workload.training.precision)
    own = sum(tensor.numel() for _, tensor in rank.trainer.parameters())
    starts, owned, peaks = zip(*rank.gather([ready_ns, own, peak]), strict=True)
    name = torch.cuda.get_device_name(rank.device) if rank.device.type == "cuda" else "cpu"
    hosts, devices = zip(*rank.gather_objects((socket.gethostname(), name)), strict=True)
    if rank.number:
        return
    if plan.check_operators and rank.attempt == 0:
        for record in check_operators(workload, plan.vocabulary, rank.device, plan.seed):
            rank.write(record)
    all_parameters, flops, again = _size(rank)
    rank.write(
        StartRecord(
            attempt=rank.attempt,
            at_ns=time.perf_counter_ns(),
            first_step=first_step,
            start_ns=[int(ns) for ns in starts],
            parameters=all_parameters,
            parameters_by_rank=[int(count) for count in owned],
            model_flops=flops,
            recomputed_flops=again,
            peak_flops=list(peaks),
            peak_source=source,
            device=plan.device,
            devices=list(devices),
            hosts=list(hosts),
            threads=plan.threads,
            packages=package_versions(PACKAGES),
        )
    )


def _size(rank: Rank) -> tuple[int, int, int]:
    """Parameters, FLOPs of a sample forward and backward, and those done a second time; a ResNet's by torch's own count."""
    workload, vocabulary = rank.workload, rank.plan.vocabulary
    if workload.family != "resnet":
        return parameters(workload, vocabulary), model_flops(workload, vocabulary), recomputed_flops(workload)
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in build_model(workload, 0).parameters())
    return count, FORWARD_AND_BACKWARD * forward_flops_of_a_sample(workload, vocabulary), 0
