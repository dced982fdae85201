"""The scenario file: what users do, written down once, so that any engine can be measured by it.

A scenario says what is sent (prompts, answer lengths, sampling), when (arrival), for how long, how
patient the client is (timeouts), and what counts as good (SLOs). It says nothing of engines or
models. `load` takes the name of a built-in scenario or the path of a YAML file; everything is
checked here, before anything starts. docs/scenarios.md describes every key.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, field

import scenarios
from bytemlperf import checked_yaml
from bytemlperf.checked import Checked, check, plain
from bytemlperf.errors import UserError
from bytemlperf_llm.plan.flags import CacheState
from engines.contract import BadOption, TrafficClass, check_header
from engines.credentials import SECRET_NAME
from engines.images import MAX_SIDE

BUILTIN_FOLDER = Path(scenarios.__file__).parent
MAX_TOKENS = 1 << 20
"""Upper bound of any length, tokens or words: past it a typing error is likelier than a wish."""

Process = Literal["poisson", "constant", "gamma", "closed", "at_once", "trace"]
PROCESS_WORDS: dict[Process, str] = {
    "poisson": "Poisson",
    "constant": "constant gaps",
    "gamma": "gamma gaps",
    "at_once": "all at once",
    "trace": "at the trace's own times",
}
MLPerf = Literal["server", "offline", "single_stream", "multi_stream"]
MLPERF_NAMES: dict[MLPerf, str] = {
    "server": "Server",
    "offline": "Offline",
    "single_stream": "SingleStream",
    "multi_stream": "MultiStream",
}
MLPERF_PROCESSES: dict[MLPerf, Process] = {"server": "poisson", "offline": "at_once", "single_stream": "closed", "multi_stream": "closed"}
TraceFormatName = Literal["mooncake", "azure", "burstgpt", "bailian", "timed_trace", "custom", "sharegpt"]
UNTIMED_FORMATS = ("custom", "sharegpt")
SessionFormatName = Literal[
    "sharegpt_turns", "openai_messages", "mooncake_sessions", "lmcache_agentic", "dag_jsonl",
    "weka", "tracelab", "bailian_chains", "mlperf_agentic", "otel_spans",
]  # fmt: skip
TIMED_SESSIONS = ("mooncake_sessions", "bailian_chains")
Answers = Literal["recorded", "live"]
"""What continues a conversation: the recorded answer (or one made up to its length), or the engine's own."""
Task = Literal["generate", "embed", "rerank"]
"""What becomes of a prompt: its continuation, a vector, or a score beside a query."""
Tokens = Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
Seconds = Annotated[float, Meta(gt=0, le=1e9)]
Milliseconds = Annotated[float, Meta(gt=0, le=1e12)]
HeaderName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}\Z")]
MAX_RATE = 1e6
Rate = Annotated[float, Meta(gt=0, le=MAX_RATE)]


# --- lengths ----------------------------------------------------------------------------------


class Constant(Checked, tag_field="distribution", tag="constant", frozen=True, kw_only=True):
    """Always `value`."""

    value: Tokens


class _Bounded(Checked, frozen=True, kw_only=True):
    """`min` and `max` clip: a draw outside becomes the bound."""

    min: Tokens
    max: Tokens

    def __post_init__(self) -> None:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}; swap them")


class Uniform(_Bounded, tag_field="distribution", tag="uniform", frozen=True, kw_only=True):
    """Every whole number from `min` to `max`, both included, equally often."""


class Normal(_Bounded, tag_field="distribution", tag="normal", frozen=True, kw_only=True):
    """Mean and standard deviation before clipping."""

    mean: Annotated[float, Meta(gt=0, le=MAX_TOKENS)]
    std: Annotated[float, Meta(ge=0, le=MAX_TOKENS)]


class Lognormal(_Bounded, tag_field="distribution", tag="lognormal", frozen=True, kw_only=True):
    """`mean` is the distribution's own mean before clipping: mu = ln(mean) - sigma^2 / 2."""

    mean: Annotated[float, Meta(gt=0, le=MAX_TOKENS)]
    sigma: Annotated[float, Meta(ge=0, le=5)]


