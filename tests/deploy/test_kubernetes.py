"""Manifests and container file: checked by Kubernetes' schemas, true to the lock and the package, and their commands run."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from engines.reference.server import ReferenceServer
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


def rendered(folder: Path) -> list[dict[str, Any]]:
    """What `kubectl apply -k` would send to the cluster; skips where there is no kubectl."""
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl here (Debian: kubernetes-client)")
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def test_what_kustomize_renders_is_accepted_and_has_the_image_that_the_kustomization_says():
    documents = rendered(KUBERNETES)
    kinds = {document["kind"]: document for document in documents}
    assert len(documents) == 2
    for version in VERSIONS:
        for document in documents:
            check(document, version)
    volumes = {volume["name"]: volume for volume in kinds["Job"]["spec"]["template"]["spec"]["volumes"]}
    assert volumes["runs"]["persistentVolumeClaim"]["claimName"] == kinds["PersistentVolumeClaim"]["metadata"]["name"]
    (image,) = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["images"]
    (container,) = kinds["Job"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"{image['newName']}:{image['newTag']}"
    assert {**container, "image": "bytemlperf-llm"} == JOB["spec"]["template"]["spec"]["containers"][0], "nothing else is changed"


def test_kustomize_renders_the_ray_job_with_its_image_in_every_pod():
    """Kustomize looks for images in kinds that it does not know too; were it not so, the pods' image would be no registry's."""
    (job,) = rendered(KUBERNETES / "ray")
    (image,) = yaml.safe_load((KUBERNETES / "ray/kustomization.yaml").read_text())["images"]
    before, after = json.dumps(RAY, sort_keys=True), json.dumps(job, sort_keys=True)
    assert before.count('"image": "bytemlperf-llm"') == len(ray_pods()) == 3
    assert after == before.replace('"image": "bytemlperf-llm"', f'"image": "{image["newName"]}:{image["newTag"]}"')


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
