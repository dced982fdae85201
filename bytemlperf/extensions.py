"""Every extension point of the project: engines, providers, backends, trainers, kinds of runs; suites and commands are in `app`.

What comes with this package stands in the tables here as `module:attribute`, so that finding it reads no other package's
metadata; other packages name theirs in the entry-point group of the point. One way to find, list, check and refuse them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from bytemlperf.errors import UserError, nearest
from bytemlperf.extras import MissingPackage

OURS = "bytemlperf-llm"


class Extension(NamedTuple):
    """One name of a point; `package` is the distribution that brings it, with its version, "" for what is built in."""

    point: Point
    name: str
    target: str
    package: str = ""

    @property
    def distribution(self) -> str:
        """The package's name alone."""
        return self.package.partition(" ")[0]

    def load(self) -> Any:
        """The object behind the name. Raises UserError where its module can't be imported or the object lacks what the point asks for."""
        what, fix = f"{self.point.what} '{self.name}'", f"reinstall {self.distribution or OURS}"
        module, _, attribute = self.target.partition(":")
        try:
            loaded: Any = import_module(module)
            for part in attribute.split("."):
                loaded = getattr(loaded, part)
        except MissingPackage:
            raise
        except Exception as error:
            raise UserError(f"{what} can't be loaded from {self.target}: {type(error).__name__}: {error}", fix) from error
        if lacking := [name for name in self.point.members if not hasattr(loaded, name)]:
            raise UserError(f"{what}, {self.target}, lacks {', '.join(lacking)}", f"{fix}, or fix its class; {self.point.contract}")
        return loaded

    def missing(self) -> str:
        """What it lacks to start on this machine, in one line; "" where it can. Never raises."""
        try:
            return self.point.lacks(self.load())
        except UserError as error:
            return error.cause
        except Exception as error:
            return f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class Point:
    """Where others can add to the project. `members` are the attributes that `contract` asks of an object at least."""

    what: str
    group: str
    built_in: Mapping[str, str]
    contract: str = ""
    members: tuple[str, ...] = ()
    lacks: Callable[[Any], str] = lambda _loaded: ""
    listed_by: str = "bmp extensions"

    def all(self) -> dict[str, Extension]:
        """By name: built-in ones in the order of their table, then others' by name. A built-in name can't be taken over."""
        return self._own() | {name: other for name, other in sorted(self._others().items()) if name not in self.built_in}

    def find(self, name: str) -> Extension:
        """Raises UserError for an unknown name."""
        own = self._own()
        if name in own:
            return own[name]
        self.check([name])
        return self.all()[name]

    def check(self, names: Iterable[str], also: Iterable[str] = ()) -> None:
        """Raises UserError for a name that is neither known nor in `also`."""
        known = [*self.all(), *also]
        for name in names:
            if name not in known:
                raise UserError(f"unknown {self.what} '{name}'", f"{nearest(name, known)} (see {self.listed_by})")

    def load(self, name: str) -> Any:
        """The object behind a name. Raises UserError; see `Extension.load`."""
        return self.find(name).load()

    def _own(self) -> dict[str, Extension]:
        return {name: Extension(self, name, target) for name, target in self.built_in.items()}

    def _others(self) -> dict[str, Extension]:
        if not _named_somewhere(self.group):
            return {}
        from importlib.metadata import entry_points  # whose import is a third of what a quick command takes to start

        entries = [entry for entry in entry_points(group=self.group) if not (entry.dist and entry.dist.name == OURS)]
        return {entry.name: Extension(self, entry.name, entry.value, _package(entry.dist)) for entry in entries}


def _named_somewhere(group: str) -> bool:
    """Whether a package on the module path may name the entry-point group."""
    heading = f"[{group}]"
    for folder in map(Path, sys.path):
        if folder.is_file():
            return True  # an archive of packages, which importlib.metadata can read
        others = (path for path in folder.glob("*-info/entry_points.txt") if not path.parent.name.startswith("bytemlperf_llm-"))
        if any(heading in path.read_text(encoding="utf-8", errors="replace") for path in others):
            return True
    return False


