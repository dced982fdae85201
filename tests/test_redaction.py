"""No form of a secret gets through, wherever a text was cut and whatever a server made of it."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest

from bytemlperf.redaction import Redactor, option_secrets
from engines.credentials import SECRET_NAME, body_secrets

KEY = 'sk-canary/+"&<Zq81=='


@pytest.mark.parametrize("secret", [KEY, f"Bearer {KEY}", f"Token {KEY}", f"ApiKey  {KEY}", f"session={KEY}", f"X9-Own-Scheme {KEY}"])
@pytest.mark.parametrize(
    "echo", [str, quote, lambda key: quote(key, safe=""), lambda key: json.dumps(key), lambda key: key.replace("/", "\\/")]
)
def test_a_secret_is_known_without_its_scheme_and_escaped(secret, echo):
    shown = Redactor([secret]).clean(f"wrong key {echo(KEY)} given")
    assert "canary" not in shown
    assert shown.startswith("wrong key")


@pytest.mark.parametrize(
    "change",
    [
        str.upper,
        str.lower,
        lambda key: f"{key[:9]}\x1b[31m{key[9:]}",
        lambda key: "\u200b".join(key),
        lambda key: f"{key[:8]}\n  {key[8:]}",
        lambda key: f"{key[:8]}****{key[-4:]}",
        lambda key: f"{key[:7]}...{key[-3:]}, sorry",
        lambda key: base64.b64encode(key.encode()).decode(),
    ],
)
def test_a_secret_that_was_changed_on_its_way_is_out(change):
    shown = Redactor([f"Bearer {KEY}"]).clean(f"wrong key {change(KEY)} given")
    assert "canary" not in shown.lower().replace("�", "")
    assert base64.b64encode(KEY.encode()).decode()[:8] not in shown
    assert KEY[-4:] not in shown
    assert shown.startswith("wrong key [redacted]")
    assert shown.endswith("given")


def test_what_basic_encodes_is_a_secret_too():
    redactor = Redactor([f"Basic {base64.b64encode(b'alice:canary-word').decode()}"])
    assert redactor("no canary-word for alice:canary-word") == "no [redacted] for [redacted]"


@pytest.mark.parametrize("length", range(6, len(KEY) + 1))
@pytest.mark.parametrize("ending", ["", "...", "…", "***"])
def test_a_secret_that_was_cut_in_two_is_out(length, ending):
    shown = Redactor([KEY]).clean("a" * 20 + " " + KEY[:length] + ending)
    assert KEY[:6] not in shown


def test_a_text_is_cut_after_the_secret_is_out():
    shown = Redactor([KEY]).clean("x" * 390 + KEY + "y" * 100)
    assert len(shown) == 400
    assert "sk-ca" not in shown


def test_a_strangers_text_is_one_printable_line():
    shown = Redactor().clean("a\x1b[31mred\x07\r\nb\u202ec\u2028d \ud83d e")
    assert shown.isprintable()
    assert shown.isascii() is False
    assert "\x1b" not in shown
    assert shown.count("\n") == 0


@pytest.mark.parametrize(
    "url",
    [
        "http://h/v1?api-key=canary",
        "http://h/v1?x=1&subscription-key=canary",
        "http://user:canary@h/",
        "/v1/chat?access_token=canary",
        "http://h/?sig=canary&sv=2024",
        "http://h/?key=canary",
    ],
)
def test_an_address_in_a_text_keeps_no_key(url):
    assert "canary" not in Redactor()(f"asked {url} and nothing came")


def test_an_address_keeps_the_rest():
    assert Redactor()("http://h/v1?api-version=2024-10-21&key=abc") == "http://h/v1?api-version=2024-10-21&key=[redacted]"


def test_options_as_they_are_typed():
    options = {
        "headers": '{"X-Api-Key": "canary-1"}',
        "extra_body": '{"provider": {"api_key": "canary-2"}, "user": "sk-canary-3-0123456789", "min_p": 0.1, "prompt_cache_key": "shown"}',
        "base_url": "http://me:canary-4@h?code=canary-5&api-version=1",
        "endpoint": "/v1/chat/completions?key=canary-6",
    }
    redactor = Redactor(option_secrets(options))
    shown = json.dumps(redactor.deep(options))
    assert "canary" not in shown
    for kept in ("min_p", "shown", "api-version=1", "/v1/chat/completions"):
        assert kept in shown


@pytest.mark.parametrize("options", [{"headers": "{"}, {"extra_body": "[1]"}, {"base_url": "http://[::1"}, {}])
def test_options_that_are_wrong_are_for_others_to_refuse(options):
    assert option_secrets(options) == []


@pytest.mark.parametrize("name", ["api_key", "x-api-key", "Authorization", "client_secret", "hf_token", "access-token", "password", "sig"])
def test_names_of_secrets(name):
    assert SECRET_NAME.search(name)


@pytest.mark.parametrize(
    "name", ["max_tokens", "stop_token_ids", "eos_token", "prompt_cache_key", "min_p", "logit_bias", "model", "keyword", "seed"]
)
def test_names_of_no_secrets(name):
    assert not SECRET_NAME.search(name)
    assert list(body_secrets({name: "value"})) == []
