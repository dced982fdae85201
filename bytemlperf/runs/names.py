"""Names of the files in a run folder."""

from __future__ import annotations

NAME = "gauges.jsonl"
RECOUNT = "recount.json"