def _package(distribution: Any) -> str:
    return f"{distribution.name} {distribution.version}" if distribution else "another package"


def _lacks_requirements(engine: object) -> str:
    ask = getattr(engine, "requirements", None)
    return str(ask().missing) if ask is not None else ""


def _lacks_import(backend: Any) -> str:
    try:
        backend().describe()
    except ImportError as error:
        return str(error)
    return ""


def lacks_modules(loaded: object) -> str:
    """Which of the modules in its `needs` are not installed."""
    missing = [name for name in getattr(loaded, "needs", ()) if find_spec(name) is None]
    return f"{', '.join(missing)} not installed" if missing else ""


ENGINES = Point(
    "engine",
    "bytemlperf.engines",
    {
        "vllm": "engines.vllm.engine:VllmEngine",
        "openai": "engines.openai.engine:OpenAIEngine",
        "transformers": "engines.transformers.engine:TransformersEngine",
        "openvino": "engines.openvino.engine:OpenVinoEngine",
        "llamacpp": "engines.llamacpp.engine:LlamaCppEngine",
        "ctranslate2": "engines.ctranslate2.engine:CTranslate2Engine",
        "onnxruntime-genai": "engines.onnxruntime_genai.engine:OrtGenaiEngine",
        "reference": "engines.reference.engine:ReferenceEngine",
    },
    "see engines/contract.py",
    ("weights", "options_type", "start", "generate", "decode", "close"),
    _lacks_requirements,
    "bmp-llm engines",
)
PROVIDERS = Point(
    "provider",
    "bytemlperf.micro_providers",
    {
        "torch": "micro.providers.torch_based:TORCH",
        "torch_compile": "micro.providers.torch_based:TORCH_COMPILE",
        "onednn": "micro.providers.linear:ONEDNN",
        "numpy": "micro.providers.linear:NUMPY_BLAS",
        "sdpa": "micro.providers.torch_based:SDPA",
        "vllm": "micro.providers.vllm_kernels:VLLM",
        "triton": "micro.providers.torch_based:TRITON",
        "flash_attn": "micro.providers.gpu_kernels:FLASH_ATTN",
        "flashinfer": "micro.providers.gpu_kernels:FLASHINFER",
    },
    "see micro/providers/contract.py",
    ("help", "build", "packages"),
    lacks_modules,
    "bmp micro list",
)
BACKENDS = Point(
    "backend",
    "bytemlperf.backends",
    {
        "onnxruntime": "general_perf.backends.onnxruntime:OnnxRuntime",
        "openvino": "general_perf.backends.openvino:OpenVino",
        "torch-eager": "general_perf.backends.torch_eager:TorchEager",
        "torch-inductor": "general_perf.backends.torch_inductor:TorchInductor",
    },
    "see general_perf/backends/contract.py",
    ("describe", "compile", "load", "coverage"),
    _lacks_import,
    "bmp general backends",
)
TRAINERS = Point(
    "trainer",
    "bytemlperf.trainers",
    {"torch": "training.trainers.native:NativeTrainer", "megatron": "training.trainers.megatron:MegatronTrainer"},
    "see training/trainers/contract.py",
    ("step", "parameters", "state", "restore"),
    lacks_modules,
)
RUN_KINDS = Point(
    "kind of run",
    "bytemlperf.run_kinds",
    {
        "llm": "bytemlperf_llm.kind:KIND",
        "sweep": "bytemlperf_llm.sweep.kind:KIND",
        "campaign": "bytemlperf_llm.campaign.kind:KIND",
        "endpoints": "bytemlperf_llm.mlperf.kind:KIND",
        "general": "general_perf.results.kind:KIND",
        "capacity": "bytemlperf_llm.capacity.kind:KIND",
        "engine-check": "bytemlperf_llm.conformance.kind:KIND",
        "micro": "micro.results.kind:KIND",
        "training": "training.results.kind:KIND",
    },
    "extend RunKind of bytemlperf/runs/kinds.py",
    ("name", "record", "summarise", "figures", "sections", "verify", "terminal"),
)
POINTS = (ENGINES, PROVIDERS, BACKENDS, TRAINERS, RUN_KINDS)