class Empirical(Checked, tag_field="distribution", tag="empirical", frozen=True, kw_only=True):
    """One of `values`; `weights`, where given, say how often each, relative to the others."""

    values: Annotated[tuple[Tokens, ...], Meta(min_length=1)]
    weights: tuple[Annotated[float, Meta(ge=0, le=1e12)], ...] | None = None

    def __post_init__(self) -> None:
        if self.weights is not None and len(self.weights) != len(self.values):
            raise ValueError(f"{len(self.values)} values but {len(self.weights)} weights; give one weight for each value")
        if self.weights is not None and sum(self.weights) <= 0:
            raise ValueError("all weights are 0; give at least one above 0")


Lengths = Constant | Uniform | Normal | Lognormal | Empirical


def lengths_text(lengths: Lengths) -> str:
    """For a reader, such as "512", "100 to 200" or "lognormal 48 (σ 0.6, 8 to 128)"."""
    match lengths:
        case Constant():
            return str(lengths.value)
        case Uniform():
            return f"{lengths.min} to {lengths.max}"
        case Normal():
            return f"normal {lengths.mean:g} (σ {lengths.std:g}, {lengths.min} to {lengths.max})"
        case Lognormal():
            return f"lognormal {lengths.mean:g} (σ {lengths.sigma:g}, {lengths.min} to {lengths.max})"
        case Empirical():
            weights = lengths.weights or (1.0,) * len(lengths.values)
            mean = sum(map(operator.mul, lengths.values, weights)) / sum(weights)
            return f"one of {len(lengths.values)} lengths, mean {mean:.4g},"


# --- the parts of a scenario ------------------------------------------------------------------


class Synthetic(Checked, frozen=True, kw_only=True):
    """Made-up prompts of common English words; no two alike but for a shared start of `prefix_tokens`.

    `words` counts words, about one token each; `tokens` counts the whole prompt's tokens, template
    included, exactly where the tokenizer is known."""

    words: Lengths | None = None
    tokens: Lengths | None = None
    prefix_tokens: Annotated[int, Meta(ge=0, le=MAX_TOKENS)] = 0

    def __post_init__(self) -> None:
        if (self.words is None) == (self.tokens is None):
            raise ValueError("exactly one of words and tokens is needed; give tokens: {distribution: constant, value: 512}, for example")
        if self.prefix_tokens and self.tokens is None:
            raise ValueError("prefix_tokens needs tokens; give tokens in place of words")


class Trace(Checked, frozen=True, kw_only=True):
    """Requests that were recorded: `file`, relative to the scenario file, is read line by line.

    `window_s` takes the rows from its start to before its end (null: the trace's end), in the trace's
    own seconds since its first row. Their times are then multiplied by `time_scale`."""

    format: TraceFormatName
    file: Annotated[str, Meta(min_length=1)]
    window_s: tuple[Annotated[float, Meta(ge=0, le=1e12)], Annotated[float, Meta(gt=0, le=1e12)] | None] | None = None
    time_scale: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    timestamp_unit_s: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    block_tokens: Tokens | None = None
    max_model_len: Tokens | None = None
    on_too_long: Literal["skip", "truncate", "fail"] = "fail"
    own_output_tokens: bool = True

    @property
    def timed(self) -> bool:
        """Whether rows of this format say when they came."""
        return self.format not in UNTIMED_FORMATS

    def __post_init__(self) -> None:
        if self.window_s is not None and not self.timed:
            raise ValueError(f"a trace of format {self.format} has no times, so window_s means nothing; remove it")
        if self.window_s is not None and self.window_s[1] is not None and self.window_s[0] >= self.window_s[1]:
            raise ValueError(f"window_s starts at {self.window_s[0]:g} and ends at {self.window_s[1]:g}; swap them")
        if self.timestamp_unit_s != 1.0 and self.format != "timed_trace":
            raise ValueError(f"format {self.format} says itself what its times are; remove timestamp_unit_s, or use timed_trace")


