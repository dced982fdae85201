"""`bmp-llm reference-server`: the reference engine over HTTP."""

from __future__ import annotations

from collections.abc import Sequence

from bytemlperf.command.flags import pairs
from bytemlperf.errors import UserError


def serve_reference(host: str, port: int, options: Sequence[str]) -> int:
    """Serve until interrupted."""
    from engines.contract import EngineUnavailable
    from engines.reference.server import serve

    try:
        serve(host, port, pairs("--engine-option", options))
    except EngineUnavailable as error:
        raise UserError(error.cause, error.fix) from None
    except OSError as error:
        raise UserError(f"can't listen on {host}:{port}: {error.strerror}", "give another port with --port, 0 for any free one") from None
    return 0
