"""What is counted on paper: parameters and FLOPs against torch's own counts, volumes, memory, statistics."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from bytemlperf.child.limits import threads_for
from bytemlperf.child.ranks import bus_factor
from bytemlperf.errors import UserError
from training.command.reference import micro_collectives
from training.plan.layout import Layout
from training.plan.memory import estimate
from training.rank.loop import memory
from training.rank.trace import exposed, spans, union
from training.results.checks import MEMORY_GROWTH_LIMIT, growth_of, largest_relative_error, reached, spikes
from training.results.summary import micro_point as communication_of
from training.workload import flops, workload


@pytest.mark.slow
def test_parameters_and_flops_are_what_torch_counts() -> None:
    torch = pytest.importorskip("torch")
    from training.workload.architectures import build_model, forward_flops_of_a_sample

    for name in ("gpt-tiny", "llama", "bert"):
        each = workload.load(name)
        assert flops.forward_flops(each, 256) == forward_flops_of_a_sample(each, 256, "cpu")
        with torch.device("meta"):
            counted = sum(parameter.numel() for parameter in build_model(each, 256).parameters())
        padding = 2 * each.model.hidden if each.family == "gpt" else 0  # OPT's positions begin at 2
        assert flops.parameters(each, 256) == counted - padding


def test_the_large_ones_have_the_size_of_their_name() -> None:
    assert flops.parameters(workload.load("gpt-345m"), 50_257) == pytest.approx(355e6, rel=0.01)
    assert flops.parameters(workload.load("gpt-857m"), 50_257) == pytest.approx(884e6, rel=0.01)
    assert flops.parameters(workload.load("llama-1b"), 128_256) == pytest.approx(1.24e9 + 128_256 * 2048, rel=0.01)


def test_recomputation_is_counted_apart() -> None:
    plain = workload.load("llama")
    again = replace(plain, training=replace(plain.training, recompute="full"))
    assert flops.recomputed_flops(plain) == 0
    assert flops.recomputed_flops(again) == 4 * flops.layer_forward_flops(plain)
    assert flops.model_flops(again, 256) == flops.model_flops(plain, 256)


def test_memory_shrinks_where_it_is_shared() -> None:
    large = workload.load("gpt-857m")
    one = estimate(large, Layout(world=1), "torch", "ddp", 49_152, "cuda")
    sharded = estimate(large, Layout(world=8, dp=8), "torch", "fsdp", 49_152, "cuda")
    split = estimate(large, Layout(world=8, tp=8), "megatron", "ddp", 49_152, "cuda")
    assert one.optimizer_bytes == flops.parameters(large, 49_152) * 8
    assert sharded.optimizer_bytes == pytest.approx(one.optimizer_bytes / 8, rel=0.01)
    assert split.optimizer_bytes == pytest.approx(one.optimizer_bytes / 8, rel=0.01)
    assert split.activations_bytes < one.activations_bytes


def test_a_peak_is_never_below_what_is_held() -> None:
    peak, held = memory("cpu")
    assert 0 < held <= peak


def test_threads_of_a_rank_are_the_environment_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3,1")
    assert threads_for(2) == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads_for(10_000) == 1


def test_bus_factors() -> None:
    assert [bus_factor("all_reduce", ranks) for ranks in (1, 2, 4)] == [0.0, 1.0, 1.5]
    assert bus_factor("all_gather", 4) == bus_factor("reduce_scatter", 4) == bus_factor("all_to_all", 4) == 0.75
    assert bus_factor("broadcast", 4) == bus_factor("p2p", 4) == 1.0


# --- convergence and growth ---------------------------------------------------------------------


def test_a_target_needs_five_losses() -> None:
    assert not reached([1.0, 1.0, 1.0, 1.0], 2.0)
    assert reached([9.0, 1.0, 1.0, 1.0, 1.0, 1.0], 1.0)
    assert not reached([9.0, 1.0, 1.0, 1.0, 1.0], 1.0)
    assert not reached([0.0] * 9, None)


def test_spikes_stand_out_and_a_fall_does_not() -> None:
    falling = [5.0 - 0.05 * step for step in range(60)]
    assert spikes(falling) == []
    falling[40] = 9.0
    assert spikes(falling) == [40]


def test_the_loss_error_is_the_largest_one() -> None:
    assert largest_relative_error([1.0, 2.02, 3.0], [1.0, 2.0, 3.0, 4.0]) == pytest.approx(0.01)


def test_growth_tells_a_leak_from_a_warm_up() -> None:
    warm = [400_000 + min(step, 60) * 100 for step in range(200)]
    leak = [400_000 + step * 40 for step in range(200)]
    assert growth_of(warm) < MEMORY_GROWTH_LIMIT < growth_of(leak)


# --- statistics ------------------------------------------------------------------------------------


def micro_row(**changes: object) -> dict[str, object]:
    values = {
        "op": "all_reduce",
        "status": "ok",
        "args": {"world_size": 2, "dtype": "float32"},
        "alg_bw_gbs": 0.5,
        "bus_bw_gbs": 0.5,
        "latency_us": {"p50": 2000.0},
    }
    return values | changes


def test_collectives_of_a_micro_run_stand_beside_ours(tmp_path: Path) -> None:
    rows = [micro_row(), micro_row(status="failed"), micro_row(op="gemm"), micro_row(latency_us={"p50": 4.0})]
    (tmp_path / "run.json").write_text(json.dumps({"format_version": 1, "kind": "micro"}))
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    points = micro_collectives(tmp_path)
    assert [(point.bytes, point.ranks) for point in points] == [(1_000_000, 2), (2_000, 2)]
    config = {"micro_collectives": msgspec.to_builtins(points)}
    assert communication_of(config, "all_reduce", 2, 900_000) == points[0]
    assert communication_of(config, "all_reduce", 4, 900_000) is None
    (tmp_path / "records.jsonl").write_text(json.dumps(micro_row(op="gemm")) + "\n")
    with pytest.raises(UserError, match="no measured collective"):
        micro_collectives(tmp_path)


def test_a_repeated_run_must_have_the_same_bits() -> None:
    from training.results.checks import run_checks
    from training.results.records import EndRecord, History

    end = EndRecord(attempt=0, why="steps done", next_step=2, state_sha256="a", at_ns=1)
    history = History([end])
    earlier = {"name": "first", "losses": [], "state_sha256": "a"}

    def verdict(**changes: object) -> tuple[str, float | None]:
        check = next(each for each in run_checks({"rerun_of": {**earlier, **changes}}, history) if each.name == "repeated run")
        return check.status, check.value

    assert verdict() == ("passed", 0)
    assert verdict(state_sha256="b") == ("failed", 1)
    assert verdict(losses=[1.0]) == ("failed", 1)


# --- traces -----------------------------------------------------------------------------------------


class FakeEvent:
    def __init__(self, name: str, start: int, end: int, thread: int = 1) -> None:
        self._all = name, start, end, thread

    def name(self) -> str:
        return self._all[0]

    def start_ns(self) -> int:
        return self._all[1]

    def duration_ns(self) -> int:
        return self._all[2] - self._all[1]

    def start_thread_id(self) -> int:
        return self._all[3]


def test_only_leaves_compute_and_collectives_overlap() -> None:
    events = [
        FakeEvent("aten::linear", 0, 100),  # holds the next one: no leaf
        FakeEvent("aten::addmm", 10, 40),
        FakeEvent("aten::gelu", 60, 70),
        FakeEvent("aten::mm", 200, 260, thread=2),
        FakeEvent("gloo:all_reduce", 30, 65, thread=3),
        FakeEvent("gloo:all_reduce", 50, 120, thread=4),
        FakeEvent("c10d::allreduce_", 29, 31),
    ]
    computing, sending = spans(events, "cpu")
    assert computing == [(10, 40), (60, 70), (200, 260)]
    assert sending == [(30, 120)]
    assert exposed(sending, computing) == 90 - 10 - 10


def test_unions_and_what_lies_beside() -> None:
    assert union([(5, 9), (0, 2), (1, 3), (3, 4)]) == [(0, 4), (5, 9)]
    assert exposed([(0, 10)], [(2, 3), (5, 20)]) == 10 - 1 - 5
    assert exposed([], [(1, 2)]) == 0


# --- memory -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("gpt", {}),
        ("bert", {}),
        ("llama", {"ffn": 172, "kv_heads": 2}),
        ("moe", {"ffn": 128, "kv_heads": 4, "experts": 4}),
        ("moe", {"ffn": 256, "kv_heads": 2, "experts": 8, "top_k": 3}),
    ],
)
def test_activations_are_what_autograd_keeps(family: str, sizes: dict[str, int]) -> None:
    import torch

    from training.plan.memory import kept_bytes, kept_elements
    from training.workload.architectures import build_model

    def sized(layers: int) -> workload.Workload:
        model = {"layers": layers, "hidden": 64, "heads": 4, "seq_len": 64, **sizes}
        content = {"name": "own", "family": family, "model": model, "training": {"global_batch": 2, "micro_batch": 2}}
        return msgspec.convert(content, workload.Workload)

    torch.manual_seed(0)
    one, three = (kept_bytes(sized(layers), build_model(sized(layers), 256)) for layers in (1, 3))
    layer = 2 * 64 * kept_elements(sized(1), Layout(world=1), "torch") * 4
    assert (three - one) / 2 == pytest.approx(layer, rel=0.03)


def test_a_resnet_is_counted_without_memory() -> None:
    from training.workload.architectures import build_model

    each = workload.load("resnet-tiny")
    needed = estimate(each, Layout(world=1), "torch", "ddp", 0, "cuda")
    assert needed.weights_bytes == 4 * sum(parameter.numel() for parameter in build_model(each, 0).parameters())
    assert 1.5e6 < needed.activations_bytes < 4e6
