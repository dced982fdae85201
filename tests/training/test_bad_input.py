"""Bad input: one line, exit status 2, nothing started and no run folder left."""

from __future__ import annotations

from pathlib import Path

import pytest

from bytemlperf.command.exits import one_line
from bytemlperf.errors import UserError
from tests.training.conftest import bmp

MANY_HEADS = (
    "name: own\nfamily: gpt\nmodel: {layers: 2, hidden: 60, heads: 6, ffn: 128, seq_len: 32}\ntraining: {global_batch: 4, micro_batch: 2}\n"
)
TYPO = "name: own\nfamily: gpt\nmodel: {layer: 2}\ntraining: {global_batch: 4, micro_batch: 2}\n"
NOT_HEADS = "name: own\nfamily: gpt\nmodel: {hidden: 65, heads: 4}\ntraining: {global_batch: 4, micro_batch: 2}\n"


def refused(arguments: list[str]) -> str:
    """What the command line answers, in this process: starting another one for each would take most of the time."""
    import typer.main

    from training.cli import app

    with pytest.raises(UserError) as caught:
        typer.main.get_command(app).main(arguments, standalone_mode=False)
    return one_line(str(caught.value))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gtp"], ["no workload 'gtp'", "did you mean 'gpt'?"]),
        (["gpt-tiny", "--nproc", "3", "--tp", "3"], ["tp 3 doesn't divide the 4 attention heads", "1, 2, 4"]),
        (["gpt-tiny", "--nproc", "2", "--dp", "2", "--tp", "2"], ["= 4 ranks, but there are 2", "--nproc 4"]),
        (["gpt-tiny", "--nproc", "3"], ["doesn't divide global_batch 8", "--global-batch 12"]),
        (["gpt-tiny", "--trainer", "megatron", "--nproc", "4", "--pp", "4"], ["pp 4 doesn't divide the 2 layers"]),
        (["gpt-tiny", "--pp", "2", "--nproc", "2"], ["no pipeline", "--trainer megatron"]),
        (["gpt-tiny", "--trainer", "megatron", "--nproc", "2", "--ep", "2"], ["no experts"]),
        (["bert", "--trainer", "megatron"], ["doesn't train a bert", "--trainer torch"]),
        (["gpt-tiny", "--nproc", "4", "--dp", "2", "--tp", "2"], ["--sharding fsdp"]),
        (["gpt-tiny", "--sharding", "zero1"], ["no --sharding zero1", "--trainer megatron"]),
        (["moe-tiny", "--trainer", "megatron", "--nproc", "2", "--tp", "2"], ["sequence parallel", "--tp 1"]),
        (["moe-tiny", "--nproc", "2", "--ep", "2"], ["no pipeline or expert parallel", "--trainer megatron"]),
        (["gpt-tiny", "--rerun-of", "/nowhere"], ["/nowhere"]),
        (["gpt-tiny", "--trainer", "tensorflow"], ["unknown trainer 'tensorflow'", "bmp extensions"]),
        (["gpt-tiny", "--precision", "fp64"], ["--precision 'fp64' is unknown"]),
        (["gpt-tiny", "--device", "tpu"], ["--device 'tpu' is unknown"]),
        (["gpt-tiny", "--steps", "4"], ["leave none to measure", "--steps 15"]),
        (["gpt-tiny", "--seq-len", "0"], ["workload gpt-tiny, model.seq_len: "]),
        (["gpt-tiny", "--global-batch", "7"], ["workload gpt-tiny: micro_batch doesn't divide global_batch"]),
        (["gpt-tiny", "--fault", "kill:9:1"], ["never happens"]),
        (["gpt-tiny", "--fault", "explode"], ["kill, hang or nan"]),
        (["gpt-tiny", "--nnodes", "2"], ["--prepare"]),
        (["gpt-tiny", "--resume-from", "/nowhere"], ["no checkpoint"]),
        (["gpt-tiny", "--micro-run", "/nowhere"], ["/nowhere"]),
        (["gpt-tiny", "--micro-batch", "1048576", "--global-batch", "1048576"], ["not enough memory", "--skip-memory-check"]),
        (["scale", "gpt-tiny", "--nproc", "1,x"], ["can't be read"]),
        (["scale", "gpt-tiny", "--mode", "sideways"], ["--mode 'sideways' is unknown", "strong, weak"]),
        (["scale", "gpt-tiny", "--nproc", "1,3"], ["doesn't divide global_batch"]),
        (["drift", "gpt-tiny", "--precision", "fp32"], ["has nothing to compare"]),
    ],
)
def test_one_line_that_names_the_mend(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    said = refused([*arguments, "--runs-dir", str(tmp_path / "runs")])
    assert all(word in said for word in words), said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        (MANY_HEADS, ["--nproc", "4", "--tp", "4"], ["tp 4 doesn't divide the 6 attention heads"]),
        (TYPO, [], ["own.yaml:3", "'layer'", "did you mean 'layers'?"]),
        (NOT_HEADS, [], ["4 heads don't divide hidden 65"]),
        ("", [], ["is empty"]),
        ("name: [", [], ["not valid YAML"]),
    ],
)
def test_a_workload_file_is_checked(text: str, arguments: list[str], words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    said = refused([str(path), *arguments, "--runs-dir", str(tmp_path / "runs")])
    assert all(word in said for word in words), said


def test_the_command_says_it_in_one_line_with_status_2(tmp_path: Path) -> None:
    ran = bmp("train", "gpt-tiny", "--nproc", "3", "--tp", "3", runs_dir=tmp_path / "runs")
    assert (ran.status, ran.out, len(ran.err.strip().splitlines())) == (2, "", 1), ran.err


def test_a_dry_run_estimates_the_large_ones() -> None:
    ran = bmp("train", "gpt-857m", "--nproc", "8", "--tp", "2", "--dp", "4", "--sharding", "fsdp", "--skip-memory-check", "--dry-run")
    assert ran.status == 0, ran.err
    assert "a rank" in ran.out
    assert "GiB" in ran.out
