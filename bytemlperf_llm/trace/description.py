"""What a trace holds: sessions, lengths, pauses, shared prefixes, and how long it takes. It is read once, forward; of each request some
numbers are kept."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import cast, get_args

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.statistics.statistics import percentile
from bytemlperf.units import NS_PER_S
from bytemlperf_llm.plan.dataset import tokenizer_folder
from bytemlperf_llm.plan.scenario import Prompts, SessionFormatName, Trace, TraceFormatName, load
from bytemlperf_llm.trace.flags import DescribeFlags
from bytemlperf_llm.workload.data_files import bad
from bytemlperf_llm.workload.lengths import LengthSeries
from bytemlperf_llm.workload.prefixes import PrefixIndex
from bytemlperf_llm.workload.sessions.graph import Session
from bytemlperf_llm.workload.sessions.source import SessionPrompts
from bytemlperf_llm.workload.token_counter import WORDS_RULE, TokenCounter, counter_for
from bytemlperf_llm.workload.trace_prompts import TraceEnded
from bytemlperf_llm.workload.traces import block_tokens, read_rows
from bytemlperf_llm.workload.traces.rows import BLOCK_SIZE_FIX, TraceRow, misfit

SHARES = {"p50": Fraction(1, 2), "p90": Fraction(9, 10), "p99": Fraction(99, 100)}


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Of so many values; percentiles are nearest ranks."""

    count: int
    sum: float
    mean: float
    min: float
    p50: float
    p90: float
    p99: float
    max: float


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """`sessions` None: single requests. Tokens are the file's; of texts as `counted_by` says (empty: there are none). `reusable_tokens` is
    what an unbounded cache would hold of the prompts. `pause_s` is from the end of what a turn waits for to when it is due, or from its
    due time where the file doesn't say how long answers took. Times take answers as ready at once, and are scaled: `duration_s` is from
    the first start to the last due time, `longest_session_s` a session's own, `one_user_s` that of all one after another. `peak` is the
    most sessions open at a time, or requests within a second, at the file's own times. None: the file doesn't say."""

    file: str
    format: str
    time_scale: float
    counted_by: str
    requests: int
    sessions: int | None = None
    left_out: int = 0
    unsaid_outputs: int = 0
    turns: Spread | None = None
    prompt_tokens: Spread | None = None
    output_tokens: Spread | None = None
    pause_s: Spread | None = None
    reusable_tokens: int | None = None
    peak: int | None = None
    duration_s: float | None = None
    longest_session_s: float | None = None
    one_user_s: float | None = None


def spread(values: array[int], unit: int = 1) -> Spread | None:
    """None of no values."""
    if not values:
        return None
    ordered = sorted(values)
    total, shares = sum(ordered), {name: percentile(ordered, share) / unit for name, share in SHARES.items()}
    low, high = ordered[0] / unit, ordered[-1] / unit
    return Spread(count=len(ordered), sum=total / unit, mean=total / unit / len(ordered), min=low, max=high, **shares)


class _Tally:
    """Numbers of each request or session, as they are read."""

    def __init__(self) -> None:
        self.turns, self.prompts, self.outputs, self.pauses_ns = array("q"), array("q"), array("q"), array("q")
        self.starts_ns, self.spans_ns = array("q"), array("q")
        self.reusable = self.unsaid = self.left_out = 0
        self.texts = self.prefixes = False

    def add(self, prompt_tokens: int, output_tokens: int | None, reusable: int) -> None:
        self.prompts.append(prompt_tokens)
        self.reusable += min(reusable, prompt_tokens)
        if output_tokens:
            self.outputs.append(output_tokens)
        else:
            self.unsaid += 1

    def described(self, path: Path, name: str, time_scale: float, counted_by: str) -> Description:
        seconds, spans, sessions = time_scale / NS_PER_S, self.spans_ns, len(self.turns) or None
        starts = self.starts_ns if len(self.starts_ns) == (sessions or len(self.prompts)) else array("q")
        ends = [start + span for start, span in zip(starts, spans, strict=True)] if starts and sessions else list(starts)
        return Description(
            file=str(path),
            format=name,
            time_scale=time_scale,
            counted_by=counted_by if self.texts else "",
            requests=len(self.prompts),
            sessions=sessions,
            left_out=self.left_out,
            unsaid_outputs=self.unsaid,
            turns=spread(self.turns),
            prompt_tokens=spread(self.prompts),
            output_tokens=spread(self.outputs),
            pause_s=spread(self.pauses_ns, NS_PER_S) if any(self.pauses_ns) else None,
            reusable_tokens=self.reusable if self.prefixes else None,
            peak=_most_open(starts, ends if sessions else [start + NS_PER_S - 1 for start in starts]),
            duration_s=(max(ends) - min(starts)) * seconds if ends else None,
            longest_session_s=max(spans) * seconds if any(spans) else None,
            one_user_s=sum(spans) * seconds if any(spans) else None,
        )


