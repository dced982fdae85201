"""Graphs that can't be run are named in one line; those that can have parents first."""

from __future__ import annotations

import re

import pytest

from bytemlperf.errors import UserError
from bytemlperf_llm.workload.sessions.graph import Draft, Node, ordered
from tests.sessions.graphs import user


def node(name: str, *parents: str, **fields: object) -> Node:
    return Node(name=name, messages=(user(name),), parents=parents, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ([], "it has no turn"),
        ([node("a"), node("a")], "turn 'a' is there twice"),
        ([node("a"), node("b", "a", "c")], "turn 'b' waits for 'c', which is not there"),
        ([node("a", "c"), node("b", "a"), node("c", "b"), node("d")], "turns wait for each other in a circle: 'a', 'b', 'c'"),
        ([node("a", "a")], "turns wait for each other in a circle: 'a'"),
        ([node("a"), node("b", "a", delay_ns=-1)], "turn 'b' has a negative delay or time"),
        ([node("a"), node("b", "a", "a")], "turn 'b' waits for a turn twice"),
        ([node("a"), node("b", continues="a")], "turn 'b' continues 'a' without waiting for it"),
    ],
)
def test_what_cant_be_run_is_one_clear_line(nodes: list[Node], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"f.jsonl:3: session 's': {said}")) as caught:
        ordered(Draft(id="s", nodes=nodes, where="f.jsonl:3"))
    assert caught.value.fix


def test_parents_come_first_and_otherwise_the_files_order_holds() -> None:
    nodes = [node("d", "b", "c"), node("b", "a"), node("a"), node("e"), node("c", "a")]
    assert [each.name for each in ordered(Draft(id="s", nodes=nodes, where=""))] == ["a", "b", "e", "c", "d"]
