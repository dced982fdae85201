"""What a run folder can't decide by itself: a folder is data, and may be a stranger's.

`resume` takes no address, key, file or code from one silently: the user confirms it on the command line, or it is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from bytemlperf.errors import UserError

FIX = "if the run is your own, or you trust all of this: --trust"


def refuse_unconfirmed(asked: Sequence[str], *, trust: bool = False, fix: str = FIX) -> None:
    """Raises UserError where run.json wants something that needs a confirmation, and there is none."""
    if asked and not trust:
        raise UserError(f"run.json wants {', '.join(asked)}, which needs your confirmation", fix)
