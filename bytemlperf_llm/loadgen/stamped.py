"""A request's stamps and the meaning of its payloads, put together into its record."""

from __future__ import annotations

import hashlib

from bytemlperf_llm.loadgen.recorder import RequestRecorder
from bytemlperf_llm.runs.record import RequestRecord
from bytemlperf_llm.stamps import since
from engines.contract import Decoded, Finish, Request, Stages


def make_record(
    request: Request, recorder: RequestRecorder, finish: Finish, decoded: Decoded, origin_ns: int, end_ns: int
) -> RequestRecord:
    """The record of an answer that ended well; times count from `origin_ns`.

    `output_tokens` is what the engine reports; without a report, the tokens counted in the chunks.
    """
    usage = finish.usage or decoded.usage
    reported_tokens = usage.output_tokens if usage is not None else None
    chunk_ns = since(recorder.chunk_ns, origin_ns)
    return RequestRecord(
        id=request.id,
        index=request.index,
        session=request.session,
        turn=request.turn,
        planned_ns=_since(origin_ns, recorder.planned_ns),
        sent_ns=_since(origin_ns, recorder.sent_ns),
        first_byte_ns=chunk_ns[0] if chunk_ns else None,
        chunk_ns=chunk_ns,
        tokens_per_chunk=decoded.tokens_per_chunk,
        end_ns=end_ns - origin_ns,
        outcome="ok",
        prompt_tokens=usage.prompt_tokens if usage is not None else None,
        output_tokens=sum(decoded.tokens_per_chunk) if reported_tokens is None else reported_tokens,
        max_tokens=request.max_tokens,
        token_source="chunks" if reported_tokens is None else "usage",
        finish_reason=finish.reason or decoded.reason,
        stages=None if finish.stages is None else _stages_since(origin_ns, finish.stages),
        output_sha256=hashlib.sha256(decoded.text.encode("utf-8", "surrogatepass")).hexdigest() if decoded.text else None,
    )


def _since(origin_ns: int, stamp_ns: int | None) -> int | None:
    return None if stamp_ns is None else stamp_ns - origin_ns


def _stages_since(origin_ns: int, stages: Stages) -> Stages:
    return Stages(
        queued_ns=_since(origin_ns, stages.queued_ns),
        scheduled_ns=_since(origin_ns, stages.scheduled_ns),
        first_token_ns=_since(origin_ns, stages.first_token_ns),
        last_token_ns=_since(origin_ns, stages.last_token_ns),
    )
