"""Streams as servers in the field send them: what carries a token, how many there are, and what is no answer.

Every stream is decoded by both paths where both can, an event a read, and all of it in one read.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from engines.contract import Decoded, Thought, Usage
from engines.http.http1 import parse_response
from engines.openai import decode as openai_decode
from engines.openai.decode import DONE_EVENT, MAX_DETAIL_CHARS, decode, excerpt

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
Json = dict[str, Any]


def chunk(delta: Any, reason: Any = None, **more: Any) -> Json:
    return {"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more}


def usage(output: Any, prompt: Any = 12, **more: Any) -> Json:
    return {"id": "x", "choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": output, **more}}


ROLE = chunk({"role": "assistant", "content": ""})
EMPTY = chunk({"content": ""})
FINISH = chunk({}, "length")


def says(count: int, **more: Any) -> list[Json]:
    return [chunk({"content": f" w{place:02d}"}, **more) for place in range(count)]


def raw(event: Json | bytes) -> bytes:
    return (
        event if isinstance(event, bytes) else b"data: " + json.dumps(event, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n\n"
    )


def framed(event: Json | bytes) -> bytes:
    data = raw(event)
    return b"%x\r\n%b\r\n" % (len(data), data)


def read(*events: Json | bytes, done: bool = True, usage: bool = True) -> Decoded:
    """What the stream says, an event a read: `tokens_per_chunk` is cut to the events' own."""
    body = [framed(event) for event in (*events, *([DONE_EVENT] if done else []))]
    reads = [HEAD, *body, b"0\r\n\r\n"]
    found = decode(reads, usage=usage)
    stream = b"".join(reads)
    response = parse_response(stream)
    assert response is not None
    slow = openai_decode._decode_body(response.head, openai_decode._body_of_reads(response, stream, reads), usage)
    assert found == slow
    whole = decode([stream], usage=usage)
    assert whole.tokens_per_chunk == [sum(found.tokens_per_chunk)]
    assert (whole.text, whole.error_class) == (found.text, found.error_class)
    found.tokens_per_chunk = found.tokens_per_chunk[1 : 1 + len(events)]
    return found


def tokens(*events: Json | bytes, **options: bool) -> list[int]:
    found = read(*events, **options)
    assert (found.error_class, found.error_detail) == (None, "")
    return found.tokens_per_chunk


def function(**fields: str) -> Json:
    return {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": fields}]}


CONTENT: dict[str, tuple[Any, str]] = {
    "content": ({"content": "ab"}, "ab"),
    "content beside a role": ({"role": "assistant", "content": "ab"}, "ab"),
    "text block": ({"content": [{"type": "text", "text": "ab"}]}, "ab"),
    "thinking block": ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "ab"}], "closed": True}]}, "ab"),
    "one block": ({"content": {"type": "text", "text": "ab"}}, "ab"),
    "reasoning_content": ({"content": None, "reasoning_content": "ab"}, "ab"),
    "reasoning_content beside empty content": ({"role": "assistant", "content": "", "reasoning_content": "ab"}, "ab"),
    "reasoning twice": ({"reasoning": "ab", "reasoning_content": "ab"}, "ab"),
    "reasoning_details": ({"content": "", "reasoning_details": [{"type": "reasoning.text", "text": "ab", "index": 0}]}, "ab"),
    "reasoning summary": ({"reasoning_details": [{"type": "reasoning.summary", "summary": "ab"}]}, "ab"),
    "thinking": ({"thinking": "ab"}, "ab"),
    "refusal": ({"content": None, "refusal": "ab"}, "ab"),
    "name of a tool": (function(name="ab", arguments=""), "ab"),
    "arguments": ({"content": None, "tool_calls": [{"index": 0, "function": {"arguments": "ab"}}]}, "ab"),
    "content and arguments": ({"content": "a", **function(arguments="b")}, "ab"),
    "function_call": ({"function_call": {"name": "a", "arguments": "b"}}, "ab"),
    "transcript": ({"audio": {"id": "x", "transcript": "ab"}}, "ab"),
    "delta is a text": ("ab", "ab"),
    "custom tool": ({"tool_calls": [{"index": 0, "type": "custom", "custom": {"name": "a", "input": "b"}}]}, "ab"),
    "sound": ({"audio": {"id": "x", "data": "ab"}}, "ab"),
    "thinking_blocks": ({"content": "", "thinking_blocks": [{"type": "thinking", "thinking": "ab"}]}, "ab"),
    "reasoning_text": ({"reasoning_text": "ab"}, "ab"),
}


