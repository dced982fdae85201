"""`bmp convert`: a model as a file to deploy, by the backends' own compile step, checked by loading and running the file.

`onnx` and `openvino` are what those backends' `compile` makes, at any of their precisions. `torch-export` is an
ExportedProgram (.pt2). `engine` is compiled for this very machine: OpenVINO's blob, ONNX Runtime's optimised graph, or
inductor's ahead-of-time package. The check runs the written file on seeded inputs and compares it with the source in
fp32; a file that doesn't answer within the precision's tolerance is reported, with exit status 1, and kept.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bytemlperf.child.limits import usable_cores
from bytemlperf.child.process import OFFLINE
from bytemlperf.command.console import sayer
from bytemlperf.errors import UserError, nearest
from bytemlperf.extras import require
from bytemlperf.lazy import onnxruntime, torch
from bytemlperf.models import forms, resolve
from general_perf.backends.contract import CompileOptions, SourceModel, quiet
from general_perf.backends.onnx_files import OrtSession, cpu_session
from general_perf.backends.registry import check_options
from general_perf.backends.tensors import tensors_of
from general_perf.card import Card, find_cards
from general_perf.command.flags import ConvertFlags
from general_perf.datasets.inputs import make_inputs
from general_perf.failures import LIBRARY_LOG, StageError, classify
from general_perf.measure.numerics import Predict, compare, outputs_of, plain_of, verdict
from general_perf.zoo.source import build

ENGINES = {"openvino": ".blob", "onnxruntime": ".optimised.onnx", "torch-inductor": ".aot.pt2"}
ENDINGS = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2"}
OPTIONS_OF = {"onnx": "onnxruntime", "openvino": "openvino", "torch-export": "torch-export"}
"""Whose options a format takes; an engine takes its backend's."""
CHECK_SEED = 3_000_003
EXIT_DIFFERS = 1
OWN_REASON = "the reason is the library's own; try another --to, --precision or --backend-option"
"""There is no run folder here whose log could say more."""


def run_convert(flags: ConvertFlags) -> int:
    """Convert, check, say. Exit status 0, or 1 where the file answers differently. Raises UserError."""
    if flags.to.partition(":")[0] in forms.NEEDED:
        return _language_model(flags)
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # NNCF and the converter would call home
    os.environ.update(OFFLINE)
    card, target = _checked(flags)
    require("bmp convert", "general", "torch", "numpy")
    with tempfile.TemporaryDirectory(prefix="bmp-convert-") as scratch:
        try:
            return _convert(flags, card, target, Path(scratch))
        except UserError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.filename == str(target):
                raise UserError(f"can't write {target}: {error.strerror}", "give another --out") from None
            failure = classify(error, "compile")
            fix = OWN_REASON if failure.fix == LIBRARY_LOG else failure.fix
            raise UserError(f"{card.name} was not converted: {failure.error_class}: {failure.reason}", fix) from None


def _language_model(flags: ConvertFlags) -> int:
    """The form that an engine of LLM serving loads, in the cache, where that engine looks for it. Raises UserError."""
    if flags.out is not None:
        raise UserError(f"{flags.to} is kept in the cache, where engines find it", "leave out --out")
    print(forms.converted(resolve(flags.model, sayer(quiet=False)), flags.to, sayer(quiet=False)).converted)
    return 0


def _checked(flags: ConvertFlags) -> tuple[Card, Path]:
    if flags.to not in (*ENDINGS, "engine"):
        raise UserError(f"--to {flags.to!r} is unknown", nearest(flags.to, [*ENDINGS, "engine", *forms.NEEDED]))
    if flags.to == "engine" and flags.backend not in ENGINES:
        raise UserError(f"backend '{flags.backend}' has no engine files", nearest(flags.backend, ENGINES))
    if flags.precision != "fp32" and (flags.to == "torch-export" or (flags.to == "engine" and flags.backend == "torch-inductor")):
        raise UserError(f"{flags.to} is written in fp32 here", "leave --precision out, or take onnx or openvino")
    check_options([flags.backend if flags.to == "engine" else OPTIONS_OF[flags.to]], flags.backend_options)
    cards = find_cards(flags.model)
    if len(cards) != 1:
        raise UserError(f"'{flags.model}' names {len(cards)} models", "name one")
    card = cards[0].at_size(flags.size, flags.dims)
    ending = ENGINES[flags.backend] if flags.to == "engine" else ENDINGS[flags.to]
    target = flags.out or Path(f"{card.name}-{flags.precision}{ending}")
    if target.exists() and not flags.force:
        raise UserError(f"{target} is there already", "give another --out, or --force")
    if not target.absolute().parent.is_dir():
        raise UserError(f"the folder {target.absolute().parent} is not there", "make it, or give another --out")
    return card, target


