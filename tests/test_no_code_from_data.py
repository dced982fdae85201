"""Nothing here turns data into code, and nothing but the target is contacted."""

from __future__ import annotations

import ast
import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from engines.reference.server import ReferenceServer
from tests.cli.helpers import QUICK

ROOT = Path(__file__).parents[1]
PACKAGES = ("bytemlperf", "bytemlperf_llm", "engines", "general_perf", "micro", "training")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
GUARDED = {"training/rank/dcp.py": ["pickles"]}
"""An unpickler that builds only what a list allows: tests/training/test_checkpoints.py."""
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
CALLS = {"eval", "exec", "compile", "__import__"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell"}
UNSAFE_YAML = {"yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"}
SAFE_LOADERS = {"SafeLoader", "CSafeLoader"}


def name_of(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((each.value for each in call.keywords if each.arg == name), None)


def is_true(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and value.value is True


def findings(source: str) -> list[str]:
    """What a source does that can run code out of data."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += ["pickles" for module in modules if module.split(".")[0] in PICKLES]
        if not isinstance(node, ast.Call):
            continue
        name = name_of(node.func)
        if name in CALLS:
            found.append(name)
        if name in SHELLS or is_true(keyword(node, "shell")):
            found.append("a shell")
        if name in UNSAFE_YAML and (name_of(keyword(node, "Loader") or ast.Constant(None)).split(".")[-1] not in SAFE_LOADERS):
            found.append("unsafe YAML")
        if name == "torch.load" and not is_true(keyword(node, "weights_only")):
            found.append("torch.load without weights_only")
        if is_true(keyword(node, "trust_remote_code")):
            found.append("trust_remote_code")
        if is_true(keyword(node, "allow_pickle")):
            found.append("pickles")
    return found


def test_no_source_runs_code_out_of_data():
    assert len(SOURCES) > 200
    found = {str(path.relative_to(ROOT)): findings(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert {name: what for name, what in found.items() if what} == GUARDED


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import pickle", "pickles"),
        ("from dill import loads", "pickles"),
        ("eval(text)", "eval"),
        ("subprocess.run(text, shell=True)", "a shell"),
        ("os.system(text)", "a shell"),
        ("yaml.load(text)", "unsafe YAML"),
        ("yaml.load(text, Loader=yaml.FullLoader)", "unsafe YAML"),
        ("torch.load(file)", "torch.load without weights_only"),
        ("torch.load(file, weights_only=False)", "torch.load without weights_only"),
        ("load(name, trust_remote_code=True)", "trust_remote_code"),
        ("numpy.load(file, allow_pickle=True)", "pickles"),
    ],
)
def test_the_look_itself_finds_them(source, what):
    assert findings(source) == [what]


def test_what_is_safe_is_not_found():
    assert findings("yaml.load(text, Loader=yaml.SafeLoader)\ntorch.load(file, weights_only=True)\nmodel.eval()\nre.compile(text)") == []


# -- who is contacted --------------------------------------------------------------------------

LISTENING = """
import atexit, sys
contacted = set()

def hear(event, arguments):
    if event == "socket.connect":
        address = arguments[1]
        contacted.add(address[0] if isinstance(address, tuple) else "a local socket")
    elif event == "socket.getaddrinfo":
        contacted.add(arguments[0])

sys.addaudithook(hear)
atexit.register(lambda: open("contacted.txt", "w").write("\\n".join(sorted(map(str, contacted)))))
from bytemlperf_llm.cli import main
main()
"""


def test_only_the_target_is_contacted(tmp_path):
    """A run over HTTP from its start to its report, as Python's own audit events tell."""

    async def run():
        async with ReferenceServer({"ttft_ms": "5", "itl_ms": "1"}) as server:
            words = ["serve-bench", "--engine", "openai", "--base-url", server.url, *QUICK[3:7], "--num-prompts", "20"]
            return await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", LISTENING, *words, "--request-rate", "100", "--prometheus-port", "0"],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )

    ended = asyncio.run(run())
    assert ended.returncode in (0, 1), ended.stderr
    contacted = set((tmp_path / "contacted.txt").read_text().split("\n"))
    assert contacted <= {"127.0.0.1", ""}, contacted
    assert len(list(tmp_path.glob("runs/*/report.html"))) == 1
