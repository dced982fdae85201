"""Manifests and container file: checked by Kubernetes' schemas, true to the lock and the package, and their commands run."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from engines.reference_server import ReferenceServer
from tests.cli.helpers import bmp

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy/kubernetes"
CONTAINERFILE = (ROOT / "deploy/container/Containerfile").read_text()
JOB = yaml.safe_load((KUBERNETES / "load-job.yaml").read_text())
RAY = yaml.safe_load((KUBERNETES / "ray/load-cluster.yaml").read_text())
VERSIONS = ("1.30", "1.34", "1.37")


def check(document: dict[str, Any], version: str) -> None:
    """Raises where Kubernetes' schema of that version refuses the document, unknown keys included."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="Kubernetes' schemas are not installed (extra dev)")
    kubernetes_validate.validate(document, version, strict=True)


def ray_pods() -> dict[str, dict[str, Any]]:
    """The pod templates inside the RayJob, as pods."""
    cluster = RAY["spec"]["rayClusterSpec"]
    templates = {"submitter": RAY["spec"]["submitterPodTemplate"], "head": cluster["headGroupSpec"]["template"]}
    templates |= {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {
        name: {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name} | each.get("metadata", {}), "spec": each["spec"]}
        for name, each in templates.items()
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_the_manifests(version: str):
    check(JOB, version)
    check(yaml.safe_load((KUBERNETES / "runs.yaml").read_text()), version)
    for pod in ray_pods().values():
        check(pod, version)


def test_a_key_that_kubernetes_does_not_know_would_be_found():
    broken = json.loads(json.dumps(JOB))
    broken["spec"]["template"]["spec"]["containers"][0]["securityContext"]["runAsNonRot"] = True
    with pytest.raises(Exception, match="runAsNonRot"):
        check(broken, VERSIONS[-1])


def test_kustomizations_name_what_is_there():
    for folder in (KUBERNETES, KUBERNETES / "ray"):
        kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
        assert all((folder / name).is_file() for name in kustomization["resources"])
        assert {image["name"] for image in kustomization["images"]} == {"bytemlperf-llm"}
    pods = [JOB["spec"]["template"], *ray_pods().values()]
    assert {container["image"] for pod in pods for container in pod["spec"]["containers"]} == {"bytemlperf-llm"}


def test_every_container_has_whole_cores_and_limits():
    for pod in (JOB["spec"]["template"], *(pod for name, pod in ray_pods().items() if name != "submitter")):
        for container in pod["spec"]["containers"]:
            resources = container["resources"]
            assert resources["requests"] == resources["limits"], "a guaranteed pod: throttling would be measured"
            assert resources["limits"]["cpu"].isdigit()


def test_the_job_runs_without_rights():
    pod = JOB["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert str(pod["securityContext"]["runAsUser"]) == re.search(r"^USER (\d+)$", CONTAINERFILE, re.MULTILINE)[1]
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    words = json.dumps([JOB, RAY])
    assert "sk-" not in words, "keys come from a secret"


def test_the_container_file_copies_what_the_package_is_made_of():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    copied = {word for line in re.findall(r"^COPY (.*)$", CONTAINERFILE, re.MULTILINE) for word in line.split()[:-1]}
    assert all((ROOT / name).exists() for name in copied)
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= copied
    ignored = (ROOT / "deploy/container/Containerfile.dockerignore").read_text()
    assert {line[1:] for line in ignored.splitlines() if line.startswith("!")} == copied
    extras = re.search(r"^ARG EXTRAS=(.*)$", CONTAINERFILE, re.MULTILINE)[1].split(",")
    assert set(extras) <= set(project["project"]["optional-dependencies"])
    (entry,) = json.loads(re.search(r"^ENTRYPOINT (.*)$", CONTAINERFILE, re.MULTILINE)[1])
    assert entry in project["project"]["scripts"]


def test_ray_is_the_locks():
    (locked,) = re.findall(r"^ray==(\S+)", (ROOT / "requirements/cpu.lock").read_text(), re.MULTILINE)
    assert RAY["spec"]["rayClusterSpec"]["rayVersion"] == locked


def changed(arguments: list[str], **changes: str) -> list[str]:
    """The arguments with some options' values replaced; each must be there."""
    names = {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    assert set(names) <= {argument.partition("=")[0] for argument in arguments}
    return [f"{name}={names[name]}" if (name := argument.partition("=")[0]) in names else argument for argument in arguments]


@pytest.mark.slow
async def test_the_jobs_command_runs(tmp_path: Path):
    (container,) = JOB["spec"]["template"]["spec"]["containers"]
    async with ReferenceServer({"ttft_ms": "5", "itl_ms": "1"}) as server:
        arguments = changed(
            container["args"],
            base_url=server.url,
            num_prompts="40",
            workers="2",
            runs_dir=str(tmp_path / "runs"),
            prometheus_host="127.0.0.1",
            prometheus_port="0",
        )
        environment = {"HOME": str(tmp_path), "OPENAI_API_KEY": "key-of-the-secret"}
        done = await asyncio.to_thread(bmp, *arguments, cwd=tmp_path, env=environment)
    assert done.returncode in (0, 1), done.stderr  # a busy machine may make it invalid
    (run,) = (tmp_path / "runs").iterdir()
    assert sum(path.read_bytes().count(b"\n") for path in run.glob("records*.jsonl")) == 40
    assert "key-of-the-secret" not in (run / "run.json").read_text()


def test_the_ray_jobs_command_is_one_that_the_command_line_takes():
    from typer.main import get_command

    from bytemlperf_llm.cli import app

    program, command, *arguments = shlex.split(RAY["spec"]["entrypoint"])
    assert (program, command) == ("bmp-llm", "serve-bench")
    serve_bench = get_command(app).commands[command]  # type: ignore[attr-defined]
    values = serve_bench.make_context(command, arguments, resilient_parsing=False).params
    assert (values["ray"], values["workers"], values["request_rate"]) == ("auto", "16", "400")
