"""sglang's Rust client: its extension module alone, since the package around it wants PyTorch and CUDA.

python launch_sglang.py FOLDER ARGUMENTS    FOLDER: where the wheel's extension module lies
"""

import importlib.util
import sys
from pathlib import Path

path = next(Path(sys.argv[1]).rglob("_bench*.so"))
spec = importlib.util.spec_from_file_location("_bench", path)
assert spec
assert spec.loader
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.run_argv(["sglang-bench", *sys.argv[2:]])