@pytest.mark.parametrize("name", CONTENT)
def test_whatever_was_generated_is_a_token_event(name):
    delta, text = CONTENT[name]
    found = read(ROLE, *[chunk(delta)] * 12, FINISH)
    assert (found.tokens_per_chunk, found.text) == ([0, *[1] * 12, 0], text * 12)


def test_message_stands_in_for_delta_and_delta_comes_first():
    message = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "ab"}, "finish_reason": None}]}
    both = {"choices": [{"index": 0, "delta": {"content": "b"}, "message": {"role": "assistant", "content": "ab"}}]}
    found = read(message, both, FINISH)
    assert (found.tokens_per_chunk, found.text) == ([1, 1, 0], "abb")


NOTHING: dict[str, Any] = {
    "role": {"role": "assistant"},
    "role and null": {"role": "assistant", "content": None},
    "nothing": {},
    "null": None,
    "no blocks": {"content": []},
    "an empty block": {"role": "assistant", "content": [{"type": "text", "text": ""}]},
    "no tool calls": {"tool_calls": []},
    "a tool call without a name": function(arguments=""),
    "a signature": {"reasoning_details": [{"type": "reasoning.encrypted", "data": "Zm9v", "signature": "x"}]},
    "a number": {"content": 7},
}


@pytest.mark.parametrize("name", NOTHING)
def test_what_carries_nothing_generated_is_no_token_at_the_start(name):
    assert tokens(chunk(NOTHING[name]), *says(3), FINISH) == [0, 1, 1, 1, 0]


@pytest.mark.parametrize("told", [[], [usage(20)]], ids=["no usage", "usage"])
def test_empty_events_before_the_first_text_and_after_the_finish_reason_are_no_tokens(told):
    first, last = [EMPTY, ROLE, EMPTY, EMPTY], [FINISH, EMPTY, chunk({"content": ""}, "length"), *told]
    assert tokens(*first, *says(20), *last) == [0] * 4 + [1] * 20 + [0] * len(last)


def test_an_empty_event_in_mid_answer_is_a_token_unless_usage_says_otherwise():
    events = [*says(10), EMPTY, *says(9), FINISH]
    assert tokens(*events) == [*[1] * 20, 0]
    assert tokens(*events, usage(20)) == [*[1] * 20, 0, 0]
    assert tokens(*events, usage(19)) == [*[1] * 10, 0, *[1] * 9, 0, 0]


def test_empty_events_at_the_end_are_tokens_where_usage_counts_them():
    events = [*says(10), *[EMPTY] * 10, FINISH]
    assert tokens(*events) == [1] * 10 + [0] * 11
    assert tokens(*events, usage(10)) == [1] * 10 + [0] * 12
    assert tokens(*events, usage(20)) == [1] * 20 + [0] * 2


def test_tokens_without_any_text_count_where_usage_counts_them():
    unseen = chunk({"content": ""}, "length")
    assert tokens(ROLE, EMPTY, unseen, usage(2)) == [0, 1, 1, 0]
    assert tokens(ROLE, unseen, usage(1)) == [0, 1, 0]
    for told in ([], [usage(0)], [usage(2, completion_tokens_details={"reasoning_tokens": 2})]):
        assert sum(read(ROLE, EMPTY, unseen, *told).tokens_per_chunk) == 0


