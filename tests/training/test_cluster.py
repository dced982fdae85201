"""Several machines: two torchruns that meet through a rendezvous, and the examples for clusters."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from bytemlperf.runs.verdicts import SOUND
from tests.training.conftest import PATIENCE_S, Ran, bmp

KUBERNETES = "1.34"
EXAMPLES = Path(__file__).parents[2] / "training" / "examples"


@pytest.mark.slow
def test_two_torchruns_do_one_run(train: Callable[..., Ran]) -> None:
    made = train("gpt-tiny", "--nnodes", "2", "--nproc", "1", "--steps", "8", "--no-operator-check", "--prepare", "-q")
    assert made.status == 0, made.err
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d"]
    command += [f"--rdzv-endpoint=127.0.0.1:{port}", "--local-addr=127.0.0.1", "-m", "training.rank.worker", str(made.folder / "plan.json")]
    environment = {**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    agents = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [agent.communicate(timeout=PATIENCE_S)[1] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    done = bmp("train", "finish", str(made.folder))
    assert done.status == 0, done.out + done.err
    assert done.summary["verdict"] in SOUND
    assert [step["step"] for step in done.steps] == list(range(8))
    again = bmp("train", "finish", str(made.folder))
    assert (again.status, len(again.err.strip().splitlines())) == (2, 1)


def test_a_prepared_run_that_never_ran_is_invalid(tmp_path: Path) -> None:
    made = bmp("train", "gpt-tiny", "--prepare", runs_dir=tmp_path)
    assert "bmp train finish" in made.err
    done = bmp("train", "finish", str(made.folder), "-q")
    assert done.status == 1
    assert any("ended early" in reason for reason in done.summary["reasons"])


def test_the_slurm_example_is_sound(tmp_path: Path) -> None:
    script = EXAMPLES / "slurm.sh"
    _lint(script)
    fakes = tmp_path / "bin"
    fakes.mkdir()
    fake(fakes / "scontrol", 'printf "node1\\nnode2\\n"')
    fake(fakes / "srun", f'printf "%s\\n" "$@" > {tmp_path}/srun')
    fake(fakes / "bmp", f'echo "$@" >> {tmp_path}/bmp; echo /runs/one')
    environment = {
        "PATH": f"{fakes}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "x",
        "SLURM_JOB_ID": "7",
    }
    subprocess.run(["bash", str(script), "gpt-345m", "--tp", "2"], env=environment, check=True)
    said = (tmp_path / "bmp").read_text().splitlines()
    assert said[0] == f"train gpt-345m --tp 2 --nnodes 2 --nproc 8 --runs-dir {tmp_path}/runs --prepare --quiet"
    assert said[1] == "train finish /runs/one"
    started = (tmp_path / "srun").read_text().splitlines()
    assert {"torchrun", "--nnodes=2", "--rdzv-endpoint=node1:29500", "training.rank.worker", "/runs/one/plan.json"} <= set(started)
    _known_to_torchrun(started[1:])


def test_the_kubernetes_example_is_sound(tmp_path: Path) -> None:
    import kubernetes_validate

    service, job = yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text())
    for each in (service, job):
        kubernetes_validate.validate(each, KUBERNETES, strict=True)
    pod = job["spec"]["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    (container,) = pod["containers"]
    variables = {each["name"]: each["value"] for each in container["env"]}
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == int(variables["NODES"])
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    script = tmp_path / "ranks.sh"
    script.write_text("#!/usr/bin/env bash\n" + container["args"][0])
    _lint(script, *variables, "JOB_COMPLETION_INDEX")


def fake(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


def _lint(script: Path, *set_elsewhere: str) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    done = subprocess.run([str(Path(sys.executable).with_name("shellcheck")), str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def _known_to_torchrun(arguments: list[str]) -> None:
    """torchrun's own parser takes them."""
    pytest.importorskip("torch")
    from torch.distributed.run import parse_args

    parsed = parse_args(arguments)
    assert (parsed.module, parsed.training_script) == (True, "training.rank.worker")
