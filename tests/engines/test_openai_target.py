"""Addresses as people have them: each asks the right path, or is refused by the name of its flag."""

from __future__ import annotations

import pytest

from engines.contract import BadOption
from engines.openai.target import parse_target

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("base_url", "endpoint", "url", "models"),
    [
        ("http://127.0.0.1:8000", CHAT, "http://127.0.0.1:8000/v1/chat/completions", "/v1/models"),
        ("http://127.0.0.1:8000/v1", "", "http://127.0.0.1:8000/v1/chat/completions", "/v1/models"),
        ("http://127.0.0.1:8000/v1/", "/chat/completions", "http://127.0.0.1:8000/v1/chat/completions", "/v1/models"),
        ("localhost:8000/", "/v1/completions", "http://localhost:8000/v1/completions", "/v1/models"),
        ("https://user:pass@host/openai/v1/", "", "https://host/openai/v1/chat/completions", "/openai/v1/models"),
        ("http://[::1]:8000", "/v1/completions", "http://[::1]:8000/v1/completions", "/v1/models"),
        # pasted whole
        ("http://h:1/v1/chat/completions", "", "http://h:1/v1/chat/completions", "/v1/models"),
        ("http://h:1/v1/completions/", "", "http://h:1/v1/completions", "/v1/models"),
        ("http://h:1/v1/chat/completions", "/v1/completions", "http://h:1/v1/completions", "/v1/models"),
        ("http://h:1/v1/models", "", "http://h:1/v1/chat/completions", "/v1/models"),
        ("http://h:1/v1/chat", "", "http://h:1/v1/chat/completions", "/v1/models"),
        ("http://h:1//v1/responses", "", "http://h:1/v1/responses", "/v1/models"),
        ("http://h:1/v1/embeddings?x=1", "", "http://h:1/v1/embeddings?x=1", "/v1/models?x=1"),
        ("http://h:1/v1/responses", "/v1/rerank", "http://h:1/v1/rerank", "/v1/models"),
        ("http://h:1", "/rerank", "http://h:1/rerank", "/models"),
        ("http://h:1", "/v2/rerank", "http://h:1/v2/rerank", "/v2/models"),
        # a query stays, wherever it was given
        (
            "http://h:1?api-version=2024-10-21",
            "",
            "http://h:1/v1/chat/completions?api-version=2024-10-21",
            "/v1/models?api-version=2024-10-21",
        ),
        ("http://h:1", f"{CHAT}?api-version=1", "http://h:1/v1/chat/completions?api-version=1", "/v1/models?api-version=1"),
        (
            "https://x.openai.azure.com/openai/deployments/gpt-4o/chat/completions?api-version=1",
            "",
            "https://x.openai.azure.com/openai/deployments/gpt-4o/chat/completions?api-version=1",
            "/openai/deployments/gpt-4o/models?api-version=1",
        ),
        (
            "https://x.openai.azure.com/openai/deployments/gpt-4o?api-version=1",
            "",
            "https://x.openai.azure.com/openai/deployments/gpt-4o/chat/completions?api-version=1",
            "/openai/deployments/gpt-4o/models?api-version=1",
        ),
        # versions of their own
        ("https://h/v1beta/openai", "", "https://h/v1beta/openai/chat/completions", "/v1beta/openai/models"),
        ("https://h/api/paas/v4/", "", "https://h/api/paas/v4/chat/completions", "/api/paas/v4/models"),
    ],
)
def test_an_address_is_understood(base_url, endpoint, url, models):
    target = parse_target(base_url, endpoint)
    assert (target.url, target.models) == (url, models)
    assert target.api == ("chat" if "/chat/" in url else target.path.partition("?")[0].rpartition("/")[2])


@pytest.mark.parametrize(
    ("base_url", "cause"),
    [
        ("http://[::1", "not an address"),
        ("http://::1:8000", "brackets"),
        ("::1:8000", "brackets"),
        ("http://fe80::1", "brackets"),
        ("ftp://x", "http"),
        ("http://x:port", "port"),
        ("http://x:0", "port"),
        ("http://x:99999", "port"),
        ("", "no host"),
        ("http://", "no host"),
        ("http://a\x1bb", "blank"),
        ("http://h/a b", "blank"),
        ("http://" + "ü" * 80, "invalid host name"),
    ],
)
def test_what_is_no_address_is_refused_by_its_flag(base_url, cause):
    with pytest.raises(BadOption, match=cause) as refused:
        parse_target(base_url)
    assert "--base-url" in refused.value.cause


def test_a_metrics_page_is_below_what_stands_before_v1():
    assert parse_target("http://h/gate/v1").prefix == parse_target("http://h/gate/v1/chat/completions").prefix == "/gate"
