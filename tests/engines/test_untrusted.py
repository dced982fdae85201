"""JSON from outside ends with a value or with one error."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from engines.untrusted import MAX_DEPTH, MAX_INTEGER, UntrustedJson, count_of, decode_json, whole_text


class Known(msgspec.Struct):
    number: int = 0
    anything: Any = None


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return opening * depth + closing * depth


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_nesting_is_bounded_whatever_python_allows(opening, lenient):
    closing, inside = {b"[": (b"]", b""), b'{"a":': (b"}", b"1")}[opening]
    deepest = decode_json(opening * MAX_DEPTH + inside + closing * MAX_DEPTH, lenient=lenient)
    assert deepest
    for depth in (MAX_DEPTH + 1, 1000, 100_000):
        with pytest.raises(UntrustedJson, match="nested deeper than"):
            decode_json(opening * depth + inside + closing * depth, lenient=lenient)


def test_nesting_counts_in_what_the_type_skips_and_not_in_texts():
    assert decode_json(b'{"number": 3, "other": ["' + b"[{" * 1000 + b'\\"["]}', Known) == Known(number=3)
    assert len(decode_json(b"[" + b"[]," * 1000 + b"[]]")) == 1001
    with pytest.raises(UntrustedJson, match="nested deeper"):
        decode_json(b'{"other": ' + nested(200) + b"}", Known)


HOSTILE = (
    b"",
    b"{",
    b'"\xff"',
    b'{"\xff":1}',
    b"9" * 5000,
    b"[1e999, 1" + b"0" * 5000 + b"]",
    b"\x00",
    b"\xef\xbb\xbf[",
    b'"\\ud83d',
    b"[" * 10**6,
)


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
def test_whatever_is_wrong_is_one_error_of_one_short_line(data, lenient):
    with pytest.raises(UntrustedJson) as refused:
        decode_json(data, lenient=lenient)
    assert len(str(refused.value)) < 300
    assert "\n" not in str(refused.value)


def test_a_value_of_another_shape_is_refused_and_text_is_taken():
    with pytest.raises(UntrustedJson, match="Expected `int`"):
        decode_json('{"number": "x"}', Known, lenient=True)
    assert decode_json('{"number": 3}', Known) == Known(number=3)
    with pytest.raises(UntrustedJson):
        decode_json('"\ud83d"')


def test_a_byte_order_mark_is_no_part_of_the_value():
    assert decode_json(b"\xef\xbb\xbf[1]") == [1]


def test_lenient_takes_what_is_met_though_it_is_no_json():
    data = b'{"number": 3, "anything": [NaN, -Infinity, 1e999, "\\ud83d", "tab\there"]}'
    with pytest.raises(UntrustedJson):
        decode_json(data, Known)
    assert decode_json(data, Known, lenient=True) == Known(number=3, anything=[None, None, None, "\ud83d", "tab\there"])


def test_halves_of_a_pair_are_joined_or_replaced():
    assert whole_text("a\ud83d\ude00b\ud83dc\ude00") == "a\U0001f600b\ufffdc\ufffd"
    assert whole_text("plain \U0001f600") == "plain \U0001f600"


@pytest.mark.parametrize(
    ("value", "count"),
    [(12, 12), (12.0, 12), ("12", 12), (0, 0), (MAX_INTEGER, MAX_INTEGER)]
    + [(value, None) for value in (-3, 12.5, 2**70, 1e300, float("nan"), float("inf"), True, None, "1e5", "-1", "", "9" * 5000, "٣", [])],
)  # fmt: skip
def test_a_count_is_whole_and_not_negative(value, count):
    assert count_of(value) == count
