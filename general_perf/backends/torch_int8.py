"""int8 of both torch backends: static by default, dynamic only where `int8=dynamic` asks for it.

Static is PT2E by torchao: torch.export takes the graph, `prepare_pt2e` puts observers before the layers that
X86InductorQuantizer quantises (convolutions, linear layers; activations uint8 per tensor, weights int8 per
channel), the calibration set runs through them, `convert_pt2e` writes the scales into the graph. Inductor makes
int8 kernels of that; eager mode runs it as it stands: values rounded to int8, products in fp32.

Dynamic is `torch.ao.quantization.quantize_dynamic`: linear layers alone, activations at run time, no calibration set.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bytemlperf.extras import require
from general_perf.backends.contract import Array, Arrays, CompileOptions, Details, SourceModel, quiet
from general_perf.backends.export import example_for, exported, is_dynamic
from general_perf.backends.registry import INT8
from general_perf.backends.tensors import tensors_of
from general_perf.failures import StageError

require("int8 of torch", "general", "torch")
import torch  # noqa: E402

APART = Path(sys.prefix) / "apart"
"""Where `make setup` puts the packages of requirements/apart.txt."""
PRODUCTS = frozenset(
    {
        *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "linear", "matmul", "bmm", "mm", "addmm", "baddbmm"),
        *("einsum", "scaled_dot_product_attention", "lstm", "gru"),
    }
)
"""Operators of torch.export's graph that multiply: what int8 is for."""
DYNAMIC_INSTEAD = "take --backend-option int8=dynamic (linear layers, no calibration set), or bf16"


@dataclass(frozen=True)
class AtPrecision:
    """A module at a precision, by what tool, calibrated on what. `products`, of static int8: what it quantised."""

    module: torch.nn.Module
    tool: str
    calibration: str | None = None
    products: Products | None = None
    options: Mapping[str, str] = field(default_factory=dict)


class Products(NamedTuple):
    """The operators of a converted graph that multiply, by name: with int8 on both sides, and without."""

    int8: Counter[str]
    float: Counter[str]

    @property
    def total(self) -> int:
        return sum(self.int8.values()) + sum(self.float.values())

    def in_words(self) -> str:
        """`36 of 42 products in int8 (36 linear); in float: 6 scaled_dot_product_attention`."""
        taken = f"{sum(self.int8.values())} of {self.total} products in int8 ({_listed(self.int8)})"
        return f"{taken}; in float: {_listed(self.float)}" if self.float else taken

    def details(self) -> Details:
        """For a coverage record: which of the graph's products are in int8, as a share and by name."""
        return {
            "products_by_precision": {"int8": sum(self.int8.values()), "fp32": sum(self.float.values())},
            "int8_share_of_products": sum(self.int8.values()) / self.total,
            "int8_products": dict(sorted(self.int8.items())),
            "float_products": dict(sorted(self.float.items())),
        }


def quantised(module: torch.nn.Module, model: SourceModel, options: CompileOptions) -> AtPrecision:
    """The module in int8, of the kind that `int8=static|dynamic` asks for. Raises StageError where it can't be had."""
    kind = options.extra.get("int8", "static")
    if kind not in INT8:
        raise StageError("compile_error", f"int8={kind} is unknown", f"give one of {', '.join(INT8)}")
    if options.device != "cpu":
        raise StageError("unsupported_precision", "torch's int8 runs on the CPU alone here", "take --device cpu, or bf16")
    return _dynamic(module) if kind == "dynamic" else _static(module, model, options)


def _static(module: torch.nn.Module, model: SourceModel, options: CompileOptions) -> AtPrecision:
    """PT2E: export, observe the calibration set, convert."""
    batches = options.calibration_batches()
    tool = _torchao()
    example = example_for(model, options)
    try:
        graph = exported(module, model, example, options.extra).module()
    except Exception as error:
        cause = f"torch.export does not take the model, which static int8 needs: {type(error).__name__}: {error}"
        raise StageError("compile_error", cause, DYNAMIC_INSTEAD) from error
    graph.graph.eliminate_dead_code()  # the quantizer trips over a layer whose answer nobody reads
    graph.recompile()
    size = None if is_dynamic(model, options.extra) else len(next(iter(example.values())))
    with torch.no_grad(), quiet():
        observed = _without_observers_of_integers(tool.prepare(graph))
        for batch in _of_size(batches, size):
            observed(*tensors_of(batch, model))
        converted = _without_leftovers(tool.convert(observed))
    products = products_of(converted.graph)
    if not products.int8:
        what = f"none of the model's products ({_listed(products.float) or 'there are none'}) is one that torchao quantises"
        raise StageError("unsupported_precision", what, "use bf16")
    return AtPrecision(converted, tool.name, options.calibration_source, products, {"int8": "static"})