@pytest.mark.parametrize("reported", [0, 1, 2, 19, 20, 21, 27, 40, 64, 80, 10**4, 10**9, 10**12, 2**70, -3])
def test_the_first_and_last_stamp_never_move_whatever_usage_says(reported):
    """The shortest texts are the first and the last: those that lost their tokens once."""
    events = [chunk({"content": "a"}), EMPTY, *says(16), EMPTY, chunk({"content": "b"})]
    plain, found = tokens(EMPTY, *events, FINISH, EMPTY), tokens(EMPTY, *events, FINISH, EMPTY, usage(reported))
    carriers = [place for place, count in enumerate(found) if count]
    assert (carriers[0], carriers[-1]) == (1, 20)
    assert [place for place, count in enumerate(plain) if count][:: len(events) - 1] == [1, 20]
    assert all(found[place] for place in (1, *range(3, 19), 20)), "an event with text was a token when it came"


@pytest.mark.parametrize(
    ("reported", "count", "shown"),
    [(0, 20, 20), (1, 20, 20), (5, 20, 20), (20, 20, 20), (30, 30, 20), (40, 40, 20), (100, 100, 20), (3 * 10**7, 20, 20), (10**9, 20, 20)],
)
def test_usage_adds_tokens_to_events_and_takes_none_away(reported, count, shown):
    found = read(ROLE, *says(20), FINISH, usage(reported))
    assert (sum(found.tokens_per_chunk), found.shown_tokens) == (count, shown)
    assert found.usage == (Usage(prompt_tokens=12, output_tokens=reported) if reported else None)


def test_the_token_that_ended_an_answer_is_no_disagreement():
    ended, cut = (read(ROLE, *says(20), chunk({"content": ""}, reason), usage(21)) for reason in ("stop", "content_filter"))
    assert [(found.shown_tokens, sum(found.tokens_per_chunk)) for found in (ended, cut)] == [(21, 21), (21, 21)]
    assert read(ROLE, *says(20), chunk({}, "stop"), usage(22)).shown_tokens == 21
    assert read(ROLE, *says(20), FINISH, usage(21)).shown_tokens == 20


def test_usage_false_means_it():
    found = read(ROLE, *says(20), FINISH, usage(40), usage=False)
    assert (sum(found.tokens_per_chunk), found.usage) == (20, None)


def test_many_tokens_an_event_are_shared_by_the_length_of_their_text():
    found = read(*(chunk({"content": text}) for text in ("aaaa", "bbbbbbbb", "cccc")), FINISH, usage(16))
    assert (found.tokens_per_chunk, found.shown_tokens) == ([4, 8, 4, 0, 0], 3)


