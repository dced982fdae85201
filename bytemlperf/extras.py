"""What the plain install leaves out: which packages a command needs, and the extra that brings them."""

from __future__ import annotations

from importlib.util import find_spec

from bytemlperf.errors import UserError


class MissingPackage(UserError):
    """What is asked for needs packages that an extra brings."""


def require(what: str, extra: str, *modules: str) -> None:
    """Raise MissingPackage that names what `what` misses of `modules`, and the command that installs it. Imports none of them."""
    missing = [module for module in modules if not _installed(module)]
    if missing:
        raise MissingPackage(f"{what} needs {', '.join(missing)}, not installed here", f"pip install 'bytemlperf-llm[{extra}]'")


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # what it is in
        return False