@contextlib.contextmanager
def torchao_in_sight() -> Iterator[None]:
    """Let torchao be found: transformers, diffusers and vLLM import all of it wherever they see it, which takes seconds
    and warns. So the worker hides it from them, and `make setup` puts it into a folder of its own."""
    if sys.modules.get("torchao", ...) is None:
        del sys.modules["torchao"]
    sys.path.append(str(APART))
    try:
        yield
    finally:
        sys.path.remove(str(APART))


class _Tool(NamedTuple):
    name: str
    prepare: Callable[[torch.fx.GraphModule], torch.fx.GraphModule]
    convert: Callable[[torch.fx.GraphModule], torch.fx.GraphModule]


def _torchao() -> _Tool:
    """PT2E of torchao, imported here alone."""
    try:
        with quiet(), torchao_in_sight():
            import torchao
            from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
            from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86
    except ImportError as error:
        cause = f"static int8 of torch takes torchao, which is not here ({error})"
        fix = f"pip install 'bytemlperf-llm[general-int8]'; or {DYNAMIC_INSTEAD}"
        raise StageError("missing_package", cause, fix) from error
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    name = f"torchao {torchao.__version__}, PT2E static, X86InductorQuantizer"
    return _Tool(name, lambda graph: prepare_pt2e(graph, quantizer), convert_pt2e)


def _of_size(batches: list[Arrays], size: int | None) -> Iterator[Arrays]:
    """The batches as they are; for a graph of one batch size, joined to that size, the last filled up from the first."""
    if size is None:
        yield from batches
        return
    joined = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    count = len(next(iter(joined.values())))
    for start in range(0, count, size):
        rows: Array = np.arange(start, start + size) % count
        yield {name: array[rows] for name, array in joined.items()}


def _without_observers_of_integers(observed: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """The graph without the observers that the quantizer put at integers, such as positions that are counted and added: there
    is nothing to round there, and they can't look at them."""
    for node in list(observed.graph.nodes):
        if node.op == "call_module" and node.target.startswith("activation_post_process_"):
            value = node.args[0].meta.get("val")
            if value is not None and not value.is_floating_point():
                node.replace_all_uses_with(node.args[0])
                observed.graph.erase_node(node)
    observed.recompile()
    return observed


def _without_leftovers(converted: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """The graph's module without the float weights that its int8 ones took the place of: they are not what is shipped."""
    used = {node.target for node in converted.graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in (*converted.named_parameters(), *converted.named_buffers()) if name not in used]:
        owner, _, leaf = name.rpartition(".")
        delattr(converted.get_submodule(owner), leaf)
    return converted


def products_of(graph: torch.fx.Graph) -> Products:
    """Which multiplying operators of a converted graph take int8 on both sides (what `dequantize` hands them)."""
    products = Products(Counter(), Counter())
    for node in graph.nodes:
        name = node.target.__name__.split(".")[0] if node.op == "call_function" else ""
        if name in PRODUCTS:
            sides = [side for side in node.args[:2] if hasattr(side, "target")]
            whole = len(sides) == 2 and all("dequantize" in str(side.target) for side in sides)
            (products.int8 if whole else products.float)[name] += 1
    return products


def _listed(names: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(names.items()))


def _dynamic(module: torch.nn.Module) -> AtPrecision:
    if not any(isinstance(layer, torch.nn.Linear) for layer in module.modules()):
        raise StageError("unsupported_precision", "the model has no linear layer, which is all that dynamic int8 quantises", "use bf16")
    with quiet():
        module = torch.ao.quantization.quantize_dynamic(module, {torch.nn.Linear}, dtype=torch.qint8)
    tool = f"torch {torch.__version__}, quantize_dynamic: linear layers, no calibration set"
    return AtPrecision(module, tool, options={"int8": "dynamic"})
