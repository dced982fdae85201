"""The format of a trace by its first row, where that tells it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import msgspec

from bytemlperf.errors import UserError, nearest
from bytemlperf_llm.plan.scenario import SessionFormatName, TraceFormatName
from bytemlperf_llm.workload.data_files import converted, files, lines
from bytemlperf_llm.workload.json_values import values
from bytemlperf_llm.workload.traces.jsonl import MOONCAKE_TOKENS
from bytemlperf_llm.workload.traces.rows import misfit

NAMES = (*get_args(TraceFormatName), *get_args(SessionFormatName))
NAME_FIX = f"say it with --dataset-name: {', '.join(NAMES)}"

FIELDS: tuple[tuple[str, frozenset[str]], ...] = (
    ("azure", frozenset(("ContextTokens", "GeneratedTokens"))),
    ("burstgpt", frozenset(("Request tokens", "Response tokens"))),
    ("weka", frozenset(("id", "requests"))),
    ("otel_spans", frozenset(("spans",))),
    ("tracelab", frozenset(("session_id", "input_tokens_total"))),
    ("dag_jsonl", frozenset(("session_id", "turns"))),
    ("lmcache_agentic", frozenset(("session_id", "input"))),
    ("mooncake_sessions", frozenset(("session_id",))),
    ("mlperf_agentic", frozenset(("conversation_id",))),
    ("mlperf_agentic", frozenset(("_type",))),
    ("bailian_chains", frozenset(("chat_id", "hash_ids"))),
    ("sharegpt_turns", frozenset(("conversations",))),
    ("openai_messages", frozenset(("messages",))),
    ("openai_messages", frozenset(("body",))),
    ("custom", frozenset(("prompt",))),
    ("mooncake", frozenset(("timestamp", "input_length", "output_length"))),
)
"""What a first row must have, the most telling first; where a file can be read as sessions and as requests, sessions."""


class _Timed(msgspec.Struct, frozen=True):
    input_length: int = 0
    hash_ids: tuple[Any, ...] = ()


def format_of(path: Path, name: str | None) -> str:
    """As it is said, else as the first row tells. Raises UserError."""
    if name is not None:
        if name not in NAMES:
            raise UserError(f"--dataset-name {name!r} is unknown", nearest(name, NAMES))
        return name
    file = files(path)[0]
    _, head = next(lines(file), (0, b""))
    first: Any = next(values(file, "row", "a trace"), (1, {}))[1] if head[:1] in (b"{", b"[") else None
    fields = set(first) if isinstance(first, dict) else {field.strip() for field in head.decode(errors="replace").split(",")}
    found = next((form for form, needed in FIELDS if needed <= fields), None)
    if found is None:
        raise UserError(f"the first row of {file} doesn't tell its format", NAME_FIX)
    if found == "mooncake":
        row = converted(first, _Timed, file, 1, "a row with input_length and hash_ids")
        return "timed_trace" if misfit(len(row.hash_ids), row.input_length, MOONCAKE_TOKENS) else found
    return found
