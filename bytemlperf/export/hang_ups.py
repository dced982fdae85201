"""A client that hangs up on one of our small servers is nothing to report: `socketserver` prints a traceback for it, in mid-run."""

from __future__ import annotations

import socketserver
import sys
from typing import Any


def forgive_hang_ups(server: socketserver.BaseServer) -> None:
    """From now on this server reports exceptions of our own alone, and no connection's end."""
    report = server.handle_error

    def handle_error(request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):
            report(request, client_address)

    server.handle_error = handle_error  # type: ignore[method-assign]
