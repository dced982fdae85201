"""Fuzz the SSE parser: `python -m tests.fuzz.fuzz_sse --count 1000000 --seed 1`.

The invariant. For any bytes S:
    events(S whole) == events(S byte by byte) == events(S cut anywhere) == events by the oracle
    and the same holds for the fault; nothing raises; with a cap, the events are
    the first ones of the oracle's, and all of them when there is no fault.

Inputs are half random words of the grammar, half mutations of the files in corpus/sse. An input
that breaks the invariant is printed, written beside the corpus and ends the run with status 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

from engines.http.sse import Event, SseParser
from tests.fuzz.mutation import cut, damage
from tests.fuzz.sse_oracle import read_events

CORPUS = Path(__file__).parent / "corpus" / "sse"
MAX_INPUT_BYTES = 400
SMALL_CAP_BYTES = 24
WORDS = (
    b"\n", b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b":", b" ", b"data", b"data:", b"data: ", b"event: x", b"id: 7", b"id: \0",
    b"retry: 10", b"retry: 1x", b": ping", b"[DONE]", b'{"a":1}', b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xc2\x85", b"\xff", b"\0", b"x",
)  # fmt: skip

Outcome = tuple[list[Event], str | None]


def outcome(pieces: list[bytes], cap: int) -> Outcome:
    parser = SseParser(cap)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return events, parser.fault


def generate(rng: random.Random) -> bytes:
    return b"".join(rng.choices(WORDS, k=rng.randrange(1, 24)))


def mutate(stream: bytes, rng: random.Random) -> bytes:
    start = max(0, rng.randrange(-MAX_INPUT_BYTES, len(stream)))
    return damage(stream[start : start + MAX_INPUT_BYTES], rng, WORDS)


def broken_rule(stream: bytes, rng: random.Random) -> str | None:
    """Which part of the invariant `stream` breaks, None when it holds."""
    single = [stream[i : i + 1] for i in range(len(stream))]
    for cap in (1 << 20, SMALL_CAP_BYTES):
        whole = outcome([stream], cap)
        if outcome(single, cap) != whole:
            return f"byte by byte differs from whole (cap {cap})"
        if outcome(cut(stream, rng), cap) != whole:
            return f"cut differs from whole (cap {cap})"
        seen = [(event.data, event.event) for event in whole[0]]
        expected = read_events(stream)
        if seen != (expected[: len(seen)] if whole[1] else expected):
            return f"differs from the oracle (cap {cap})"
        if any(len(event.data) > cap for event in whole[0]):
            return f"an event is over the cap {cap}"
    return None


def run(count: int, seed: int) -> tuple[bytes, str] | None:
    """The first input that breaks the invariant, with the rule it breaks."""
    rng = random.Random(seed)
    corpus = [path.read_bytes() for path in sorted(CORPUS.iterdir())]
    for _ in range(count):
        stream = generate(rng) if rng.random() < 0.5 else mutate(rng.choice(corpus), rng)
        rule = broken_rule(stream, rng)
        if rule is not None:
            return stream, rule
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    began = time.monotonic()
    found = run(args.count, args.seed)
    if found is None:
        print(f"{args.count} inputs, seed {args.seed}, {time.monotonic() - began:.0f} s: the invariant holds")
        return 0
    stream, rule = found
    path = CORPUS.parent / "sse-broken.bin"
    path.write_bytes(stream)
    print(f"{rule}: {stream!r}, kept as {path}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
