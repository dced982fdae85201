"""Fuzz the readers of traces and sessions: `python -m tests.fuzz.fuzz_traces --count 100000 --seed 1`.

The invariant. For a file of any bytes, read as any format, packed or not: every session is compiled and described, or a UserError names
the file in one line. Nothing else is raised.

Inputs are rows of each format with values changed, left out, doubled and moved, then bytes changed. One that breaks the invariant is
written beside the corpus.
"""

from __future__ import annotations

import copy
import gzip
import json
import random
import tempfile
from pathlib import Path
from typing import Any

from bytemlperf.errors import UserError
from bytemlperf_llm.trace.description import describe
from bytemlperf_llm.trace.detection import format_of
from bytemlperf_llm.trace.flags import DescribeFlags
from tests.fuzz.command import main
from tests.fuzz.mutation import damage
from tests.sessions.test_description import ROWS

FOUND = Path(__file__).parent / "corpus" / "trace-found.bin"
TABLES = {
    "azure": b"TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00,60,8\n2024-05-10 00:00:01.5+01:00,61,9\n",
    "burstgpt": b"Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens\n5,a,1,m,60,8\n6.5,,1,m,1,0\n",
}
LISTED = json.loads(json.dumps(ROWS["otel_spans"]))
for _span in LISTED[0]["spans"]:
    if told := _span["attributes"].get("gen_ai.input.messages"):
        _span["attributes"]["gen_ai.input.messages"] = json.loads(told)
SAME_ROWS = {"sharegpt": "sharegpt_turns", "bailian": "bailian_chains"}
ODD = (
    None,
    True,
    -1,
    0,
    1,
    7,
    2.5,
    -0.5,
    1e308,
    float("nan"),
    float("inf"),
    10**30,
    "",
    "a",
    "1",
    "-1",
    "[",
    "\ud800",
    "nan",
    "1e999999999",
)
ODD_NESTS: tuple[Any, ...] = ([], {}, [[]], [None], {"a": 1}, [1, 2, 3], "x" * 300)
PIECES = (
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b"\n",
    b"\r",
    b'"',
    b"\\u0000",
    b"\0",
    b"\xff",
    b"NaN",
    b"null",
    b"-",
    b"1e99",
    b"9" * 25,
    b"[" * 2000,
)


def run(count: int, seed: int) -> str | None:
    """The first broken rule, None when all inputs hold."""
    rng = random.Random(seed)
    forms = (*ROWS, *TABLES, *SAME_ROWS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.jsonl"
        for _ in range(count):
            form = rng.choice(forms)
            content = rendered(form, rng)
            path.write_bytes(content)
            broken = broken_rule(path, form, rng.random() < 0.1)
            if broken is not None:
                FOUND.write_bytes(content)
                return f"{form}: {broken}\n{content[:2000]!r}"
    return None


def rendered(form: str, rng: random.Random) -> bytes:
    """A file of that format, usually damaged."""
    if form in TABLES:
        content = TABLES[form]
    else:
        rows = copy.deepcopy(LISTED if form == "otel_spans" and rng.random() < 0.5 else ROWS[SAME_ROWS.get(form, form)])
        for _ in range(rng.choice((0, 1, 1, 2, 4))):
            change(rows, rng)
        content = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    if rng.random() < 0.4:
        content = damage(content, rng, PIECES)
    if rng.random() < 0.1:
        content = gzip.compress(content)
        content = damage(content, rng, PIECES) if rng.random() < 0.5 else content
    return content


def change(rows: list[Any], rng: random.Random) -> None:
    """One value somewhere in the rows: another, gone, doubled, or in another's place."""
    holder: Any = rows
    key: Any = rng.randrange(len(rows)) if rows else None
    if key is None:
        return
    while isinstance(holder[key], list | dict) and holder[key] and rng.random() < 0.8:
        holder = holder[key]
        key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
    match rng.randrange(5):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        case 2 if isinstance(holder, list):
            other = rng.randrange(len(holder))
            holder[key], holder[other] = holder[other], holder[key]
        case 3:
            holder[key] = copy.deepcopy(rng.choice(ODD_NESTS))
        case _:
            holder[key] = rng.choice(ODD)


def broken_rule(path: Path, form: str, detected: bool) -> str | None:
    """What the file breaks, read as that format, or as the one that its first row tells; None: nothing."""
    try:
        describe(path, format_of(path, None if detected else form), DescribeFlags())
    except UserError as error:
        text = f"{error.cause}; {error.fix}"
        return None if path.name in text and "\n" not in text else f"not a line about the file: {text!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


if __name__ == "__main__":
    main(run, 20_000, __doc__)