class Documents(Checked, frozen=True, kw_only=True):
    """A pool of `count` made-up documents of `words`. Document k is asked about in proportion to 1/k^`zipf`; 0: all equally often."""

    count: Annotated[int, Meta(ge=1, le=100_000)]
    words: Lengths
    zipf: Annotated[float, Meta(ge=0, le=5)] = 1.0

    def sentence(self) -> str:
        """In a few words."""
        return f"on one of {self.count} documents of {lengths_text(self.words)} words, Zipf {self.zipf:g}"


class SyntheticAgent(Checked, frozen=True, kw_only=True):
    """Made-up work for a question: so many `calls` of tools, each of `tool_ms` and with a result of `result_words`. So many `subagents`
    work before, at the same time, each for a brief of `result_words` and with calls of its own."""

    calls: Lengths
    result_words: Lengths
    tool_ms: Lengths
    subagents: Lengths | None = None


class SyntheticSessions(Checked, frozen=True, kw_only=True):
    """Made-up conversations: `turns` each, questions of `words`, behind a system prompt of `system_words` that all share and one of the
    `documents`; with an `agent`, which works for each question."""

    turns: Lengths
    words: Lengths
    system_words: Annotated[int, Meta(ge=0, le=MAX_TOKENS)] = 0
    documents: Documents | None = None
    agent: SyntheticAgent | None = None


class Sessions(Checked, frozen=True, kw_only=True):
    """Conversations whose turns build on each other: `synthetic`, or those of a `file`, relative to the scenario file.

    `think_ms` passes between an answer and the next turn where the file has no delay; `time_scale` multiplies the file's times, and
    no delay is then longer than `max_delay_ms`. A conversation has at most `max_subagents` in flight at once."""

    synthetic: SyntheticSessions | None = None
    format: SessionFormatName | None = None
    file: Annotated[str, Meta(min_length=1)] | None = None
    think_ms: Lengths | None = None
    time_scale: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    max_delay_ms: Milliseconds | None = None
    max_subagents: Annotated[int, Meta(ge=1)] | None = None
    answers: Answers = "recorded"
    block_tokens: Tokens | None = None
    max_model_len: Tokens | None = None
    on_too_long: Literal["skip", "truncate", "fail"] = "fail"

    def __post_init__(self) -> None:
        if (self.synthetic is None) == (self.file is None) or (self.file is None) != (self.format is None):
            raise ValueError("either synthetic or both format and file are needed; give format: openai_messages and file, for example")

    def sentence(self) -> str:
        """What the sessions are, in a few words."""
        think = f", think time {lengths_text(self.think_ms)} ms" if self.think_ms else ""
        scale = "" if self.time_scale == 1.0 else f", times × {self.time_scale:g}"
        if self.synthetic is None:
            return f"{self.format} {Path(self.file or '').name}{scale}{think}, {self.answers} answers"
        made = self.synthetic
        shared = f" behind {made.system_words} shared" if made.system_words else ""
        turns, words = lengths_text(made.turns), lengths_text(made.words)
        about = f" {made.documents.sentence()}" if made.documents else ""
        agent = f", {lengths_text(made.agent.calls)} tool calls for each" if made.agent else ""
        return f"sessions of {turns} turns, {words} words each{shared}{about}{agent}{think}, {self.answers} answers"


class Images(Checked, frozen=True, kw_only=True):
    """Pictures in every request, before its text: `count` of `width` × `height` pixels, drawn, no two alike."""

    width: Annotated[int, Meta(ge=1, le=MAX_SIDE)]
    height: Annotated[int, Meta(ge=1, le=MAX_SIDE)]
    count: Annotated[int, Meta(ge=1, le=256)] = 1

    def sentence(self) -> str:
        """Such as "1 image of 512 × 512"."""
        return f"{self.count} image{'s' * (self.count > 1)} of {self.width} × {self.height}"


