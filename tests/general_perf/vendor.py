"""A vendor's backend as a package of its own: one module and one entry point in a folder on PYTHONPATH.

It runs one-operator ONNX files with numpy, and misbehaves when its option `do` asks for it.
"""

from __future__ import annotations

from pathlib import Path

MODULE = """
import os, sys, time
import numpy as np
from general_perf.backends.contract import BackendInfo, Compiled, Coverage

class Vendor:
    def describe(self):
        return BackendInfo(name="vendor", about="a test's", versions={"vendor": "0.1"}, distributions=("vendor-backend",),
                           devices=("cpu",), precisions=("fp32",), formats=("onnx",))

    def compile(self, model, options):
        do = options.extra.get("do", "")
        if do == "abort":
            os.abort()
        if do == "kill":
            os.kill(os.getpid(), 9)
        if do == "exit":
            print("the licence server is away", file=sys.stderr); sys.stderr.flush(); os._exit(3)
        if do == "hang":
            time.sleep(600)
        if do == "hoard":
            self.kept = [np.ones(1 << 24) for _ in range(64)]
        if do == "raise":
            raise RuntimeError("operator Foo is not implemented")
        artefact = options.work / "vendor.bin"
        artefact.write_bytes(b"x" * 1000)
        return Compiled(payload=do, artefact=artefact, options={"streams": 2})

    def load(self, compiled, options):
        return Session(compiled.payload)

    def coverage(self, compiled, inputs):
        return Coverage(method="counted by hand", nodes=1, taken_nodes=1, graph_share=1.0, details={"units": ["mme", "tpc"]})

class Session:
    def __init__(self, do):
        self.do, self.calls = do, 0

    def predict(self, inputs):
        self.calls += 1
        if self.do == "wrong":
            return {"y": np.zeros_like(inputs["x"])}
        if self.do == "nan":
            return {"y": np.full_like(inputs["x"], np.nan)}
        if self.do == "die-later" and self.calls > 5:
            os.abort()
        return {"y": np.maximum(inputs["x"], 0)}

    def device_memory_bytes(self):
        return None
"""

CARD = """\
name: {name}
model_class: regular
task: test
source: {{kind: local, path: {path}, format: onnx}}
inputs:
  - {{name: x, shape: [batch, 8], kind: features}}
outputs: [y]
distribution: softmax
decision: argmax
batch_sizes: [1, 4]
"""


def install(folder: Path) -> Path:
    """Put the package into `folder`; returns the folder for PYTHONPATH."""
    (folder / "vendor_backend.py").write_text(MODULE)
    facts = folder / "vendor_backend-0.1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: vendor-backend\nVersion: 0.1\n")
    (facts / "entry_points.txt").write_text("[bytemlperf.backends]\nvendor = vendor_backend:Vendor\n")
    (facts / "RECORD").write_text("vendor_backend.py,,\n")
    return folder


def relu_model(path: Path) -> Path:
    """An ONNX file of one Relu."""
    from onnx import TensorProto, helper, save

    edge = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 8]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [edge[0]], [edge[1]])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), str(path))
    return path


def relu_card(folder: Path, name: str = "relu") -> Path:
    """A card of that file."""
    path = folder / f"{name}.yaml"
    path.write_text(CARD.format(name=name, path=relu_model(folder / f"{name}.onnx")))
    return path
