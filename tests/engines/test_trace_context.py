"""The traceparent of each request: as W3C has it, the same again, another for another run."""

from __future__ import annotations

import re

from engines.openai.headers import RequestHead
from engines.trace_context import trace_ids, traceparent
from tests.virtual import make_request

FORM = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-01")


def test_ids_follow_from_the_run_and_the_request_alone() -> None:
    made = {traceparent(run, f"r{index}") for run in ("a", "b") for index in range(500)}
    assert len(made) == 1000
    assert all(FORM.fullmatch(text) for text in made)
    assert traceparent("a", "r7") in made
    assert traceparent("a", "\ud800") != traceparent("a", "\ud801")
    assert trace_ids("a", "r7")[0] == int(traceparent("a", "r7")[3:35], 16)


def test_a_request_has_one_and_ours_replaces_a_header_of_the_same_name() -> None:
    head = RequestHead("/v1", {"Host": "h", "Traceparent": "theirs", "X-S": "{session}"}, trace_key="run")
    request = make_request(0)
    expected = traceparent("run", request.id).encode()
    assert b"Traceparent: theirs" not in head.post
    assert head.more(request) == b"X-S: %b\r\ntraceparent: %b\r\n" % (request.id.encode(), expected)
    assert head.headers_for(request)["traceparent"] == expected.decode()
    assert not RequestHead("/v1", {"Host": "h"}).varies
