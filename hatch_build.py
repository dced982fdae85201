"""Compiles the C files below when the package is built or installed, where that is possible.

Without a C compiler or Python's headers, or with BMP_PURE_PYTHON=1 in the environment, the package is
built without them: everything works, at a higher cost per token (docs/calibration.md).
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = ("engines/http/_stream.c", "bytemlperf_llm/_stamps.c")
COMPILE_TIMEOUT_S = 120


class CompileHook(BuildHookInterface):
    """Hatch's custom hook; runs for wheels and for editable installs."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Put the compiled modules beside their sources and into the wheel."""
        if self.target_name != "wheel":
            return
        for source in SOURCES:
            built = Path(source).with_suffix(str(sysconfig.get_config_var("EXT_SUFFIX")))
            if problem := compile_into(Path(self.root) / source, Path(self.root) / built):
                (Path(self.root) / built).unlink(missing_ok=True)
                self.app.display_warning(f"{source} is not compiled, the same in Python is used: {problem}")
                continue
            build_data["pure_python"] = False
            build_data["infer_tag"] = True
            if version != "editable":
                build_data["force_include"][str(built)] = str(built)


def compile_into(source: Path, target: Path) -> str:
    """Compile; a sentence on why not, empty when it worked."""
    if os.environ.get("BMP_PURE_PYTHON"):
        return "BMP_PURE_PYTHON is set"
    if os.name != "posix":
        return "it is written for POSIX systems"
    compiler = shlex.split(str(sysconfig.get_config_var("CC") or "cc"))
    linking = ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]
    command = [*compiler, "-O2", "-fPIC", "-pthread", *linking, f"-I{sysconfig.get_path('include')}", str(source), "-o", str(target)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{compiler[0]}: {error}"
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["the compiler failed"])[0]
