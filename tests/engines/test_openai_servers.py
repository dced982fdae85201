"""Servers, gateways and proxies as they are met: what is asked of them, what is made of their answers, which flag is named."""

from __future__ import annotations

import asyncio

import pytest

from bytemlperf.errors import UserError
from bytemlperf.redaction import Redactor
from bytemlperf_llm.loadgen.deadlines import Timeouts
from bytemlperf_llm.loadgen.engine_start import start_engine
from bytemlperf_llm.run.preflight import ready_check, send_aside
from engines.contract import EngineUnavailable, Model, Request
from engines.openai.engine import OpenAIEngine
from tests.engines.small_server import answering, error, models, page, stream
from tests.virtual import make_request

LAB = Model(name="lab")
LISTS = {
    "bare array": page("200 OK", [{"id": "lab"}, {"id": "other"}]),
    "null": page("200 OK", {"object": "list", "data": None}),
    "other names": models("this", "that"),
    "401": error("401 Unauthorized", "missing scope"),
    "403": error("403 Forbidden", "may not list"),
    "404": error("404 Not Found", "nothing here"),
    "406": error("406 Not Acceptable", "text/event-stream?"),
    "429": error("429 Too Many Requests", "later"),
    "500": error("500 Internal Server Error", "not implemented"),
    "redirect": page("308 Permanent Redirect", b"", "location: /moved\r\n"),
    "HTML": page("200 OK", b"<html>welcome</html>", kind="text/html"),
    "nested": page("200 OK", b'{"data":' + b"[" * 2000 + b"]" * 2000 + b"}"),
    "numbers": page("200 OK", {"data": [{"id": 7}, 5, None, {"id": "lab", "max_model_len": "8192"}]}),
    "dropped": None,
}


async def started(url, model=LAB, redactor=None, **options):
    engine = OpenAIEngine()
    try:
        info = await start_engine(engine, model, {"base_url": url, **options}, redactor or Redactor())
    except BaseException:
        await engine.close()
        raise
    return engine, info


async def ready(engine, info, timeouts=None, redactor=None):
    try:
        return await ready_check(engine, info, make_request(0), timeouts or Timeouts(), redactor or Redactor())
    finally:
        await engine.close()


def chat(answer):
    """A server whose list of models is in order."""
    return lambda asked: models("lab") if asked.method == "GET" else answer(asked)


@pytest.mark.parametrize("name", LISTS)
async def test_with_a_model_named_any_list_will_do(name):
    async with answering(lambda asked: LISTS[name] if asked.method == "GET" else stream()) as server:
        engine, info = await started(server.url)
        await ready(engine, info)
    assert info.model == "lab"
    assert info.max_model_len == (8192 if name == "numbers" else None)
    assert any("lab" in note for note in info.notes) == (name not in ("bare array", "null", "numbers"))


@pytest.mark.parametrize("name", [name for name in LISTS if name not in ("bare array", "numbers", "other names")])
async def test_without_one_what_is_no_list_is_a_refusal(name):
    async with answering(lambda asked: LISTS[name]) as server:
        with pytest.raises(UserError):
            await started(server.url, None)


@pytest.mark.parametrize("name", ["401", "404", "407", "500", "HTML", "dropped"])
async def test_behind_a_proxy_what_is_no_list_names_the_proxy(name, monkeypatch):
    given = LISTS.get(name, page("407 Proxy Authentication Required", b"", "proxy-authenticate: Basic\r\n"))
    async with answering(lambda asked: given) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "")
        with pytest.raises(UserError) as caught:
            await started("http://127.0.0.1:9", None)
    assert "http_proxy" in caught.value.cause
    assert "no_proxy=127.0.0.1" in caught.value.fix


async def test_a_connection_that_is_cut_at_once_asks_for_the_scheme():
    async with answering(lambda asked: None) as server:  # as a port that speaks TLS does
        with pytest.raises(UserError) as caught:
            await started(server.url, None)
    assert "https://" in caught.value.fix


