"""Several addresses, headers of a session or class, and what a class sets: as servers on loopback see them."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

from engines.contract import BadOption, EngineUnavailable, Model, Request, TrafficClass
from engines.counted import UNKNOWN
from engines.openai.engine import OpenAIEngine
from engines.openai.target import named, parse_addresses
from tests.engines.small_server import Asked, Small, answering, models, page, stream
from tests.virtual import make_request

METRICS = b"vllm:num_requests_running 3\nvllm:kv_cache_usage_perc 0.5\n"


def answer(asked: Asked) -> bytes:
    if asked.target == "/metrics":
        return page("200 OK", METRICS, kind="text/plain")
    return models("m") if asked.method == "GET" else stream()


class _Recorder:
    def __init__(self) -> None:
        self.payloads: list[Any] = []
        self.chunk = self.payloads.append
        self.catch_up = lambda: None

    def sent(self) -> None:
        """Not timed."""

    def lists(self) -> None:
        """Nor compiled."""


async def sent(requests: list[Request], servers: int = 1, roles: str = "", **options: str) -> tuple[list[list[Asked]], list[str | None]]:
    """What each server was asked for, and where the engine says that each request went."""
    async with AsyncExitStack() as stack:
        small: list[Small] = [await stack.enter_async_context(answering(answer)) for _ in range(servers)]
        engine = OpenAIEngine()
        stack.push_async_callback(engine.close)
        await engine.start(Model(name="m"), {"base_url": " ".join(server.url for server in small) + roles, **options})
        for request in requests:
            await engine.generate(request, _Recorder())
        places = [server.url for server in small]
        went = [place and f"{places.index(place)}" for place in map(engine.endpoint_of, requests)]
        return [[asked for asked in server.seen if asked.method == "POST"] for server in small], went


def of_session(index: int, session: str | None, **fields: Any) -> Request:
    return msgspec.structs.replace(make_request(index), session=session, **fields)


async def test_requests_go_to_addresses_in_turn() -> None:
    asked, went = await sent([make_request(index) for index in range(7)], 3)
    assert [len(each) for each in asked] == [3, 2, 2]
    assert went == ["0", "1", "2", "0", "1", "2", "0"]


async def test_a_session_keeps_its_address() -> None:
    requests = [of_session(index, f"s{index % 5}") for index in range(20)]
    asked, went = await sent(requests, 3, route="session")
    assert [went[index::5] for index in range(5)] == [[went[index]] * 4 for index in range(5)]
    assert len(set(went)) == 3
    assert sum(map(len, asked)) == 20
    assert (await sent([make_request(index) for index in range(4)], 2, route="session"))[1] == ["0", "1", "0", "1"]


async def test_one_address_is_no_choice() -> None:
    assert (await sent([make_request(0)]))[1] == [None]


@pytest.mark.parametrize("transport", ["lean", "aiohttp"])
async def test_headers_are_filled_in_for_each_request(transport: str) -> None:
    chat = TrafficClass(name="chat", headers=(("X-Tenant", "t-{class}"), ("x-same", "own")), priority=2, model="adapter")
    requests = [of_session(0, "s 1", traffic_class=chat), of_session(1, "a\r\nX-Bad: 1", traffic_class=chat), make_request(2)]
    headers = '{"X-Session-ID": "{session}", "X-Same": "all", "X-Json": "{\\"a\\": 1}"}'
    ((one, two, three),), _ = await sent(requests, transport=transport, headers=headers)
    assert (one.headers["x-session-id"], one.headers["x-tenant"], one.headers["x-same"], one.headers["x-json"]) == (
        "s 1",
        "t-chat",
        "own",
        '{"a": 1}',
    )
    assert two.headers["x-session-id"] == "a%0D%0AX-Bad: 1"
    assert "x-bad" not in two.headers
    assert (three.headers["x-session-id"], three.headers["x-same"], "x-tenant" in three.headers) == (requests[2].id, "all", False)
    assert [(each.body["model"], each.body.get("priority")) for each in (one, two, three)] == [("adapter", 2), ("adapter", 2), ("m", None)]


async def test_servers_with_a_role_are_asked_for_their_metrics_alone() -> None:
    async with answering(answer) as router, answering(answer) as prefill, answering(answer) as other:
        engine = OpenAIEngine()
        await engine.start(Model(name="m"), {"base_url": f"{router.url} prefill={prefill.url} prefill={other.url}"})
        try:
            await engine.generate(make_request(0), _Recorder())
            assert [each.method for each in prefill.seen] == ["GET"]
            for page in engine._pages.values():
                page._latest, page._thread = {"running": 3.0}, page  # type: ignore[assignment]
            assert engine.stats() == {"running": 3.0, "prefill_1_running": 3.0, "prefill_2_running": 3.0}
        finally:
            await engine.close()


async def test_other_pages_of_metrics_are_read_under_their_names_and_one_without_takes_the_servers_place() -> None:
    def metrics(asked: Asked) -> bytes:
        return page(
            "200 OK", b"llamacpp:tokens_predicted_total 7\n" if asked.target == "/m?key=s3cret" else b"nothing\n", kind="text/plain"
        )

    async with answering(answer) as server, answering(metrics) as other:
        engine = OpenAIEngine()
        await engine.start(Model(name="m"), {"base_url": server.url, "metrics_url": f"{other.url}/m?key=s3cret gpu={other.url}"})
        try:
            told = await engine.counted()
            assert told[""].counts == {"output_tokens": 7.0}
            assert told["gpu"].missing == ("said nothing 4 of the 4 reads (nothing on it is known)", UNKNOWN)
            assert {asked.target for asked in other.seen} == {"/m?key=s3cret", "/metrics"}
            assert "s3cret" in engine.secrets()
            assert [asked for asked in server.seen if asked.target == "/metrics"] == []
        finally:
            await engine.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"metrics_url": "ftp://h/m"}, "--metrics-url is not an http or https address"),
        ({"metrics_url": "http://u:p@h/m"}, "--metrics-url has a user or password in it"),
        ({"metrics_url": "gpu=h:1 gpu=h:2"}, "--metrics-url has two pages named gpu"),
        ({"metrics_url": "h:1 h:2"}, "--metrics-url has two pages without a name"),
        ({"metrics_url": "h:1", "base_url": "h:1 h:2"}, "--metrics-url has no name, and there are several servers"),
        ({"metrics_url": "decode=h:1", "base_url": "h:1 decode=h:2"}, "--metrics-url has the name 'decode', which a --base-url has"),
        ({"metrics_url": "Gpu=h:1"}, "--metrics-url has the name 'Gpu'; take small letters, digits and _"),
        ({"metrics_url": f"{'g' * 17}=h:1"}, "--metrics-url has the name"),
        ({"metrics_url": "h:70000"}, "the port in --metrics-url is not a number"),
    ],
)
async def test_a_page_of_metrics_that_cannot_be_meant_is_one_line(options: dict[str, str], said: str) -> None:
    engine = OpenAIEngine()
    with pytest.raises(BadOption) as caught:
        await engine.start(Model(name="m"), options)
    assert said in str(caught.value)
    await engine.close()


@pytest.mark.parametrize(
    ("base_url", "said"),
    [
        ("prefill=h:1 decode=h:2", "every --base-url has a role, so that no request is sent to any; add the router's"),
        ("h:1 prefil=h:2", "--base-url has the role 'prefil', which is unknown; known are prefill, decode, encode"),
        ("http://h:1 h:1/", "--base-url http://h:1 is given twice; remove one of them"),
        ("h:1 h:2/v1/completions", "one --base-url takes chat and another completions; say which with --endpoint"),
    ],
)
def test_addresses_that_do_not_go_together_are_refused(base_url: str, said: str) -> None:
    with pytest.raises(BadOption) as caught:
        parse_addresses(base_url)
    assert said in str(caught.value)


def test_addresses_have_names() -> None:
    assert list(named(parse_addresses("h:1"))) == ["server"]
    assert list(named(parse_addresses("h:1 decode=h:2 h:3 prefill=h:4"))) == ["server_1", "decode", "server_2", "prefill"]


async def test_a_dead_address_and_a_server_without_metrics_are_named_before_the_run() -> None:
    def without_metrics(asked: Asked) -> bytes:
        return page("404 Not Found", {}) if asked.target.endswith("/metrics") else answer(asked)

    async with answering(without_metrics) as server:
        for options, said in (
            ({"base_url": f"{server.url} 127.0.0.1:9"}, "can't reach 127.0.0.1:9"),
            ({"base_url": f"{server.url} decode={server.url}/x"}, "check --base-url decode="),
            ({"base_url": server.url, "metrics_url": f"gpu={server.url}"}, r"no metrics at .*/metrics \(HTTP 404\); check --metrics-url"),
        ):
            engine = OpenAIEngine()
            with pytest.raises(EngineUnavailable, match=said):
                await engine.start(Model(name="m"), options)
            await engine.close()


async def test_an_unknown_placeholder_is_refused() -> None:
    with pytest.raises(BadOption, match=r"header 'X-A' has the unknown placeholder 'user'"):
        await OpenAIEngine().start(Model(name="m"), {"headers": '{"X-A": "{user}"}'})