class Prompts(Checked, frozen=True, kw_only=True):
    """JSONL `files`, relative to the scenario file, or `synthetic` ones, or those of a `trace`, or `sessions`.

    `tokenizer`, `template`, `task` and `salt` belong to what is measured, not to the load: the run fills them in.
    The first two say by which rule prompt tokens are counted (a folder with tokenizer.json, or `words`), the third what becomes of
    prompts; the salt begins every prompt of a run that is cold by it, and is not in the schedule's hash."""

    files: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    synthetic: Synthetic | None = None
    trace: Trace | None = None
    sessions: Sessions | None = None
    tokenizer: Annotated[str, Meta(min_length=1)] | None = None
    template: Literal["chat", "plain"] = "chat"
    salt: Annotated[str, Meta(pattern=r"^[0-9a-f]{8}\Z")] | None = None
    task: Task = "generate"
    token_ids: bool = False
    """Prompts are sent as token ids: made-up ones are drawn as such, text goes through the tokenizer."""
    batch_size: Annotated[int, Meta(ge=1, le=1 << 16)] = 1
    """Inputs of one request, where each becomes a vector or, beside a query, a score."""
    images: Images | None = None
    drawn: Annotated[int, Meta(ge=1)] | None = None
    """Each request draws one of the first so many prompts, with replacement, and has a salt of its own before the user's text."""

    def __post_init__(self) -> None:
        if self.drawn is not None and (self.trace is not None or self.sessions is not None):
            raise ValueError("drawn is for prompts of files and synthetic ones; leave it out")
        if self.token_ids and (self.drawn is not None or self.sessions is not None):
            raise ValueError("token_ids are of single requests without a salt; leave out drawn and sessions, or token_ids")
        if self.images is not None and (self.token_ids or self.sessions is not None):
            raise ValueError("images are of single requests in words; leave out sessions and token_ids, or images")
        if self.batch_size > 1 and self.files is None and self.synthetic is None:
            raise ValueError("batch_size is for prompts of files and synthetic ones; leave it out")
        if sum(each is not None for each in (self.files, self.synthetic, self.trace, self.sessions)) != 1:
            raise ValueError("exactly one of files, synthetic, trace and sessions is needed; give files: [prompts.jsonl], for example")

    def sentence(self) -> str:
        """Lengths of made-up prompts or which part of which trace (nothing for files, for which the scenario's name stands), and images."""
        return ", ".join(filter(None, (self._text_sentence(), self.images.sentence() if self.images else "")))

    def _text_sentence(self) -> str:
        what = {"generate": "", "embed": "inputs", "rerank": "documents and a query"}[self.task]
        batch = f", {self.batch_size} {what} a request" if what and self.batch_size > 1 else ""
        if self.synthetic is not None:
            lengths, counted = (self.synthetic.tokens, "tokens") if self.synthetic.tokens else (self.synthetic.words, "words")
            shared = f" ({self.synthetic.prefix_tokens} of them shared)" if self.synthetic.prefix_tokens else ""
            return f"{lengths_text(lengths)} {counted} in{shared}{batch}" if lengths else ""
        if self.sessions is not None:
            return self.sessions.sentence()
        if self.trace is None:
            return batch.removeprefix(", ")
        start, end = self.trace.window_s or (None, None)
        window = "" if start is None else f", from {start:g} s" + ("" if end is None else f" to {end:g} s")
        scale = "" if self.trace.time_scale == 1.0 else f", times × {self.trace.time_scale:g}"
        return f"{self.trace.format} trace {Path(self.trace.file).name}{window}{scale}"


class Ramp(Checked, frozen=True, kw_only=True):
    """The rate goes from `start_rate` to `end_rate` (requests/s) over the whole run."""

    strategy: Literal["linear", "exponential"]
    start_rate: Rate
    end_rate: Rate


