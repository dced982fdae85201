"""Which room may know which: no circle of imports, and no arrow that the plan of docs/architecture.md forbids.

Read from the sources: imports inside functions and under TYPE_CHECKING count like any other.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from bytemlperf.extensions import RUN_KINDS

ROOT = Path(__file__).parents[1]
SUITES = ("bytemlperf_llm", "micro", "general_perf", "training")
PACKAGES = ("bytemlperf", *SUITES, "engines")
COMMON = (
    *("engines.contract", "engines.chat", "engines.images", "engines.untrusted", "engines.credentials", "engines.client_limits"),
    *("engines.processor", "engines.timers", "engines.counted", "engines.trace_context"),
)
"""What engines share with those that call them: the contract, chats as templates take them, drawn images, what keeps strangers' data
and this machine's limits apart, the timer."""
AMONG_ENGINES = (*COMMON, "engines.inprocess", "engines.loaded_weights", "engines.http", "engines.steps", "engines.thought")

REASONED = {
    ("bytemlperf_llm.run.reference_server", "engines.reference.server"): "`bmp-llm reference-server` is that program's command line",
}
"""Arrows that the rule forbids and a reason keeps."""


def test_no_circle_of_imports() -> None:
    assert circles(graph()) == []


def test_no_forbidden_arrow() -> None:
    found = {(source, target) for source, targets in graph().items() for target in targets if not allowed(source, target)}
    assert found == set(REASONED)


MOST_INSIDE_FUNCTIONS = 51
"""Imports of ours inside functions, beside the command lines' (whose help must not wait for them). May only fall: what needs no
optional package and costs no start-up is imported at the top."""


def test_own_modules_are_imported_at_the_top() -> None:
    assert sum(inside_functions(path) for package in PACKAGES for path in (ROOT / package).rglob("*.py")) <= MOST_INSIDE_FUNCTIONS


def inside_functions(path: Path) -> int:
    """How many imports of ours a file makes inside its functions; 0 for a command line."""
    if path.name in ("cli.py", "app.py") or (path.name == "command.py" and path.parent.name != "command"):
        return 0
    functions = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    found = {node for function in functions for node in ast.walk(function) if isinstance(node, ast.ImportFrom)}
    return sum((node.module or "").partition(".")[0] in PACKAGES for node in found)


def test_the_reader_of_imports_sees_those_inside_functions(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f():\n    from b import g\n")
    (tmp_path / "b.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a\n")
    assert circles(graph(tmp_path, ("a.py", "b.py"))) == [["a", "b"]]


def allowed(source: str, target: str) -> bool:
    """Whether one module may import the other."""
    here, there = source.partition(".")[0], target.partition(".")[0]
    if target.endswith(".cli"):
        return False
    if there == "engines":
        engine = target.split(".")[1] if "." in target else ""
        if here == "engines":
            return within(target, AMONG_ENGINES) or source.split(".")[1:2] == [engine]
        return within(target, COMMON)
    if there in SUITES:
        return here == there
    return here != "engines"


def within(module: str, rooms: tuple[str, ...]) -> bool:
    """Whether a module is one of these or in one of them."""
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def graph(root: Path = ROOT, places: tuple[str, ...] = PACKAGES) -> dict[str, set[str]]:
    """Module to the modules of ours that it imports."""
    files = [path for place in places for path in ([root / place] if place.endswith(".py") else sorted((root / place).rglob("*.py")))]
    modules = {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in files}
    return {name: set(imports(path, modules)) - {name} for name, path in modules.items()}


def imports(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """The modules among `modules` that a file names in any import."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if full in modules or node.module in modules:
                    yield full if full in modules else node.module


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Sets of modules that reach each other (Tarjan's strongly connected components of more than one), sorted."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for target in edges[module]:
            if target not in index:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], index[target])
        if low[module] == index[module]:
            place = stack.index(module)
            component = stack[place:]
            del stack[place:]
            if len(component) > 1:
                found.append(sorted(component))

    for module in edges:
        if module not in index:
            visit(module)
    return sorted(found)


def test_every_room_and_file_of_the_page_is_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = {name for name in re.findall(r"`([\w/]+(?:\.py|/))`", page) if "<" not in name}
    assert len(named) > 60
    homes = [ROOT, *(ROOT / package for package in PACKAGES)]
    assert sorted(name for name in named - {"command/", "results/"} if not any((home / name).exists() for home in homes)) == []


def test_the_core_knows_no_suite_by_name() -> None:
    """The tables of extensions and commands name them, and a submission's declaration and its rule on models."""
    names, told = {*RUN_KINDS.built_in, "train"}, {"extensions.py", "app.py", "submit/declaration.py", "submit/rules.py"}
    core = ROOT / "bytemlperf"
    files = {str(path.relative_to(core)): path for path in core.rglob("*.py")}
    knowing = {name for name, path in files.items() if names & set(constants(path))}
    assert knowing <= told


def constants(path: Path) -> Iterator[object]:
    """The values that stand in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