class _Unsaid(LengthSeries):
    """Lengths that a file doesn't say, as 0."""

    def __init__(self) -> None:
        pass

    def at(self, _index: int) -> int:
        return 0


def describe(path: Path, name: str, flags: DescribeFlags) -> Description:
    """Without a tokenizer texts are counted in words. Raises UserError."""
    tokenizer = WORDS_RULE if flags.tokenizer is None else tokenizer_folder(flags.tokenizer)
    counter, tally, block_size = counter_for(tokenizer, "chat"), _Tally(), flags.trace_block_size
    if name in get_args(SessionFormatName):
        keys = {"format": name, "file": str(path.absolute()), "block_tokens": block_size}
        prompts = {"sessions": keys, "tokenizer": tokenizer}
        source = SessionPrompts(load("chat-multiturn").override({"prompts": prompts, "num_sessions": None}), 0, _Unsaid())
        with suppress(TraceEnded):
            for number in count():
                _add_session(tally, source.session(number), counter)
        tally.left_out = source.report.left_out
    else:
        unit_s = flags.timed_trace_sec_multiplier
        trace = Trace(format=cast(TraceFormatName, name), file=str(path), block_tokens=block_size, timestamp_unit_s=unit_s)
        sent = PrefixIndex(Prompts(trace=trace, tokenizer=tokenizer))
        for row in read_rows(path, trace):
            _add_row(tally, path, trace, row, sent, counter)
    if not tally.prompts:
        raise UserError(f"{path} has no request", "give another file")
    return tally.described(path, name, flags.time_scale, "one per word" if tokenizer == WORDS_RULE else counter.how)


def _add_session(tally: _Tally, session: Session, counter: TokenCounter) -> None:
    tally.prefixes, tally.texts = True, session.maker is None
    prompts: list[int] = []
    due_ns: list[int] = []
    for place, turn in enumerate(session.turns):
        prompts.append(counter.prompt(session.prompt(place), turn.tools) if turn.blocks is None else turn.blocks.tokens)
        inherited = 0 if turn.continues is None else prompts[turn.continues]
        tally.add(prompts[-1], turn.max_tokens, max(inherited, (turn.shared and turn.shared.tokens) or 0))
        ends_ns = [due_ns[parent] for parent in turn.parents]
        due_ns.append(turn.due_ns(0, ends_ns))
        if ends_ns:
            tally.pauses_ns.append(due_ns[-1] - max(ends_ns))
    tally.turns.append(len(prompts))
    tally.spans_ns.append(session.idle_ns())
    if session.at_ns is not None:
        tally.starts_ns.append(session.at_ns)


def _add_row(tally: _Tally, path: Path, trace: Trace, row: TraceRow, sent: PrefixIndex, counter: TokenCounter) -> None:
    tokens = row.prompt_tokens if row.messages is None else counter.prompt(row.messages)
    if row.unusable or tokens is None:
        tally.left_out += 1
        return
    size, index, tally.texts = block_tokens(trace), len(tally.prompts), row.messages is not None
    tally.prefixes = tally.prefixes or tally.texts or bool(row.hash_ids)
    if problem := misfit(len(row.hash_ids), tokens, size):
        raise bad(path, row.line, "hash_ids", problem, BLOCK_SIZE_FIX)
    answered = counter.text(row.answer) if row.output_tokens is None and row.answer is not None else row.output_tokens
    shared = sent.add_blocks(row.hash_ids, index, size, tokens) if row.messages is None else sent.add(row.messages, index)
    tally.add(tokens, answered, (shared and shared.tokens) or 0)
    if row.at_ns is not None:
        tally.starts_ns.append(row.at_ns)


def _most_open(starts_ns: Sequence[int], ends_ns: Sequence[int]) -> int | None:
    """The most at a time; None of none."""
    ends, most, ended = sorted(ends_ns), 0, 0
    for begun, start_ns in enumerate(sorted(starts_ns), start=1):
        while ends[ended] < start_ns:
            ended += 1
        most = max(most, begun - ended)
    return most or None
