"""A short run of each fuzz target, so that a broken invariant fails the tests; `make fuzz` runs a million."""

from __future__ import annotations

from tests.fuzz import fuzz_http, fuzz_traces


def test_http_and_decode_hold_their_invariant():
    assert fuzz_http.run(count=3000, seed=20261122) is None


def test_traces_and_sessions_hold_theirs():
    assert fuzz_traces.run(count=600, seed=20261130) is None