class Arrival(Checked, frozen=True, kw_only=True):
    """When requests are sent. `closed` keeps `max_concurrency` in flight; the others are open loop,
    where `max_concurrency` is a cap whose waiting counts in the latency."""

    process: Process
    rate: float | Literal["auto"] | None = None
    burstiness: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    ramp: Ramp | None = None
    max_concurrency: Annotated[int, Meta(ge=1)] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.rate, float) and not 0 < self.rate <= MAX_RATE:
            raise ValueError(f"{self.rate:g} is not a rate; give requests per second, a number above 0, or auto")
        timed = self.process in ("poisson", "constant", "gamma")
        if timed and (self.rate is None) == (self.ramp is None):
            raise ValueError(f"process {self.process} needs either rate or ramp; give rate: auto, or requests per second")
        if not timed and (self.rate is not None or self.ramp is not None):
            raise ValueError(f"process {self.process} has no rate; remove rate and ramp, or use poisson, constant or gamma")
        if self.process != "gamma" and self.burstiness != 1.0:
            raise ValueError(f"burstiness means nothing to process {self.process}; use process: gamma")
        if self.process == "closed" and self.max_concurrency is None:
            raise ValueError("process closed needs max_concurrency; give the number of requests to keep in flight")

    def sentence(self, *, sessions: bool = False) -> str:
        """The load in a few words, such as "Poisson, 1.91 req/s, at most 10 in flight"; of sessions, "closed loop, 8 users"."""
        unit = "sessions/s" if sessions else "req/s"
        if self.process == "closed":
            return f"closed loop, {self.max_concurrency} {'users' if sessions else 'in flight'}"
        words = PROCESS_WORDS[self.process]
        if self.process == "gamma":
            words += f" of burstiness {self.burstiness:g}"
        if self.ramp is not None:
            words += f", {self.ramp.strategy} ramp from {self.ramp.start_rate:g} to {self.ramp.end_rate:g} {unit}"
        elif self.rate is not None:
            words += ", rate auto" if self.rate == "auto" else f", {_rate_text(self.rate)} {unit}"
        return words + (f", at most {self.max_concurrency} in flight" if self.max_concurrency else "")


def _rate_text(rate: float) -> str:
    return f"{rate:.4g}" if rate < 1000 else f"{rate:,.0f}"


class Auto(Checked, frozen=True, kw_only=True):
    """For `rate: auto`: probe the engine for `probe_s` at most, then offer `share` of what it carried."""

    share: Annotated[float, Meta(gt=0, le=2)] = 0.7
    probe_s: Seconds = 30.0


class Slo(Checked, frozen=True, kw_only=True):
    """Service levels that a request must meet to count as goodput, and `session_ms` a whole session; null means not asked for."""

    ttft_ms: Milliseconds | None = None
    tpot_ms: Milliseconds | None = None
    e2e_ms: Milliseconds | None = None
    session_ms: Milliseconds | None = None


class ClassKeys(Checked, frozen=True, kw_only=True):
    """A class of requests: its `share` of all, relative to the others', and what it has of its own in place of the scenario's prompts,
    lengths and service levels; null is the scenario's. `priority`, `headers` and `model` go with its requests."""

    share: Annotated[float, Meta(gt=0, le=1e6)]
    prompts: Prompts | None = None
    output_tokens: Lengths | None = None
    slo: Slo | None = None
    priority: Annotated[int, Meta(ge=-(2**31), lt=2**31)] | None = None
    headers: dict[HeaderName, str] = field(default_factory=dict)
    model: Annotated[str, Meta(min_length=1, max_length=200)] | None = None

    def __post_init__(self) -> None:
        for name, value in self.headers.items():
            if SECRET_NAME.search(name):
                raise ValueError(f"header {name} is a secret, and a scenario is stored with its results; give it with --header")
            try:
                check_header(name, value)
            except BadOption as error:
                raise ValueError(str(error)) from None

    def traffic_class(self, name: str) -> TrafficClass:
        """What goes with its requests."""
        return TrafficClass(name=name, priority=self.priority, headers=tuple(self.headers.items()), model=self.model)


ClassName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}\Z")]


class SamplingKeys(Checked, frozen=True, kw_only=True):
    """How tokens are drawn; null leaves a setting to the engine."""

    temperature: Annotated[float, Meta(ge=0, le=10)] = 0.0
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=1)] | None = None
    seed: int | None = None
    ignore_eos: bool = True


