"""The flags of a campaign's commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from bytemlperf.command.flags import Option, RunOutput


class CampaignFlags(RunOutput):
    """Where a campaign goes on, and when it fails."""

    resume: Annotated[Path | None, Option("Folder of a campaign to go on with: what has no run yet.")] = None
    fail_if: Annotated[
        tuple[str, ...], Option("Fail (exit 1) if: 'ttft p99 > 5%' against the first engine, 'e2e p50 > 900' in any; repeatable.")
    ] = ()
