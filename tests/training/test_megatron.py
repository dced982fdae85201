"""Real Megatron-Core on CPU under gloo: tensor, pipeline and expert parallel, and the stand-ins that make it run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.training.conftest import Ran

pytestmark = pytest.mark.slow

STAND_INS = """
import warnings; warnings.filterwarnings("ignore")
import torch
from training.trainers import megatron_cpu
megatron_cpu.install()
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from megatron.core.transformer.moe import moe_utils
assert torch.empty(1, device=torch.cuda.current_device()).device.type == "cpu"
with get_cuda_rng_tracker().fork():
    pass
assert moe_utils.te_general_gemm is None
for ask in (lambda: torch.zeros([], device="cuda"), lambda: torch.ones(1).cuda()):
    try:
        ask()
    except (AssertionError, RuntimeError):
        pass
    else:
        raise SystemExit("a CPU build of torch gave a CUDA tensor")
    with megatron_cpu.OnCpu():
        assert ask().device.type == "cpu"
with megatron_cpu.OnCpu():
    assert torch.ones(1).type() == "torch.cuda.FloatTensor"
assert torch.ones(1).type() == "torch.FloatTensor"
print("all stand in")
"""


@pytest.fixture(autouse=True, scope="module")
def _megatron() -> None:
    pytest.importorskip("megatron.core", reason="the extra [megatron] is not installed")


def test_the_stand_ins_stand_in_and_only_where_asked() -> None:
    done = subprocess.run([sys.executable, "-c", STAND_INS], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "all stand in", done.stderr


def test_tensor_parallel_runs(megatron_run: Ran) -> None:
    assert megatron_run.status == 0, megatron_run.out + megatron_run.err
    assert megatron_run.summary["split"]["gradient_wait_share"] is not None
    assert megatron_run.only("start")[0]["packages"]["megatron-core"]


def test_pipeline_parallel_learns_the_same(train: Callable[..., Ran], megatron_run: Ran) -> None:
    flags = ("--trainer", "megatron", "--nproc", "2", "--pp", "2", "--steps", "10", "--no-operator-check", "--checkpoint-every", "10")
    run = train("gpt-tiny", *flags)
    assert run.status == 0, run.out + run.err
    losses = [step["loss"] for step in run.steps]
    # The vocabulary isn't split here, and Megatron-Core draws the stages' weights one after another.
    assert losses[0] == pytest.approx(megatron_run.steps[0]["loss"], rel=0.02)
    assert losses[-1] < losses[0]
    transfers = {transfer["op"]: transfer for transfer in run.summary["communication"]["transfers"]}
    assert transfers["p2p"]["bytes"] == transfers["p2p"]["analytic_bytes"] == 2 * 4 * 64 * 64 * 4
    assert run.only("checkpoint")[0]["status"] == "ok"


def test_experts_are_shared_out(train: Callable[..., Ran]) -> None:
    flags = ("--trainer", "megatron", "--nproc", "2", "--ep", "2", "--steps", "8", "--no-operator-check")
    run = train("moe", *flags)
    assert run.status == 0, run.out + run.err
    start = run.only("start")[0]
    experts = 2 * 4 * 3 * 64 * 128
    assert start["parameters_by_rank"] == [start["parameters"] - experts // 2] * 2
    for transfer in run.summary["communication"]["transfers"]:
        assert transfer["bytes"] == pytest.approx(transfer["analytic_bytes"], rel=0.01)
    assert {transfer["op"] for transfer in run.summary["communication"]["transfers"]} == {"all_gather", "all_reduce", "reduce_scatter"}


def test_a_shared_out_optimiser_learns_the_same_in_bf16_and_goes_on_from_its_checkpoint(
    train: Callable[..., Ran], megatron_run: Ran
) -> None:
    flags = ("--trainer", "megatron", "--nproc", "2", "--sharding", "zero1", "--no-operator-check", "--deterministic")
    run = train(
        "gpt-tiny", *flags, "--steps", "12", "--checkpoint-every", "8", "--max-restarts", "1", "--fault", "kill:1:10", "--precision", "bf16"
    )
    assert run.status == 0, run.out + run.err
    losses = [step["loss"] for step in run.steps]
    wanted = [step["loss"] for step in megatron_run.steps]
    assert losses[:10] == pytest.approx(wanted[:10], rel=0.01)
    assert losses[0] != wanted[0]  # bf16 it is
    assert run.check("repeated steps")["value"] == 0.0
    for transfer in run.summary["communication"]["transfers"]:
        assert transfer["bytes"] == pytest.approx(transfer["analytic_bytes"], rel=0.01), transfer
    assert {transfer["op"] for transfer in run.summary["communication"]["transfers"]} == {"all_gather", "reduce_scatter"}
