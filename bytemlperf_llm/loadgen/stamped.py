"""A request's stamps and the meaning of its payloads, put together into its record."""

from __future__ import annotations

import hashlib
import re
from itertools import repeat
from operator import sub

import msgspec

from bytemlperf_llm.loadgen.recorder import RequestRecorder
from bytemlperf_llm.record.record import RequestRecord
from engines.contract import Decoded, Finish, Request, ServerFacts, Stages, Usage
from engines.images import bytes_of

_NO_USAGE = Usage()
_ID = re.compile(r"[!-~]{1,128}")


def make_record(
    request: Request, recorder: RequestRecorder, finish: Finish, decoded: Decoded, origin_ns: int, end_ns: int
) -> RequestRecord:
    """The record of an answer that ended well; times count from `origin_ns`.

    `output_tokens` is what the engine reports. Without a report, or where chunks are events and the report can't be
    reconciled with them, it is what they show.
    """
    usage = finish.usage or decoded.usage or _NO_USAGE
    seen_tokens = sum(decoded.tokens_per_chunk)
    usage_tokens = None if usage.output_tokens is None else usage.output_tokens - decoded.hidden_tokens
    output_tokens = seen_tokens if usage_tokens is None or decoded.shown_tokens is not None else usage_tokens
    chunk_ns = list(map(sub, recorder.chunk_ns, repeat(origin_ns)))
    planned_ns, sent_ns = recorder.planned_ns, recorder.sent_ns
    images = request.images()
    record = RequestRecord(
        id=request.id,
        index=request.index,
        class_name=request.class_name,
        session=request.session,
        turn=request.turn,
        planned_ns=None if planned_ns is None else planned_ns - origin_ns,
        sent_ns=None if sent_ns is None else sent_ns - origin_ns,
        first_byte_ns=chunk_ns[0] if chunk_ns else None,
        chunk_ns=chunk_ns,
        tokens_per_chunk=decoded.tokens_per_chunk,
        end_ns=end_ns - origin_ns,
        outcome="ok",
        prompt_tokens=usage.prompt_tokens,
        output_tokens=output_tokens,
        usage_tokens=usage_tokens,
        shown_tokens=seen_tokens if decoded.shown_tokens is None else decoded.shown_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        hidden_tokens=decoded.hidden_tokens,
        cached_tokens=usage.cached_tokens,
        accepted_draft_tokens=usage.accepted_draft_tokens,
        max_tokens=request.max_tokens,
        images=len(images),
        image_bytes=sum(map(bytes_of, images)) if images else 0,
        inputs=0 if request.inputs is None else len(request.inputs),
        token_source="usage" if output_tokens == usage_tokens else "chunks",
        finish_reason=finish.reason or decoded.reason,
        stages=None if finish.stages is None else _stages_since(origin_ns, finish.stages),
        server=decoded.server if decoded.server_id in (None, request.id) else _known_by(decoded.server_id, decoded.server),
        output_sha256=hashlib.sha256(decoded.text.encode("utf-8", "surrogatepass")).hexdigest() if decoded.text else None,
    )
    if (thought := decoded.thought) is not None:
        record.streamed_reasoning_tokens, record.reasoning_ns = thought.tokens, chunk_ns[thought.first]
        record.answer_ns = None if thought.answer is None else chunk_ns[thought.answer]
    return record


def _known_by(own_id: str | None, server: ServerFacts | None) -> ServerFacts | None:
    """With an id of the server's own, where that is a word of bounded length."""
    if own_id is None or not _ID.fullmatch(own_id):
        return server
    return msgspec.structs.replace(server or ServerFacts(), request_id=own_id)


def _since(origin_ns: int, stamp_ns: int | None) -> int | None:
    return None if stamp_ns is None else stamp_ns - origin_ns


def _stages_since(origin_ns: int, stages: Stages) -> Stages:
    return Stages(
        queued_ns=_since(origin_ns, stages.queued_ns),
        scheduled_ns=_since(origin_ns, stages.scheduled_ns),
        first_token_ns=_since(origin_ns, stages.first_token_ns),
        last_token_ns=_since(origin_ns, stages.last_token_ns),
    )
