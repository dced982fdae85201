"""moe_dispatch_tokens between real gloo ranks: right everywhere, and a row that goes astray is found."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from micro.cases.case import validate
from micro.collectives.contract import AllInputs, RankMaker
from micro.collectives.dispatch import MOE_DISPATCH_TOKENS, received_bytes, received_rows, split_sizes
from micro.measure.estimate import Rates, estimate
from tests.micro.collectives.test_ranks import QUICK, bmp, rows

torch = pytest.importorskip("torch")

SIZES = ["-a", "hidden_size=16", "-a", "num_experts=8", "-a", "topk=2", "-a", "dtype=bf16,int8"]
GIVEN = {"num_tokens": 24, "hidden_size": 16, "num_experts": 8, "topk": 2}

ASTRAY = """
import os
from micro.providers.contract import Kernel, Provider

def build(operator, args, device):
    right, rank = operator.kernel(args), int(os.environ["RANK"])
    def hostile(rows, result):
        if rank == 1 and args["num_tokens"] == 24:  # the first is rank 0's, the last rank 1's
            rows = rows.clone()
            rows[[0, -1]] = rows[[-1, 0]]
        if rank == 1 and args["num_tokens"] == 32:
            right(rows, result.clone())
            return result  # nothing arrived
        return right(rows, result)
    return Kernel(hostile)

PROVIDER = Provider("sends a row to the wrong rank", build, ())
"""


@pytest.fixture
def astray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A provider's name; this process's children find it."""
    about = tmp_path / "site" / "astray-1.0.dist-info"
    about.mkdir(parents=True)
    (tmp_path / "site" / "astray.py").write_text(ASTRAY)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: astray\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[bytemlperf.micro_providers]\nastray = astray:PROVIDER\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return "astray"


@pytest.mark.slow
def test_every_rank_gets_its_rows_and_bandwidths_are_of_what_it_got(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMP_MAX_RANKS", "4")
    counts = tmp_path / "counts.json"
    counts.write_text("[9, 1, 0, 5, 3, 3, 0, 0]")  # nothing for the last of four ranks
    case = ["-a", "num_tokens=64", "-a", "ep_size=2,4", "-a", f"routing=balanced,zipf,{counts}", *SIZES]
    folder = bmp("micro", "moe_dispatch_tokens", *case, *QUICK, "--runs-dir", str(tmp_path / "runs")).stdout.strip()
    found = rows(folder)
    assert len(found) == 12
    for row in found:
        assert row["status"] == "ok", row["reason"]
        assert len(row["ranks"]) == row["args"]["world_size"]
        ranks, got = row["args"]["world_size"], received_bytes(row["args"])
        assert row["alg_bw_gbs"] == pytest.approx(got / row["latency_us"]["p50"] / 1000)
        assert row["bus_bw_gbs"] == pytest.approx(row["alg_bw_gbs"] * (ranks - 1) / ranks)
    bmp("verify", folder)


@pytest.mark.slow
def test_a_row_sent_to_the_wrong_rank_or_not_at_all_is_found(astray: str, tmp_path: Path) -> None:
    case = ["-a", "num_tokens=24,32,40", "-a", "world_size=2", *SIZES]
    done = bmp("micro", "moe_dispatch_tokens", *case, "-p", astray, *QUICK, "--runs-dir", str(tmp_path / "runs"), expect=1)
    found = [(row["args"]["num_tokens"], row["status"], row["reason"]) for row in rows(done.stdout.strip())]
    assert len(found) == 12, "routing too, as in the basic cases"
    for tokens, status, reason in found:
        assert status == ("ok" if tokens == 40 else "failed")
        assert ("wrong result: " in reason) == (tokens != 40)


@pytest.mark.slow
def test_a_workload_of_xpu_perf_is_read_and_bad_cases_are_rows(tmp_path: Path) -> None:
    workload = tmp_path / "dispatch.json"
    common = {"arg_type": ["llm"], "hidden_size": [32], "topk": [2], "dtype": ["bfloat16", "int8"]}
    workload.write_text(json.dumps({"moe_dispatch_tokens": [{**common, "world_size": [2, 4096], "num_tokens": [4096, 3]}]}))
    folder = bmp("micro", "run", str(workload), *QUICK, "--runs-dir", str(tmp_path / "runs")).stdout.strip()
    by_case = {(row["args"]["world_size"], row["args"]["num_tokens"]): (row["status"], row["reason"]) for row in rows(folder)}
    assert by_case[2, 4096] == ("ok", "")
    assert "can't be dealt to 2 ranks" in by_case[2, 3][1]
    assert by_case[4096, 4096][0] == "refused"
    assert " cores; at most " in by_case[4096, 4096][1]


def test_bad_input_is_one_line() -> None:
    done = bmp("micro", "moe_dispatch_tokens", "-a", "num_tokens=8", "-a", "world_size=3", *SIZES, expect=2)
    assert done.stderr.startswith("error: moe_dispatch_tokens: world_size=3 does not divide num_experts=8")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("routing", ["balanced", "zipf", "zipf:2.5"])
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_what_ranks_send_is_what_they_get(routing: str, ranks: int) -> None:
    args = validate(MOE_DISPATCH_TOKENS, {**GIVEN, "world_size": ranks, "routing": routing})
    splits = split_sizes(args)
    assert [sum(column) for column in zip(*splits, strict=True)] == received_rows(args)
    assert {sum(row) for row in splits} == {24 // ranks * 2}
    sent = [MOE_DISPATCH_TOKENS.inputs(args, RankMaker(5, rank, "cpu"))[0].split(splits[rank]) for rank in range(ranks)]
    for rank in range(ranks):
        every: Any = AllInputs(MOE_DISPATCH_TOKENS.inputs, args, seed=5, rank=rank, device="cpu")
        assert torch.equal(MOE_DISPATCH_TOKENS.reference(args, every), torch.cat([parts[rank] for parts in sent]))


def test_cost_by_hand_and_memory_of_all_ranks() -> None:
    args = validate(MOE_DISPATCH_TOKENS, {**GIVEN, "world_size": 2})
    cost = MOE_DISPATCH_TOKENS.cost(args)
    assert (cost.flops, cost.read_bytes, cost.write_bytes) == (0, 24 * 16 * 2, 24 * 16 * 2)  # a rank: 12 tokens twice, and as many
    assert cost.footprint_bytes == 2 * 48 * 16 * 2
    skewed = MOE_DISPATCH_TOKENS.cost(validate(MOE_DISPATCH_TOKENS, {**GIVEN, "world_size": 2, "routing": "zipf"}))
    assert skewed.write_bytes > cost.write_bytes, "of the rank that gets most"
    assert estimate(MOE_DISPATCH_TOKENS, args, "torch", Rates(), cache_bytes=0).memory_bytes > cost.footprint_bytes