class Timeouts(Checked, frozen=True, kw_only=True):
    """A request that exceeds one of them is a failure of that class."""

    connect_s: Seconds = 10.0
    first_token_s: Seconds = 120.0
    idle_s: Seconds = 60.0
    total_s: Seconds = 600.0


class Scenario(Checked, dict=True, frozen=True, kw_only=True):
    """A whole scenario file."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z")]
    description: Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\r\n]*\Z")]
    prompts: Prompts
    output_tokens: Lengths
    classes: dict[ClassName, ClassKeys] = field(default_factory=dict)
    arrival: Arrival
    auto: Auto = Auto()
    num_requests: Annotated[int, Meta(ge=1)] | None = None
    num_sessions: Annotated[int, Meta(ge=1)] | None = None
    duration_s: Seconds | None = None
    warmup_requests: Annotated[int, Meta(ge=0)] = 4
    cache: CacheState = "as-is"
    slo: Slo = Slo()
    sampling: SamplingKeys = SamplingKeys()
    timeouts: Timeouts = Timeouts()
    drain_s: Annotated[float, Meta(ge=0, le=1e9)] = 30.0
    mlperf: MLPerf | None = None

    @property
    def folder(self) -> Path:
        """Where relative prompt files are looked for: the folder of the scenario file, which is no part of it."""
        return Path(self.__dict__.get("folder", ""))

    def in_folder(self, folder: Path) -> Scenario:
        """The scenario, with its files looked for there."""
        self.__dict__["folder"] = folder
        return self

    @property
    def arrivals(self) -> int | None:
        """How many requests arrive, or sessions where there are some; None where something else ends the run."""
        return self.num_requests if self.prompts.sessions is None else self.num_sessions

    def __post_init__(self) -> None:
        unbounded = self.arrivals is None and self.duration_s is None
        trace, sessions = self.prompts.trace, self.prompts.sessions
        self._check_sessions()
        if unbounded and (trace is None or self.mixes_prompts) and (sessions is None or sessions.file is None):
            raise ValueError(f"nothing ends the run; give num_{'sessions' if sessions else 'requests'}, duration_s, or both")
        if unbounded and self.arrival.ramp is not None:
            raise ValueError("a ramp goes over num_requests or duration_s; give one of them")
        if self.arrival.process == "at_once" and self.arrivals is None and (trace is None or self.mixes_prompts):
            raise ValueError("process at_once needs num_requests; give the number of requests to send")
        timed = sessions.format in TIMED_SESSIONS if sessions else trace is not None and trace.timed
        if self.arrival.process == "trace" and not timed:
            raise ValueError("process trace needs prompts.trace of a format with times; use poisson with a rate")
        if self.mlperf is not None and self.arrival.process != MLPERF_PROCESSES[self.mlperf]:
            process = MLPERF_PROCESSES[self.mlperf]
            raise ValueError(f"mlperf: {self.mlperf} is process {process}, not {self.arrival.process}; give mlperf: null, or that process")
        self._check_classes()
        if self.mlperf == "single_stream" and self.arrival.max_concurrency != 1:
            raise ValueError("mlperf: single_stream sends one request after another; give max_concurrency: 1")

    def _check_sessions(self) -> None:
        """Raises ValueError for keys that go with sessions alone, or not with them."""
        if self.prompts.sessions is None:
            if self.num_sessions is not None or self.slo.session_ms is not None:
                raise ValueError("num_sessions and slo.session_ms need prompts.sessions; use num_requests and slo.e2e_ms")
            return
        if self.num_requests is not None:
            raise ValueError("num_requests would cut a session; give num_sessions")

    def _check_classes(self) -> None:
        """Raises ValueError for what doesn't go with classes."""
        if not self.classes:
            return
        if self.mlperf is not None:
            raise ValueError("mlperf judges requests of one kind; leave out classes, or give mlperf: null")
        for name, keys in self.classes.items():
            own = keys.prompts
            if own is not None and own.sessions is not None:
                raise ValueError(f"classes.{name}.prompts: sessions are the scenario's own, of all classes; give them as its prompts")
            if self.prompts.sessions is not None and own is None and keys.output_tokens is not None:
                raise ValueError(f"classes.{name}: classes of sessions share output_tokens; leave them out, or give the class prompts")
            if self.prompts.sessions is not None and own is not None and own.token_ids:
                raise ValueError(f"classes.{name}.prompts: token ids don't go with sessions; leave them out")
            if keys.slo is not None and keys.slo.session_ms is not None:
                raise ValueError(f"classes.{name}.slo: session_ms is of all sessions; give it in the scenario's slo")
            if self.arrival.process == "trace" and own is not None:
                raise ValueError(
                    f"classes.{name}.prompts: process trace sends at the times of the scenario's own trace; use poisson with a rate"
                )

    @property
    def mixes_prompts(self) -> bool:
        """Whether a class has prompts of its own."""
        return any(keys.prompts is not None for keys in self.classes.values())

    def all_prompts(self) -> dict[str, Prompts]:
        """By key: the scenario's, and those that classes have of their own."""
        own = {f"classes.{name}.prompts": keys.prompts for name, keys in self.classes.items() if keys.prompts is not None}
        return {"prompts": self.prompts, **own}

    def override(self, changes: Mapping[str, Any]) -> Scenario:
        """A copy with other values, checked as a whole; `self` stays as it is.

        Keys are dotted ("arrival.rate"); a value replaces the whole subtree. None means null.
        Raises UserError that names the key.
        """
        data = plain(self)
        for key, value in changes.items():
            *parents, last = key.split(".")
            target = data
            for parent in parents:
                if not isinstance(target.get(parent), dict):
                    target[parent] = {}
                target = target[parent]
            target[last] = value
        return check(data, Scenario, lambda _: f"scenario {self.name}").in_folder(self.folder)