TWENTY = Usage(prompt_tokens=12, output_tokens=20)
USAGES: dict[str, tuple[list[Json], Usage | None]] = {
    "float": ([usage(20.0, 12.0)], TWENTY),
    "text": ([usage("20", "12")], TWENTY),
    "half a token": ([usage(20.5)], None),
    "negative": ([usage(-20, -1)], None),
    "beyond 64 bits": ([usage(2**70, 2**70)], None),
    "true": ([usage(True)], None),
    "zeros": ([usage(0, 0)], None),
    "zeros after the count": ([usage(20), usage(0, 0)], TWENTY),
    "growing": ([usage(3), usage(20)], TWENTY),
    "null": ([{"choices": [], "usage": None}], None),
    "a list": ([{"choices": [], "usage": [1, 2]}], None),
    "no prompt": ([usage(20, None)], Usage(output_tokens=20)),
    "a total alone": ([{"choices": [], "usage": {"prompt_tokens": 12, "total_tokens": 32}}], TWENTY),
    "in the choice": (
        [{"choices": [{"delta": {}, "finish_reason": "length", "usage": {"prompt_tokens": 12, "completion_tokens": 20}}]}],
        TWENTY,
    ),
    "under x_groq": ([chunk({}, "stop", x_groq={"id": "q", "usage": usage(20)["usage"]})], TWENTY),
    "Anthropic's names": ([{"choices": [], "usage": {"input_tokens": 12, "output_tokens": 20}}], TWENTY),
    "details": (
        [
            usage(
                20,
                prompt_tokens_details={"cached_tokens": 8, "audio_tokens": 0},
                completion_tokens_details={"reasoning_tokens": 0, "accepted_prediction_tokens": 4},
            )
        ],
        Usage(prompt_tokens=12, output_tokens=20, reasoning_tokens=0, cached_tokens=8, accepted_draft_tokens=4),
    ),
    "details are null": (
        [usage(20, prompt_tokens_details=None, completion_tokens_details=None)],
        TWENTY,
    ),
    "odd details": (
        [usage(20, prompt_tokens_details={"cached_tokens": -1}, completion_tokens_details=7)],
        TWENTY,
    ),
    "cache hits beside": ([usage(20, prompt_cache_hit_tokens=8)], Usage(prompt_tokens=12, output_tokens=20, cached_tokens=8)),
    "vLLM's drafts": (
        [{**usage(20), "metrics": {"speculative_decoding": {"num_spec_steps": 5, "num_accepted_draft_tokens": 7, "num_draft_tokens": 20}}}],
        Usage(prompt_tokens=12, output_tokens=20, accepted_draft_tokens=7),
    ),
    "vLLM's drafts are odd": (
        [{**usage(20.0), "metrics": {"speculative_decoding": {"num_accepted_draft_tokens": "7"}, "queue_time_ms": "x"}}],
        Usage(prompt_tokens=12, output_tokens=20, accepted_draft_tokens=7),
    ),
    "metrics of another form": ([{**usage(20), "metrics": ["x"]}], TWENTY),
    "llama.cpp's drafts": (
        [{**usage(20), "timings": {"predicted_n": 20, "predicted_ms": 1.5, "draft_n_accepted": 7}}],
        Usage(prompt_tokens=12, output_tokens=20, accepted_draft_tokens=7),
    ),
}


@pytest.mark.parametrize("name", USAGES)
def test_usage_in_the_forms_it_is_met(name):
    told, expected = USAGES[name]
    found = read(ROLE, *says(20), FINISH, *told)
    assert (found.error_class, sum(found.tokens_per_chunk), found.usage) == (None, 20, expected)


def test_usage_behind_the_end_counts():
    found = read(ROLE, *says(5), FINISH, DONE_EVENT, usage(20), chunk({"content": "not a token"}), b"data: {\n\n", done=False)
    assert (found.error_class, sum(found.tokens_per_chunk), found.tokens_per_chunk[7:]) == (None, 20, [0, 0, 0, 0])


def test_hidden_reasoning_is_not_spread_over_the_visible_tokens():
    hidden = read(ROLE, *says(20), FINISH, usage(220, completion_tokens_details={"reasoning_tokens": 200}))
    assert (hidden.tokens_per_chunk[1:21], hidden.shown_tokens, hidden.hidden_tokens) == ([1] * 20, 20, 200)
    assert hidden.usage == Usage(prompt_tokens=12, output_tokens=220, reasoning_tokens=200)


@pytest.mark.parametrize("output", [80, 20], ids=["a part of the output", "beside the output"])
def test_reasoning_that_was_streamed_is_not_hidden(output):
    thought = [chunk({"reasoning_content": f" t{place}"}) for place in range(60)]
    told = usage(output, completion_tokens_details={"reasoning_tokens": 60}, total_tokens=92)
    found = read(ROLE, *thought, *says(20), FINISH, told)
    assert (found.tokens_per_chunk[1:81], found.shown_tokens, found.hidden_tokens) == ([1] * 80, 80, 0)
    bundled = read(ROLE, *[chunk({"reasoning": "one two three four"})] * 15, *says(20), FINISH, told)
    assert (sum(bundled.tokens_per_chunk), bundled.hidden_tokens) == (80, 0)