REFUSALS = {
    "stream_options": ("[{'loc': ('body', 'stream_options'), 'msg': 'Extra inputs are not permitted'}]", "usage=false"),
    "temperature": ("Unsupported value: 'temperature' does not support 0.0 with this model. Only 1 is supported.", "--temperature 1"),
    "ignore_eos": ("Unrecognized request argument supplied: ignore_eos", "--no-ignore-eos"),
    "stream_options of a list": ("unknown field `stream_options`, expected one of `model`, `temperature`, `seed`", "usage=false"),
    "far behind": ("x" * 900 + " Unrecognized request argument: ignore_eos", "--no-ignore-eos"),
    "extra": ("extra_body: property 'min_p' is unsupported", "--extra-body"),
    "both": (
        "body.stream_options: extra forbidden; body.ignore_eos: extra forbidden",
        "usage=false, and leave it out with --no-ignore-eos",
    ),
    "https": ("The plain HTTP request was sent to HTTPS port", "https://"),
    "version": ("Missing required query parameter: api-version", "?api-version="),
    "unknown": ("no", "check --model"),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_refused_first_request_names_the_flag(name):
    message, flag = REFUSALS[name]
    async with answering(chat(lambda asked: error("400 Bad Request", message))) as server:
        engine, info = await started(server.url, extra_body='{"min_p": 0.1}')
        with pytest.raises(UserError) as refused:
            await ready(engine, info)
    assert flag in refused.value.fix
    assert ("--temperature" in refused.value.fix) == (name == "temperature")
    assert message[:20] in refused.value.cause


@pytest.mark.parametrize(
    "body",
    [
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "ignore_eos"], "msg": "Extra inputs are not permitted", "input": True}]},
        {"error": {"message": "Unknown parameter.", "param": "ignore_eos", "code": "unknown_parameter"}},
        {"object": "error", "message": "[{'loc': ('body', 'ignore_eos'), 'msg': 'Extra inputs are not permitted'}]", "code": 400},
    ],
)
async def test_the_field_is_found_wherever_the_server_names_it(body):
    async with answering(chat(lambda asked: page("422 Unprocessable Entity", body))) as server:
        engine, info = await started(server.url)
        with pytest.raises(UserError) as refused:
            await ready(engine, info)
    assert "ignore_eos" in refused.value.cause
    assert "--no-ignore-eos" in refused.value.fix


async def test_a_server_that_is_still_loading_is_waited_for():
    posts = []

    def answer(asked):
        posts.append(asked)
        return error("503 Service Unavailable", "Loading model") if len(posts) < 3 else stream()

    async with answering(chat(answer)) as server:
        engine, info = await started(server.url)
        with pytest.raises(UserError, match="Loading model"):
            await ready(engine, info)
        engine, info = await started(server.url)
        await ready_check(engine, info, make_request(0), Timeouts(), Redactor(), patience_s=30)
        await engine.close()
    assert len(posts) == 3


async def test_a_header_that_is_given_goes_before_the_environments_key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "from-the-environment")
    async with answering(chat(lambda asked: stream())) as server:
        engine, info = await started(server.url, headers='{"authorization": "Token mine", "accept": "text/plain"}')
        await ready(engine, info)
    assert server.seen[-1].headers["authorization"] == "Token mine"
    assert server.seen[-1].headers["accept"] == "text/plain"
    assert "user-agent" in server.seen[-1].headers


@pytest.mark.parametrize("answer", [None, b"\x15\x03\x01\x00\x02\x02F"])
async def test_a_port_that_may_speak_tls_is_told(answer):
    async with answering(lambda asked: answer) as server:
        engine, info = await started(server.url)
        with pytest.raises(UserError, match="https://"):
            await ready(engine, info, Timeouts(first_token_ns=300_000_000))


async def test_a_refused_key_names_where_it_comes_from():
    async with answering(chat(lambda asked: error("401 Unauthorized", "no"))) as server:
        engine, info = await started(server.url)
        with pytest.raises(UserError, match="OPENAI_API_KEY"):
            await ready(engine, info)


