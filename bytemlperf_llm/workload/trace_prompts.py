"""From a trace's rows to the requests of a run: window, scale, context length, text.

Rows are read once, forward, and dropped; asking for an earlier request reads the file anew. So a
trace of any length takes the memory of one row. What was left out or changed is counted in
`TraceReport`, which goes into run.json and is printed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.report.text import counted
from bytemlperf.units import NS_PER_S
from bytemlperf_llm.plan.scenario import Prompts, Trace
from bytemlperf_llm.workload.data_files import bad
from bytemlperf_llm.workload.lengths import LengthSeries
from bytemlperf_llm.workload.prefixes import Prefix, PrefixIndex
from bytemlperf_llm.workload.prompts import Prompt, prompt_of
from bytemlperf_llm.workload.token_counter import counter_for, cut
from bytemlperf_llm.workload.token_ids import maker_of
from bytemlperf_llm.workload.traces import block_tokens, read_rows
from bytemlperf_llm.workload.traces.rows import BLOCK_SIZE_FIX, TraceRow, misfit
from engines.contract import Message

ItemT = TypeVar("ItemT")


class TraceEnded(LookupError):
    """The trace has fewer requests than that."""


class TraceReport(msgspec.Struct, kw_only=True):
    """What became of a trace's rows, as far as the run reads it. `requests` is what is sent;
    `truncated` and `lengthened` are among them (lengthened: the template alone is longer than the
    row's prompt). Rows before the window, `too_long` ones that were skipped, those that ask for no
    tokens or hold no prompt (`empty`) and those that aren't of the form (`unusable`) are left out."""

    format: str
    file: str
    rows: int = 0
    requests: int = 0
    before_window: int = 0
    too_long: int = 0
    truncated: int = 0
    lengthened: int = 0
    empty: int = 0
    unusable: int = 0
    first_unusable: str = ""
    max_model_len: int | None = None
    on_too_long: str = "fail"
    lengths: str = ""
    lengths_exact: bool = True

    def sentences(self) -> list[str]:
        """For the terminal."""
        head = f"trace {Path(self.file).name} ({self.format}): {counted(self.requests, 'request')}; prompt lengths {self.lengths}"
        limit = f"{self.max_model_len} tokens of context"
        counts = [
            (self.too_long, f"left out: longer than {limit}"),
            (self.truncated, f"cut to fit {limit}"),
            (self.lengthened, "longer than in the trace: the chat template alone has more tokens"),
            (self.empty, "left out: no prompt, or no output token requested"),
            (self.unusable, f"left out: wrong format; the first is {self.first_unusable}"),
        ]
        return [head, *(f"{count} of {self.rows} trace rows {what}" for count, what in counts if count)]


class _Kept(NamedTuple):
    """A row that is sent: request `index`, due at `offset_ns` where the trace has times."""

    row: TraceRow
    offset_ns: int | None
    prompt_tokens: int
    output_tokens: int
    messages: tuple[Message, ...] | None


class TracePrompts:
    """A trace as a source of prompts, which ends, or begins again after its last row (`rounds`). Opens the file and reads its first row:
    may raise UserError."""

    count = None

    def __init__(self, prompts: Prompts, folder: Path, seed: int, lengths: LengthSeries, *, rounds: bool = False) -> None:
        assert prompts.trace is not None
        self._rounds = rounds
        self._trace, self._path = prompts.trace, folder / prompts.trace.file
        self._counter = counter_for(prompts.tokenizer, prompts.template)
        self._plain = prompts.template == "plain"
        self._maker = maker_of(prompts, seed, block_tokens(prompts.trace))
        self._lengths, self._prompts = lengths, prompts
        self.report = self._new_report()
        self._measured = Cursor(self._rows_measured)
        self._shared = Cursor(self._rows_shared)
        self._aside = Cursor(lambda: self._kept(self._new_report()))
        rows = read_rows(self._path, self._trace)
        first = next(rows, None)
        if first is None or (first.unusable and all(row.unusable for row in rows)):
            which = f": {first.unusable}" if first else ""
            raise UserError(f"trace {self._path} has no request{which}", "give another file with --dataset-path")

    @property
    def lengths(self) -> str:
        """Whether prompt lengths are exact or estimated, and by which rule."""
        return self._maker.lengths

    def at(self, index: int) -> Prompt:
        """Raises TraceEnded, and UserError for a line that can't be used."""
        kept = self._measured.at_round(index) if self._rounds else self._measured.at(index)
        if kept.messages is None:
            return self._made(kept, f"line/{kept.row.line}", kept.prompt_tokens, self._hash_ids(kept.row))
        if self._plain and len(kept.messages) == 1:
            return self._prompt(kept, Prompt(prompt=kept.messages[0].content))
        return self._prompt(kept, Prompt(messages=kept.messages))

    def aside(self, index: int) -> Prompt:
        """As long as request `index`, in other words, so that no cache is warmed. Begins again at the trace's end."""
        kept = self._aside.at_round(index)
        tokens = kept.prompt_tokens if kept.messages is None else self._counter.prompt(kept.messages)
        return self._made(kept, f"aside/{index}", tokens)

    def prefix(self, index: int) -> Prefix | None:
        """What of the prompt was in an earlier one; all of it in a later round."""
        try:
            return self._shared.at(index)[0]
        except TraceEnded:
            if not self._rounds:
                raise
            return Prefix(None, whole=True)

    def offset_ns(self, index: int) -> int:
        """When the trace has request `index` due, ns from the window's start, scaled. Raises TraceEnded."""
        offset_ns = self._measured.at(index).offset_ns
        assert offset_ns is not None
        return offset_ns

    def _made(self, kept: _Kept, name: str, tokens: int, hash_ids: tuple[int, ...] = ()) -> Prompt:
        return self._prompt(kept, prompt_of(self._maker.prompt(name, tokens, hash_ids), plain=self._plain))

    def _prompt(self, kept: _Kept, prompt: Prompt) -> Prompt:
        return msgspec.structs.replace(prompt, output_tokens=kept.output_tokens, session=kept.row.session)

    # -- which rows ------------------------------------------------------------------

    def _new_report(self) -> TraceReport:
        trace = self._trace
        return TraceReport(
            format=trace.format,
            file=str(self._path),
            max_model_len=trace.max_model_len,
            on_too_long=trace.on_too_long,
            lengths=self._maker.lengths,
            lengths_exact=self._counter.exact,
        )

    def _rows_measured(self) -> Iterator[_Kept]:
        report = self._new_report()
        if not (self._rounds and self.report.rows):  # that of the first round
            self.report = report
        return self._kept(report)

    def _rows_shared(self) -> Iterator[tuple[Prefix | None]]:
        sent, size = PrefixIndex(self._prompts), block_tokens(self._trace)
        for index, kept in enumerate(self._kept(self._new_report())):
            if kept.messages is None:
                yield (sent.add_blocks(kept.row.hash_ids, index, size, kept.prompt_tokens),)
            else:
                yield (sent.add(kept.messages, index),)

    def _kept(self, report: TraceReport) -> Iterator[_Kept]:
        """The rows that are sent, in order; `report` counts along."""
        for row, offset_ns in _in_window(self._path, self._trace, report):
            if row.unusable:
                report.unusable += 1
                report.first_unusable = report.first_unusable or row.unusable
                continue
            messages = row.messages
            output_tokens = self._output_tokens(row, report.requests)
            empty = row.prompt_tokens == 0 if messages is None else not any(message.content.strip() for message in messages)
            if empty or output_tokens == 0 or (messages is None and row.prompt_tokens is None):
                report.empty += 1
                continue
            kept = self._fitted(_Kept(row, offset_ns, self._prompt_tokens(row, report), output_tokens, messages), report)
            if kept is not None:
                report.requests += 1
                yield kept

    def _output_tokens(self, row: TraceRow, index: int) -> int:
        if self._trace.own_output_tokens:
            if row.output_tokens is not None:
                return row.output_tokens
            if row.answer is not None:
                return self._counter.text(row.answer)
        return 0 if row.output_tokens == 0 else self._lengths.at(index)

    def _prompt_tokens(self, row: TraceRow, report: TraceReport) -> int:
        """Of a text, only where a limit asks for it: counting costs time."""
        if row.messages is not None:
            return 0 if self._trace.max_model_len is None else self._counter.prompt(row.messages)
        assert row.prompt_tokens is not None
        if row.prompt_tokens >= self._maker.minimum:
            return row.prompt_tokens
        report.lengthened += 1
        return self._maker.minimum

    def _fitted(self, kept: _Kept, report: TraceReport) -> _Kept | None:
        """The row as it fits the context; None when it is left out. Raises UserError."""
        most, needed = self._trace.max_model_len, kept.prompt_tokens + kept.output_tokens
        if most is None or needed <= most:
            return kept
        if self._trace.on_too_long == "fail":
            raise bad(
                self._path,
                kept.row.line,
                "request",
                f"needs {needed} tokens of context ({kept.prompt_tokens} prompt + {kept.output_tokens} output) and there are {most}",
                "--on-too-long skip leaves such requests out, truncate shortens them",
            )
        if self._trace.on_too_long == "skip":
            report.too_long += 1
            return None
        report.truncated += 1
        return self._truncated(kept, most)

    def _truncated(self, kept: _Kept, most: int) -> _Kept:
        """The prompt loses its end; the answer is shortened only where it alone leaves no room for one."""
        least = self._maker.minimum
        if most <= least:
            raise UserError(f"a context of {most} tokens holds no prompt: the template alone has {least}", "give a larger --max-model-len")
        output_tokens = min(kept.output_tokens, most - least)
        prompt_tokens = most - output_tokens
        messages = kept.messages
        if messages is not None:
            messages = cut(self._counter, messages, prompt_tokens)
            prompt_tokens = self._counter.prompt(messages)
        return kept._replace(prompt_tokens=min(kept.prompt_tokens, prompt_tokens), output_tokens=output_tokens, messages=messages)

    def _hash_ids(self, row: TraceRow) -> tuple[int, ...]:
        """The row's block ids. Raises UserError when there are not as many as its length asks for."""
        assert row.prompt_tokens is not None
        problem = misfit(len(row.hash_ids), row.prompt_tokens, block_tokens(self._trace))
        if problem:
            raise bad(self._path, row.line, "hash_ids", problem, BLOCK_SIZE_FIX)
        return row.hash_ids


def _in_window(path: Path, trace: Trace, report: TraceReport) -> Iterator[tuple[TraceRow, int | None]]:
    """(row, scaled ns from the window's start) of the rows in the window. Raises UserError where time goes back."""
    start_s, end_s = trace.window_s or (0.0, None)
    start_ns = _exact_ns(start_s)
    end_ns = None if end_s is None else _exact_ns(end_s)
    scale = Fraction(repr(trace.time_scale))
    first_ns: int | None = None
    before_ns = 0
    for row in read_rows(path, trace):
        if row.at_ns is None:
            report.rows += 1
            yield row, None
            continue
        first_ns = row.at_ns if first_ns is None else first_ns
        if row.at_ns < max(before_ns, first_ns):
            raise bad(path, row.line, "timestamp", "earlier than the line before", "sort the trace by time")
        before_ns = row.at_ns
        offset_ns = row.at_ns - first_ns
        if end_ns is not None and offset_ns >= end_ns:
            return
        report.rows += 1
        if offset_ns < start_ns:
            report.before_window += 1
            continue
        yield row, round((offset_ns - start_ns) * scale)


def _exact_ns(seconds: float) -> int:
    """The decimal number that is written, in ns."""
    return round(Fraction(repr(float(seconds))) * NS_PER_S)


class Cursor(Generic[ItemT]):
    """Item `index` of an iterator that can be made anew; keeps one item."""

    def __init__(self, make: Callable[[], Iterator[ItemT]]) -> None:
        self._make = make
        self._items: Iterator[ItemT] = iter(())
        self._at: int | None = None
        self._item: ItemT | None = None
        self._length: int | None = None

    def at(self, index: int) -> ItemT:
        """Raises TraceEnded past the last item."""
        if self._length is not None and index >= self._length:
            raise TraceEnded
        if self._at is None or index < self._at:
            self._items, self._at, self._item = self._make(), -1, None
        while self._at < index:
            item = next(self._items, None)
            if item is None:
                self._length, self._at = self._at + 1, None
                raise TraceEnded
            self._item, self._at = item, self._at + 1
        assert self._item is not None
        return self._item

    def at_round(self, index: int) -> ItemT:
        """The same, beginning again after the last item."""
        try:
            return self.at(index if self._length is None else index % max(1, self._length))
        except TraceEnded:
            return self.at(index % max(1, self._length or 1))
