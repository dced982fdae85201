"""The environment's proxy: which servers it is for, and what of it is shown."""

from __future__ import annotations

import pytest

from engines.contract import BadOption
from engines.http.proxy import is_bypassed, proxy_for


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    import os

    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "bypassed"),
    [
        ("127.0.0.1", "127.0.0.1", 8000, True),
        ("127.0.0.1:8000", "127.0.0.1", 8000, True),
        ("127.0.0.1:8001", "127.0.0.1", 8000, False),
        ("10.0.0.0/8, 127.0.0.0/8", "127.0.0.1", 80, True),
        ("10.0.0.0/8", "127.0.0.1", 80, False),
        ("*", "anything", 80, True),
        ("example.com", "api.example.com", 443, True),
        (".example.com", "api.example.com", 443, True),
        ("*.example.com", "api.example.com", 443, True),
        ("example.com", "badexample.com", 443, False),
        ("EXAMPLE.com other", "Example.COM", 443, True),
        ("::1", "::1", 80, True),
        ("[::1]", "::1", 80, True),
        ("[::1]:8000", "::1", 8000, True),
        ("fd00::/8", "fd12::1", 80, True),
        ("", "h", 80, False),
    ],
)
def test_no_proxy(no_proxy, host, port, bypassed):
    assert is_bypassed(host, port, no_proxy) is bypassed


@pytest.mark.parametrize(
    ("environment", "tls", "url", "variable"),
    [
        ({"http_proxy": "http://p:1"}, False, "http://p:1", "http_proxy"),
        ({"HTTP_PROXY": "http://p:1"}, False, "http://p:1", "HTTP_PROXY"),
        ({"https_proxy": "http://p:1"}, False, None, ""),
        ({"HTTPS_PROXY": "p:1"}, True, "http://p:1", "HTTPS_PROXY"),
        ({"all_proxy": "http://p:1"}, True, "http://p:1", "all_proxy"),
        ({"ALL_PROXY": "socks5h://p:1"}, False, None, ""),
        ({"http_proxy": ""}, False, None, ""),
        ({"http_proxy": "http://p:1", "NO_PROXY": "h:8000"}, False, None, ""),
    ],
)
def test_which_proxy(environment, tls, url, variable, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    proxy = proxy_for(tls, "h", 8000)
    assert (proxy and proxy.url) == url
    assert proxy is None or variable in proxy.name


def test_credentials_of_a_proxy_are_in_no_message(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://user:canary@p:1")
    proxy = proxy_for(False, "h", 80)
    assert proxy.credentials == "user:canary"
    assert "canary" not in proxy.name


@pytest.mark.parametrize("url", ["socks5://p:1", "http://", "http://[::1", "http://p:0", "http://p:port"])
def test_a_proxy_that_can_not_be_used_is_named(url, monkeypatch):
    monkeypatch.setenv("http_proxy", url)
    with pytest.raises(BadOption, match="http_proxy"):
        proxy_for(False, "h", 80)