@pytest.mark.parametrize(
    "refusal",
    [
        "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.",
        "[{'type': 'extra_forbidden', 'loc': ['body', 'max_tokens'], 'msg': 'Extra inputs are not permitted'}]",
        "max_tokens is deprecated in favor of max_completion_tokens",
    ],
)
async def test_the_other_name_of_the_limit_is_taken_by_itself_and_kept(refusal):
    def answer(asked):
        if "max_tokens" in asked.body:
            return error("400 Bad Request", refusal)
        return stream()

    async with answering(chat(answer)) as server:
        engine, info = await started(server.url)
        changed = await ready(engine, info)
        engine, info = await started(server.url, **changed)
        assert await ready(engine, info) == {}
        posts = [asked.body for asked in server.seen if asked.method == "POST"]
    assert changed == {"max_tokens_field": "max_completion_tokens"}
    assert [("max_tokens" in body, body.get("max_completion_tokens")) for body in posts] == [(True, None), (False, 4), (False, 4)]


async def test_a_server_that_takes_uuids_alone_as_ids_of_requests_gets_them_under_another_name():
    """llama-cpp-python's: its middleware refuses others without a word."""

    def answer(asked):
        return page("400 Bad Request", b"") if "x-request-id" in asked.headers else stream()

    async with answering(chat(answer)) as server:
        engine, info = await started(server.url)
        changed = await ready(engine, info)
        engine, info = await started(server.url, **changed)
        assert await ready(engine, info) == {}
        posts = [asked.headers for asked in server.seen if asked.method == "POST"]
    assert changed == {"request_id_header": "X-Bmp-Request-Id"}
    assert ["x-bmp-request-id" in headers for headers in posts] == [False, True, True]


@pytest.mark.parametrize(
    "refusal",
    [
        "max_tokens must be at most 2",
        "'max_tokens' or 'max_completion_tokens' is too large: 4. This model's maximum context length is 2 tokens and your request has 1",
    ],
)
async def test_a_limit_that_is_too_high_is_no_other_name(refusal):
    async with answering(chat(lambda asked: error("400 Bad Request", refusal))) as server:
        engine, info = await started(server.url)
        with pytest.raises(UserError, match="--output-len"):
            await ready(engine, info)
    assert len(server.seen) == 2


async def test_a_limit_in_the_extra_body_is_sent_alone():
    async with answering(chat(lambda asked: stream())) as server:
        engine, info = await started(server.url, extra_body='{"max_completion_tokens": 4}')
        await ready(engine, info)
    assert server.seen[-1].body["max_completion_tokens"] == 4
    assert "max_tokens" not in server.seen[-1].body


async def test_the_first_request_has_the_lengths_of_the_run():
    async with answering(chat(lambda asked: stream())) as server:
        engine, info = await started(server.url)
        await ready(engine, info)
    assert server.seen[-1].body["max_tokens"] == make_request(0).max_tokens > 1


async def test_token_ids_go_out_as_they_are_and_only_where_they_are_taken():
    request = Request(index=0, id="ids", max_tokens=4, token_ids=(1024, 17407, 5))
    async with answering(chat(lambda asked: stream())) as server:
        engine, info = await started(server.url, endpoint="/v1/completions")
        await ready_check(engine, info, request, Timeouts(), Redactor())
        await engine.close()
        other, chatting = await started(server.url)
        await other.close()
    assert server.seen[-2].body["prompt"] == [1024, 17407, 5]
    assert (info.accepts, chatting.accepts) == (["token_ids"], ["images"])


async def test_what_is_no_answer_is_not_passed():
    only_done = page("200 OK", b"data: [DONE]\n\n", kind="text/event-stream")
    async with answering(chat(lambda asked: only_done)) as server:
        engine, info = await started(server.url)
        with pytest.raises(UserError, match="first request fails"):
            await ready(engine, info)


