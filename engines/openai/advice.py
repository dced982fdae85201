"""What to do about a first request that an OpenAI-like server refused: the flag that leaves out, or changes, what it names.

Servers differ in what a request may hold. Their messages name the field, in words of their own; no more than its name is
looked for.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from engines.contract import EngineError

CHAT_LIMITS = ("max_tokens", "max_completion_tokens")
"""The names under which chat servers take the longest answer allowed; newer models of OpenAI's know the second alone."""

_SAYS_WHY = ("http_4xx", "http_5xx", "error_in_stream", "not_a_stream")

FIELD_FIXES = (
    ("stream_options", "leave it out with --engine-option usage=false"),
    ("stream_options.include_usage", "leave it out with --engine-option usage=false"),
    ("temperature", "give the one it takes with --temperature 1"),
    ("ignore_eos", "leave it out with --no-ignore-eos"),
    ("top_p", "give one that it takes with --top-p"),
    ("top_k", "leave it out: no --top-k, and no sampling.top_k in the scenario"),
    ("seed", "leave it out: no sampling.seed in the scenario"),
    ("max_output_tokens", "--output-len for shorter responses"),
    ("max_completion_tokens", "--engine-option max_tokens_field=max_tokens"),
    ("max_tokens", "--output-len for shorter responses, or --engine-option max_tokens_field=max_completion_tokens"),
)
_UNKNOWN = r"unsupported|not support|unrecogni[sz]ed|unknown|unexpected|extra|not permitted|not allowed|forbidden|deprecated"
_REFUSED = re.compile(rf"{_UNKNOWN}|invalid|must|only|should|unavailable|greater|less than|too large|at most|cannot|can't|use ", re.I)
_WHAT_IS_TAKEN = re.compile(r"expected one of|did you mean|(?:allowed|supported|valid) (?:fields|parameters|arguments|values)", re.I)


def wants_other_limit(error: EngineError, field: str) -> str | None:
    """The name that the server takes for the answer's limit instead of `field`; None where that isn't what it says."""
    if error.error_class not in _SAYS_WHY or not _names(field, error.detail) or not re.search(_UNKNOWN, error.detail, re.I):
        return None
    return CHAT_LIMITS[field == CHAT_LIMITS[0]]


def wants_texts(error: EngineError) -> bool:
    """Whether a rerank server takes documents under the name `texts`, as TEI does."""
    return error.error_class in _SAYS_WHY and _names("texts", error.detail)


def refuses_ids(error: EngineError) -> bool:
    """Whether it may be the request's id, of which llama-cpp-python's server takes UUIDs alone, that was refused: without a word."""
    return error.error_class == "http_4xx" and error.detail.rstrip(": ") == "HTTP 400"


def fix_for(error: EngineError, sent: Collection[str] = (), extra: Collection[str] = ()) -> str | None:
    """The flag that helps, where the server's words name something that there is a flag for. `sent` are the fields of the
    request, `extra` those of them that the user gave."""
    if error.error_class == "tls":
        return _tls_fix(error.detail)
    if "HTTPS" in error.detail and "HTTP request" in error.detail:
        return "the port speaks TLS: give https:// in --base-url"
    if re.search(r"api[-_ ]version", error.detail, re.I):
        return "give the required version in --base-url: http://HOST/…?api-version=VERSION"
    if error.error_class == "stale_connection":
        return "turn reuse off with --engine-option keep_alive=false"
    if error.error_class == "redirect" and "another server" in error.detail:
        return "give that server's address with --base-url"
    if error.error_class not in _SAYS_WHY or not _REFUSED.search(error.detail):
        return None
    words = _WHAT_IS_TAKEN.split(error.detail)[0]
    named = [f"--extra-body gives {name}: leave it out" for name in sorted(extra) if _names(name, words)]
    named += [
        fix for name, fix in FIELD_FIXES if name.partition(".")[0] in sent and name not in extra and _names(name.rpartition(".")[2], words)
    ]
    return ", and ".join(dict.fromkeys(named)) or None


def _names(field: str, text: str) -> bool:
    return re.search(rf"(?<![A-Za-z_]){re.escape(field)}(?![A-Za-z_])", text) is not None


def _tls_fix(detail: str) -> str:
    if re.search(r"wrong.version|record layer|unknown.protocol|packet length", detail, re.I):
        return "the port seems to speak plain HTTP: give http:// in --base-url"
    if re.search(r"self.signed|unable to get|verify|expired|mismatch|not valid for", detail, re.I):
        return "give its authority with --engine-option ca_file=FILE, or skip the check with --insecure"
    return "check --base-url and the certificate: --engine-option ca_file=FILE names an authority, --insecure skips the check"
