"""What a run ran on: hardware, operating system, packages, the state of the source tree."""

from __future__ import annotations

from bytemlperf.hardware.discover import discover, git_state, package_versions

__all__ = ["discover", "git_state", "package_versions"]