async def dripping(reader, writer):
    """A list of models, then a byte of an endless stream every few milliseconds."""
    head = await reader.readuntil(b"\r\n\r\n")
    if head.startswith(b"GET"):
        writer.write(models("lab"))
        head = await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
    while not writer.is_closing():
        writer.write(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')
        await writer.drain()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("transport", ["lean", "aiohttp"])
async def test_a_server_that_drips_is_held_to_the_total_timeout_before_the_run_too(transport):
    server = await asyncio.start_server(dripping, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    limits = Timeouts(total_ns=300_000_000)
    async with asyncio.timeout(30):
        engine, info = await started(url, transport=transport)
        with pytest.raises(UserError, match=r"total timeout of 0\.3 s; .*--total-timeout"):
            await ready(engine, info, limits)
        engine, _ = await started(url, transport=transport)
        assert await send_aside(engine, [make_request(0)], limits) == 0
        await engine.close()
    server.close()


async def test_a_query_reaches_every_page_and_a_key_in_it_no_message():
    redactor = Redactor()
    async with answering(lambda asked: error("404 Not Found", f"no {asked.target}")) as server:
        engine, info = await started(f"{server.url}?api-version=1&code=canary-123", redactor=redactor)
        with pytest.raises(UserError) as refused:
            await ready(engine, info, redactor=redactor)
    assert [asked.target for asked in server.seen] == [
        "/v1/models?api-version=1&code=canary-123",
        "/v1/chat/completions?api-version=1&code=canary-123",
    ]
    assert "canary" not in f"{refused.value} {info}"
    assert "api-version=1" in refused.value.cause


@pytest.mark.parametrize("transport", ["lean", "aiohttp"])
@pytest.mark.parametrize(("keep_alive", "connections"), [("true", 1), ("false", 3)])
async def test_reuse_can_be_turned_off(transport, keep_alive, connections):
    opened = []

    async def converse(reader, writer):
        opened.append(writer)
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = next((int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")), 0)
            await reader.readexactly(length)
            writer.write(models("lab") if head.startswith(b"GET") else stream())

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    engine, info = await started(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", transport=transport, keep_alive=keep_alive)
    await ready_check(engine, info, make_request(0), Timeouts(), Redactor())
    await ready(engine, info)
    server.close()
    assert len(opened) == connections


# -- redirects over aiohttp --------------------------------------------------------


SECRETS = ({"headers": '{"X-Api-Key": "canary-key"}'}, {"extra_body": '{"api_key": "canary-key"}'})


@pytest.mark.parametrize(("options", "follows"), [({}, True), *((secret, False) for secret in SECRETS)])
async def test_a_redirect_takes_no_secret_to_another_server(options, follows):
    async with answering(chat(lambda asked: stream())) as other:

        def moved(asked):
            return page("307 Temporary Redirect", b"", f"location: {other.url}{asked.target}\r\n")

        async with answering(chat(moved)) as server:
            engine, info = await started(server.url, transport="aiohttp", **options)
            if follows:
                await ready(engine, info)
            else:
                with pytest.raises(UserError, match=r"another server.*--base-url"):
                    await ready(engine, info)
    assert len(other.seen) == follows
    assert "canary" not in str(other.seen)


@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
async def test_a_redirect_on_the_same_server_keeps_question_and_key(status):
    def moved(asked):
        if asked.target.startswith("/moved"):
            return stream()
        return page(status, b"", f"location: /moved{asked.target}\r\n")

    async with answering(chat(moved)) as server:
        engine, info = await started(server.url, transport="aiohttp", headers='{"X-Api-Key": "canary-key"}')
        await ready(engine, info)
    last = server.seen[-1]
    assert (last.method, last.target, last.headers["x-api-key"]) == ("POST", "/moved/v1/chat/completions", "canary-key")
    assert last.body["stream"] is True


async def test_redirects_have_an_end():
    async with answering(chat(lambda asked: page("307 Temporary Redirect", b"", "location: /again\r\n"))) as server:
        engine, info = await started(server.url, transport="aiohttp")
        with pytest.raises(UserError, match="too many redirects"):
            await ready(engine, info)


# -- keys from files ---------------------------------------------------------------


@pytest.mark.parametrize("place", ["/dev/zero", "/dev/null", "/", "fifo", "two", "binary"])
async def test_a_key_file_that_is_none_is_one_line(place, tmp_path):
    import os

    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "two").write_text("one two")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\0")
    path = place if place.startswith("/") else str(tmp_path / place)
    engine = OpenAIEngine()
    with pytest.raises(EngineUnavailable, match="key file"):
        await engine.start(LAB, {"base_url": "http://127.0.0.1:9", "api_key_file": path})
    with pytest.raises(EngineUnavailable, match="CA file"):
        await engine.start(LAB, {"base_url": "https://127.0.0.1:9", "ca_file": path})