THOUGHTS: dict[str, Any] = {
    "reasoning_content": {"reasoning_content": " th"},
    "reasoning_content beside null": {"content": None, "reasoning_content": " th"},
    "reasoning": {"content": "", "reasoning": " th"},
    "thinking": {"thinking": " th"},
    "reasoning_text": {"reasoning_text": " th"},
    "reasoning_details": {"reasoning_details": [{"type": "reasoning.text", "text": " th"}]},
    "thinking_blocks": {"content": "", "thinking_blocks": [{"type": "thinking", "thinking": " th"}]},
    "blocks of content": {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": " th"}]}]},
}


@pytest.mark.parametrize("count", [1, 3, 30])
@pytest.mark.parametrize("name", THOUGHTS)
def test_where_reasoning_ends_in_a_stream_that_tells_it_apart(name, count):
    """Reads are the head, the role, the reasoning, the answer: with a long answer its events are taken as alike ones."""
    found = read(ROLE, *[chunk(THOUGHTS[name])] * count, *says(20), FINISH)
    assert found.thought == Thought(first=2, answer=2 + count, tokens=count)
    assert found.tokens_per_chunk == [0, *[1] * (count + 20), 0]


def test_tokens_of_bundled_reasoning_are_spread_as_all_are():
    found = read(ROLE, *[chunk({"reasoning": "four"})] * 5, *[chunk({"content": "four"})] * 10, FINISH, usage(60))
    assert found.thought == Thought(first=2, answer=7, tokens=20)


def test_an_event_with_both_is_the_first_of_the_answer_and_reasoning_may_be_all_there_is():
    both = chunk({"reasoning": "th", "content": "an"})
    assert read(ROLE, *[chunk({"reasoning": "th"})] * 3, both, *says(2), FINISH).thought == Thought(2, 5, 3)
    assert read(ROLE, *[chunk({"reasoning": "th"})] * 9, FINISH).thought == Thought(2, None, 9)
    called = chunk(function(name="f", arguments="{}"))
    assert read(ROLE, *[chunk({"reasoning": "th"})] * 9, called, FINISH).thought == Thought(2, 11, 9)
    assert read(ROLE, *says(20), FINISH, usage(220, completion_tokens_details={"reasoning_tokens": 200})).thought is None


@pytest.mark.parametrize("marks", [("<think>", "</think>"), ("<th", "ink>", "</", "thi", "nk>")], ids=["one event each", "in pieces"])
def test_reasoning_that_is_marked_in_the_content(marks):
    begin, end = (1, 1) if len(marks) == 2 else (2, 3)
    words = [*marks[:begin], *[f" w{place}" for place in range(12)], *marks[begin:]]
    found = read(ROLE, *[chunk({"content": word}) for word in words], *says(20), FINISH)
    assert found.thought == Thought(2, 2 + len(words), len(words)), "its marks are tokens of the reasoning"
    assert len(words) == 12 + begin + end
    cut = read(ROLE, *[chunk({"content": word}) for word in words[:-end]], FINISH)
    assert cut.thought == Thought(2, None, len(words) - end)
    assert read(ROLE, *says(5), chunk({"content": "</think>"}), *says(5), FINISH).thought is None, "no mark at the begin"


# -- failures --------------------------------------------------------------------

ERRORS: dict[str, tuple[list[Json | bytes], str]] = {
    "a field of the stream": ([b'error: {"code":400,"message":"context size"}\n\n'], "context size"),
    "a field of the stream, plain": ([b"error: out of memory\n\n"], "out of memory"),
    "an event's name": ([b'event: error\ndata: {"reason":"x","message":"worker died"}\n\n'], "worker died"),
    "an event's name, plain": ([b"event: error\ndata: upstream connect error\n\n"], "upstream connect error"),
    "an event's name, empty": ([b"event: error\ndata:\n\n"], "an error without a message"),
    "error of text": ([{"error": "CUDA out of memory", "error_type": "generation"}], "CUDA out of memory"),
    "error of an object": ([{"error": {"message": "oops", "code": 500}}], "oops"),
    "error inside an error": ([{"error": {"error": {"message": "oops"}}}], "oops"),
    "error without words": ([{"error": {"type": "server"}}], "an error without a message"),
    "error: true": ([{"error": True}], "an error without a message"),
    "errors": ([{"success": False, "errors": [{"code": 7, "message": "oops"}]}], "oops"),
    "code and message": ([{"code": "InternalError", "message": "Internal server error!", "request_id": "r"}], "Internal server error!"),
    "detail": ([{"detail": "Not enough memory"}], "Not enough memory"),
    "detail is a list": ([{"detail": [{"loc": ["body"], "msg": "Extra inputs"}]}], "Extra inputs"),
    "error_msg": ([{"error_code": 336003, "error_msg": "the max length"}], "the max length"),
    "choices are null": ([{"choices": None, "message": "overloaded"}], "overloaded"),
    "object is error": ([{"object": "error", "message": "too many tokens", "code": 400}], "too many tokens"),
    "beside the finish reason": (
        [{**chunk({"content": ""}, "error"), "error": {"code": 502, "message": "Provider gone"}}],
        "Provider gone",
    ),
    "in a choice": (
        [{"choices": [{"index": 0, "delta": {"content": ""}, "error": {"code": 502, "message": "Provider gone"}}]}],
        "Provider gone",
    ),
    "beside empty choices": ([{"choices": [], "usage": None, "error_code": 336, "error_msg": "flow limit"}], "flow limit"),
    "base_resp": ([{"choices": None, "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}], "insufficient balance"),
    "an event named failed": ([b'event: response.failed\ndata: {"message":"worker died"}\n\n'], "worker died"),
    "finish reason of an error's own name": ([chunk({}, "network_error")], "error"),
    "finish reason abort": ([chunk({}, "abort"), usage(3)], "abort"),
    "finish reason error": ([chunk({"content": ""}, "error")], "error"),
    "finish reason of an object": ([chunk({}, {"type": "abort", "message": "gone"})], "abort"),
}


@pytest.mark.parametrize("before", [[], says(3)], ids=["at once", "after tokens"])
@pytest.mark.parametrize("name", ERRORS)
def test_an_error_in_any_form_is_one_with_the_servers_words(name, before):
    events, words = ERRORS[name]
    found = read(ROLE, *before, *events)
    assert found.error_class == "error_in_stream"
    assert words in found.error_detail
    assert found.tokens_per_chunk[1 : 1 + len(before)] == [1] * len(before)


@pytest.mark.parametrize(
    ("end", "error_class"),
    [
        (b'data: {"error":{"message":"gone"}}\n', "error_in_stream"),
        (b'{"error":{"message":"gone"}}', "error_in_stream"),
        (b'{"message":"gone"}\n\n', "error_in_stream"),
        (b"gone: upstream reset", "truncated_stream"),
    ],
)
def test_words_at_the_end_of_a_cut_stream_are_told(end, error_class):
    for before in ([], [ROLE, *says(3)]):
        found = read(*before, end, done=False)
        assert found.error_class == (error_class if before or "error" in error_class else "malformed_stream")
        assert "gone" in found.error_detail


HARMLESS: dict[str, Json | bytes] = {
    "error is null": {**EMPTY, "error": None, "message": ""},
    "error is empty": {"choices": [], "error": {}},
    "error is false": {"choices": [], "error": False},
    "error has no code": {"choices": [], "error": {"code": 0, "message": ""}},
    "success": {"code": 0, "message": "success"},
    "success of a gateway": {"choices": [], "base_resp": {"status_code": 0, "status_msg": "success"}},
    "ping": b'event: ping\ndata: {"type": "ping"}\n\n',
    "ping without a name": {"type": "ping"},
    "a place in a queue": b"event: queue\ndata: position 3\n\n",
    "a queue's message": b'event: queue\ndata: {"message": "position 3"}\n\n',
    "comment": b": OPENROUTER PROCESSING\n\n",
    "no data": b"data:\n\n",
    "content filter": {"choices": [], "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}]},
    "progress": {**chunk({"role": "assistant", "content": None}), "prompt_progress": {"total": 9, "processed": 4}},
    "a choice without a delta": {"choices": [{"index": 0, "content_filter_results": {}, "content_filter_offsets": {"start_offset": 1}}]},
    "choices are null": {"id": "x", "choices": None},
    "a choice is null": {"id": "x", "choices": [None]},
    "usage is null": {"id": "x", "usage": None},
    "a number": b"data: 7\n\n",
    "odd types": {"id": 7, "object": 7, "choices": [{"index": "0", "delta": {"role": 7, "content": None}, "finish_reason": None}]},
    "not a number": b'data: {"choices":[{"delta":{},"logprobs":{"content":[{"logprob":-Infinity}]}}]}\n\n',
    "deep": b'data: {"choices":[],"x":' + b"[" * 50 + b"]" * 50 + b"}\n\n",
}


@pytest.mark.parametrize("name", HARMLESS)
def test_one_odd_event_changes_nothing(name):
    assert tokens(ROLE, HARMLESS[name], *says(10), HARMLESS[name], *says(10), FINISH, usage(20)) == [0, 0, *[1] * 10, 0, *[1] * 10, 0, 0]


def test_halves_of_a_pair_are_put_together():
    halves = [rb'data: {"choices":[{"delta":{"content":"%b"}}]}' % half + b"\n\n" for half in (rb"\ud83d", rb"\ude00", rb"\ud83d")]
    found = read(*halves, FINISH)
    assert (found.error_class, found.tokens_per_chunk, found.text) == (None, [1, 1, 1, 0], "\U0001f600\ufffd")


@pytest.mark.parametrize("reason", ["", "null", None])
def test_an_empty_finish_reason_is_none(reason):
    events = [chunk({"role": "assistant", "content": " w"}, reason) for _ in range(4)]
    assert read(*events, done=False).error_class == "truncated_stream"
    assert tokens(*events, FINISH, done=False) == [1, 1, 1, 1, 0]


@pytest.mark.parametrize(("said", "kept"), [("length", "length"), ("STOP", "stop"), ("sk-secret" * 100, "other"), (7, None)])
def test_a_finish_reason_is_one_of_a_closed_set(said, kept):
    assert read(*says(3), chunk({}, said)).reason == kept


def test_nesting_without_end_is_a_malformed_stream():
    for depth in (2_000, 100_000):
        found = read(*says(3), b'data: {"choices":[],"x":' + b"[" * depth + b"]" * depth + b"}\n\n")
        assert (found.error_class, found.tokens_per_chunk) == ("malformed_stream", [1, 1, 1, 0])


def test_what_is_no_json_is_shown():
    found = read(*says(3), b"data: no healthy upstream\n\n")
    assert found.error_class == "malformed_stream"
    assert "no healthy upstream" in found.error_detail


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error":{"message":"no"}}', "no"),
        (b'{"detail":[{"loc":["body"],"msg":"Extra inputs are not permitted"}]}', "Extra inputs are not permitted"),
        (b'{"detail":{"message":"no"}}', "no"),
        (b'{"message":"no","error":null}', "no"),
        (b'["no"]', "no"),
        (b"upstream\nreset", "upstream reset"),
        (b"[" * 2000, "[[["),
        (b'{"error":' + b"[" * 1000 + b"]" * 1000 + b"}", '{"error":'),
        (b"\xff\xfe", "\ufffd"),
    ],
)
def test_the_excerpt_of_an_error_body(body, words):
    found = excerpt(body)
    assert words in found
    assert len(found) <= MAX_DETAIL_CHARS
