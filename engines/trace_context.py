"""Trace ids of requests, made from what names them: the same for the same run and request, so that none need be stored."""

from __future__ import annotations

import hashlib


def trace_ids(run: str, request_id: str) -> tuple[int, int]:
    """The trace's id of 128 bits and the client span's of 64, never 0."""
    digest = hashlib.sha256(f"{run}/{request_id}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:16]) or 1, int.from_bytes(digest[16:24]) or 1


def traceparent(run: str, request_id: str) -> str:
    """W3C Trace Context: version 00, sampled."""
    trace_id, span_id = trace_ids(run, request_id)
    return f"00-{trace_id:032x}-{span_id:016x}-01"
