"""What commands of several runs make of the flags of `serve-bench`."""

from __future__ import annotations

from collections.abc import Mapping

from bytemlperf.redaction import Redactor

FREE = ("headers", "quiet", "runs_dir", "label", "api_key_file", "report", "metadata")
"""Flags that may differ where a stopped folder goes on; header values are never stored."""


REQUESTS = {
    "input_len": "tokens in",
    "input_lens": "tokens in",
    "random_prefix_len": "tokens shared",
    "output_len": "tokens out",
    "output_lens": "tokens out",
}


def requests_text(flags: Mapping[str, object]) -> str:
    """What the flags say of the lengths of requests, for a reader; empty for those of the scenario."""
    return ", ".join(f"{flags[name]} {what}" for name, what in REQUESTS.items() if flags.get(name) is not None)


def comparable(flags: Mapping[str, object], redactor: Redactor) -> dict[str, object]:
    """What a folder keeps of a plan's flags, and what those of a command that goes on with it must be."""
    return {name: redactor.deep(value) for name, value in flags.items() if name not in FREE}