def _convert(flags: ConvertFlags, card: Card, target: Path, scratch: Path) -> int:
    batch = card.fixed_batch or flags.batch_size or min(card.batch_sizes)
    model, samples = build(card, flags.weights), flags.calibration_samples if flags.precision == "int8" else 0
    options = CompileOptions(
        precision=flags.precision,
        device="cpu",
        work=scratch,
        example=make_inputs(card, batch, 0),
        batch_sizes=(batch,),
        threads=usable_cores(),
        calibration=[make_inputs(card, card.fixed_batch or 1, CHECK_SEED, 1 + index) for index in range(samples)],
        calibration_source=f"{flags.calibration_samples} seeded random samples",
        extra=flags.backend_options,
    )
    predict, note = _MAKERS[flags.backend if flags.to == "engine" else flags.to](model, options, target, flags.to == "engine")
    inputs = make_inputs(card, batch, CHECK_SEED)
    expected, ours = plain_of(model)(inputs), predict(inputs)
    compared = {name: compare(ours[name], expected[name], "none") for name in card.outputs}
    tolerance = card.tolerance(flags.precision)
    passed = verdict(compared, tolerance)
    print(f"{target}: {_bytes(target) / 2**20:.1f} MiB, {flags.precision}, {model.weights}{f', {note}' if note else ''}")
    for name, comparison in compared.items():
        worst = (comparison["abs"] or {}).get("max")
        print(
            f"  {name}: largest difference from the source {worst:.3g}, cosine {comparison['cosine']:.8f}"
            if worst is not None
            else f"  {name}: nothing finite"
        )
    print(f"  checked on a batch of {batch}: " + ("within" if passed else "NOT within") + f" {tolerance.scaled_max:g} of the output's RMS")
    return 0 if passed else EXIT_DIFFERS


# --- what writes each format, and loads it again ---------------------------------------------------------


def _onnx(model: SourceModel, options: CompileOptions, target: Path, engine: bool) -> tuple[Predict, str]:
    from general_perf.backends.onnxruntime import OnnxRuntime

    compiled = OnnxRuntime().compile(model, options)
    assert compiled.artefact is not None
    if engine:
        settings = onnxruntime.SessionOptions()
        settings.optimized_model_filepath = str(target)
        cpu_session(compiled.artefact, settings, optimised=True)
    else:
        _moved(compiled.artefact, target)
    session = cpu_session(target, optimised=not engine)  # an engine's optimisations are in the file
    return OrtSession(session, model).predict, f"opset {compiled.options['opset']}"


def _openvino(model: SourceModel, options: CompileOptions, target: Path, engine: bool) -> tuple[Predict, str]:
    import openvino

    from general_perf.backends.openvino import OpenVino, OpenVinoSession

    compiled = OpenVino().compile(model, options)
    assert compiled.artefact is not None
    core, config = openvino.Core(), compiled.payload.config
    if engine:
        engine_model = core.compile_model(str(compiled.artefact), "CPU", config)
        target.write_bytes(engine_model.export_model().getvalue())
        loaded = core.import_model(target.read_bytes(), "CPU", config)
        return OpenVinoSession(loaded, model).predict, "for this CPU and this OpenVINO"
    if target.suffix != ".xml":
        raise UserError(f"{target.name} can't hold an OpenVINO model", "let --out end in .xml; weights go beside it as .bin")
    shutil.copyfile(compiled.artefact.with_suffix(".bin"), target.with_suffix(".bin"))
    shutil.copyfile(compiled.artefact, target)
    loaded = core.compile_model(str(target), "CPU", config)
    return OpenVinoSession(loaded, model).predict, f"weights in {target.with_suffix('.bin').name}"


def _torch_export(model: SourceModel, options: CompileOptions, target: Path, _engine: bool) -> tuple[Predict, str]:
    from general_perf.backends.export import example_for, exported

    program = exported(_torch_module(model), model, example_for(model, options), options.extra)
    with quiet():
        torch.export.save(program, str(target))
        loaded = torch.export.load(str(target)).module()
    return _torch_predict(model, loaded), f"torch {torch.__version__}"


def _inductor(model: SourceModel, options: CompileOptions, target: Path, _engine: bool) -> tuple[Predict, str]:
    from general_perf.backends.export import exported

    extra = {**options.extra, "dynamic": "false"}
    program = exported(_torch_module(model), model, options.example, extra)
    with quiet():
        torch._inductor.aoti_compile_and_package(program, package_path=str(target.absolute()))
        loaded = torch._inductor.aoti_load_package(str(target.absolute()))
    batch = len(next(iter(options.example.values())))
    return _torch_predict(model, loaded), f"for this CPU and batches of {batch}"


def _torch_module(model: SourceModel) -> Any:
    if model.module is None:
        raise StageError("unsupported_format", f"torch reads no {model.format.upper()} files", "use --to onnx or openvino")
    return model.module


def _torch_predict(model: SourceModel, call: Callable[..., Any]) -> Predict:
    return lambda inputs: outputs_of(model, call, tensors_of(inputs, model))


_MAKERS: dict[str, Callable[[SourceModel, CompileOptions, Path, bool], tuple[Predict, str]]] = {
    "onnx": _onnx,
    "onnxruntime": _onnx,
    "openvino": _openvino,
    "torch-export": _torch_export,
    "torch-inductor": _inductor,
}


def _moved(artefact: Path, target: Path) -> None:
    """The graph, and weights beside it where it is too large for one file (they keep their name: the graph says it)."""
    for beside in artefact.parent.glob(f"{artefact.name}.data"):
        shutil.copyfile(beside, target.absolute().parent / beside.name)
    shutil.copyfile(artefact, target)


def _bytes(target: Path) -> int:
    beside = target.with_suffix(".bin") if target.suffix == ".xml" else None
    return target.stat().st_size + (beside.stat().st_size if beside and beside.exists() else 0)