# --- finding one ------------------------------------------------------------------------------


def builtin() -> list[Scenario]:
    """All built-in scenarios, by name."""
    return [_load_file(path, path.name) for path in sorted(BUILTIN_FOLDER.glob("*.yaml"), key=lambda path: path.stem)]


def load(name_or_path: str) -> Scenario:
    """The built-in scenario of that name, or else the YAML file at that path. Raises UserError."""
    names = sorted(path.stem for path in BUILTIN_FOLDER.glob("*.yaml"))
    if name_or_path in names:
        return _load_file(BUILTIN_FOLDER / f"{name_or_path}.yaml", f"{name_or_path}.yaml")
    path = Path(name_or_path)
    if path.exists() or path.suffix in (".yaml", ".yml") or "/" in name_or_path:
        return _load_file(path, name_or_path)
    near = difflib.get_close_matches(name_or_path, names, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"built in: {', '.join(names)}."
    raise UserError(f"there is no scenario {name_or_path!r}", f"{hint} A path to a YAML file works too")


def _load_file(path: Path, shown_as: str) -> Scenario:
    return checked_yaml.load(path, Scenario, shown_as=shown_as).in_folder(path.parent)


def scenario_of(run: dict[str, Any]) -> Scenario:
    """The scenario as it was resolved for the run. Raises UserError where run.json doesn't hold it."""
    config = run.get("config")
    content = config.get("scenario") if isinstance(config, dict) else None
    if not isinstance(content, dict):
        raise UserError("run.json holds no scenario", "it was damaged; run again")
    scenario = check(content, Scenario, lambda _: "run.json, scenario")
    folder = str(config.get("scenario_folder", BUILTIN)) if isinstance(config, dict) else BUILTIN
    return scenario.in_folder(BUILTIN_FOLDER if folder == BUILTIN else Path(folder))


def seed_of(run: dict[str, Any]) -> int:
    """The run's seed. Raises UserError where run.json doesn't hold it."""
    seed = run.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise UserError(f"run.json holds no seed but {seed!r}", "it was damaged; run again")
    return seed


BUILTIN = "built in"


def folder_of(scenario: Scenario) -> str:
    """Where its prompt files lie; the package's own folder has another path on another machine."""
    return BUILTIN if scenario.folder == BUILTIN_FOLDER else str(scenario.folder.absolute())
