"""The engine contract: everything an engine needs to know, and all it may import from this project.

An engine turns one `Request` into a stream of payloads. It never looks at a clock: it calls
`recorder.sent()` when the request leaves and `recorder.chunk(payload)` for everything that
arrives, and the recorder stamps. What a payload means is told later, off the hot path, by
`decode`. Failures are `EngineError`s of a closed set of classes; the load generator turns them
into records. Anything that keeps the engine from starting is an `EngineUnavailable`.

Engines are classes without constructor arguments, found through the entry-point group
`bytemlperf.engines` (entry-point name = the name given to `--engine`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar, get_args, get_origin

import msgspec

WeightsKind = Literal["local", "remote", "none"]
"""What `start` gets as model: a folder on this machine, a name some server knows, or nothing."""

_Connecting = Literal["name_not_found", "connection_refused", "connection_reset", "stale_connection", "client_limit", "tls"]
_Late = Literal["connect_timeout", "first_token_timeout", "idle_timeout", "total_timeout"]
_Refused = Literal["http_4xx", "http_429", "http_5xx", "redirect", "not_a_stream"]
_InStream = Literal["error_in_stream", "malformed_stream", "truncated_stream", "too_large", "content_encoding", "empty_response"]
ErrorClass = Literal[_Connecting, _Late, _Refused, _InStream, "no_token", "invalid_output", "context_length", "engine_failed"]
"""Closed: an error text or a URL never becomes a class (nor a metric label)."""

FAILED_REASONS = frozenset(
    ("abort", "aborted", "error", "cancelled", "canceled", "failed", "timeout", "server_error", "unload", "insufficient_system_resource")
)
"""Finish reasons of answers that were given up: by vLLM, SGLang, LMDeploy, OpenRouter, Ollama, DeepSeek. Such an answer failed."""


FINISH_REASONS = FAILED_REASONS.union(
    ("stop", "length", "tool_calls", "function_call", "tool_use", "content_filter", "safety", "other"),
    ("eos", "eos_token", "stop_sequence", "end_turn", "max_tokens", "model_length"),
)
"""What a finish reason may be. A server's own word is shown and exported, so any other is `other`."""


class Function(msgspec.Struct, frozen=True):
    """What is called; `arguments` is JSON as text, as a model writes it."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True, tag_field="type", tag="function"):
    """A call of a tool, as OpenAI's API has it."""

    id: str
    function: Function


class Image(msgspec.Struct, frozen=True):
    """A picture to be drawn: `width` × `height` pixels, another one for each `seed` (`engines.images`)."""

    width: int
    height: int
    seed: str


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One chat message, as OpenAI's API has it: an assistant's may call tools, a tool's says which call it answers. `images`, drawn ones
    or URLs, go before the text."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    images: tuple[Image | str, ...] = ()

    def text(self) -> str:
        """All that it says: the content, then each call's name and arguments, a line each."""
        if not self.tool_calls:
            return self.content
        calls = [f"{call.function.name} {call.function.arguments}" for call in self.tool_calls]
        return "\n".join([self.content, *calls] if self.content else calls)


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How tokens are drawn. `ignore_eos` makes every answer exactly `max_tokens` long."""

    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    ignore_eos: bool = True


class TrafficClass(msgspec.Struct, frozen=True, kw_only=True):
    """What the requests of one class have in common beside their prompts, where an engine takes it: a scheduling priority (vLLM's: a lower
    number goes first), headers of their own, and the model, or the adapter, that they name."""

    name: str
    priority: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    model: str | None = None


PLACEHOLDER = re.compile(r"\{([A-Za-z_]+)\}")
"""In a header's value: `{session}`, `{class}` or `{request}` stands for what a request has."""
_PLACEHOLDERS = ("session", "class", "request")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent: chat `messages`, a plain `prompt`, a prompt's `token_ids`, or `inputs`, exactly one of them.

    Each of `inputs` (text, or token ids) becomes a vector; with a `query`, a score. Nothing is generated then: `max_tokens` is 0.
    `index` is the place in the schedule, from 0; `id` is unique within a run. `tools` that the model may call are the JSON text of a
    list, as OpenAI's API has it; empty for none.
    """

    index: int
    id: str
    max_tokens: int
    messages: tuple[Message, ...] | None = None
    prompt: str | None = None
    token_ids: tuple[int, ...] | None = None
    inputs: tuple[str | tuple[int, ...], ...] | None = None
    query: str | None = None
    sampling: Sampling = Sampling()
    session: str | None = None
    turn: int = 0
    tools: str = ""
    traffic_class: TrafficClass | None = None

    def images(self) -> list[Image | str]:
        """Of all messages."""
        return [image for message in self.messages or () for image in message.images]

    @property
    def class_name(self) -> str | None:
        """None where there are no classes."""
        return None if self.traffic_class is None else self.traffic_class.name

    def text_length(self) -> int:
        """Characters of prompt text, calls and tools among them, roles apart; of token ids, how many."""
        if self.inputs is not None:
            return len(self.query or "") + sum(map(len, self.inputs))
        if self.messages is None:
            return len(self.prompt or self.token_ids or "")
        return len(self.tools) + sum([len(message.text() if message.tool_calls else message.content) for message in self.messages])


Ns = Annotated[int, msgspec.Meta(ge=-(1 << 62), le=(1 << 62) - 1)]
"""A stamp whose difference to any other fits a column of 64 bits; a line with another is not a record."""


class Stages(msgspec.Struct, frozen=True, kw_only=True):
    """The engine's own stamps of one request, ns of CLOCK_MONOTONIC; None where it has none."""

    queued_ns: Ns | None = None
    scheduled_ns: Ns | None = None
    first_token_ns: Ns | None = None
    last_token_ns: Ns | None = None


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts as the engine itself reports them; None where it doesn't.

    `reasoning_tokens` are a part of `output_tokens`, `cached_tokens` (found in a prefix cache) one of `prompt_tokens`,
    `accepted_draft_tokens` (speculative decoding, predicted outputs) one of `output_tokens`.
    """

    prompt_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    accepted_draft_tokens: int | None = None


class ServerFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a server says of one request beside its answer: durations by its own clock (ns, under its own names), the id that it knows the
    request by, and how many durations could not be taken."""

    durations_ns: dict[str, Ns] = {}
    request_id: str | None = None
    refused: int = 0


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """Latencies by an engine's own clock, since its start: `counts` of those up to each of `upper_s` (seconds), then of all; their sum."""

    upper_s: tuple[float, ...]
    counts: tuple[int, ...]
    sum_s: float


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine has counted since its start, as far as it counts it. `counts`: `prefix_queries`, `prefix_hits` (tokens looked up in
    the prefix cache, and found), `preemptions`, `prompt_tokens`, `output_tokens`, `requests`, `steps`, `step_tokens`, `energy_j`; of
    speculative decoding `drafts`, `draft_tokens`, `accepted_tokens`, `accepted_tokens_at_0`, `_1`, …. `latencies`: `ttft`, `itl`, `tpot`,
    `e2e`, `queue`, `prefill`, `decode`, `step`. None ever falls: where it began again, `missing` says so."""

    counts: dict[str, float] = {}
    latencies: dict[str, Histogram] = {}
    missing: tuple[str, ...] = ()


class Finish(msgspec.Struct, frozen=True, kw_only=True):
    """How an answer ended, as far as `generate` can know without parsing payloads."""

    reason: str | None = None
    usage: Usage | None = None
    stages: Stages | None = None


class Thought(msgspec.Struct, frozen=True):
    """Reasoning that a stream tells apart from the answer: the places of the payloads with its first token and with the first token of the
    answer after it (None: there was none), and how many tokens it has."""

    first: int
    answer: int | None
    tokens: int


class Decoded(msgspec.Struct, kw_only=True):
    """What the payloads of one request mean.

    `tokens_per_chunk` has one entry per payload (0 for one that carries no token: a role
    announcement, a comment, a usage event). `error_class` is set when the stream itself says
    that it failed, or can't be understood.

    Where chunks are events, not tokens, `shown_tokens` is how many tokens the events show by themselves: `tokens_per_chunk` may
    sum to more, spread by what usage reports. `hidden_tokens` of usage's output weren't streamed (reasoning). `outputs` are the vectors
    or scores of a request of inputs. `thought` is there where the stream has reasoning. `server` is what a server says of
    the request beside its answer, `server_id` the id that it gives it, as it came.
    """

    tokens_per_chunk: list[int]
    text: str
    reason: str | None = None
    usage: Usage | None = None
    shown_tokens: int | None = None
    hidden_tokens: int = 0
    thought: Thought | None = None
    outputs: int = 0
    server: ServerFacts | None = None
    server_id: str | None = None
    error_class: ErrorClass | None = None
    error_detail: str = ""


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A resolved model. `path` is a Hugging Face checkpoint folder for `weights = "local"`
    engines, None otherwise; `gguf_path` is a GGUF file of the same weights where there is one.
    `converted` is a folder in the form that the engine's `conversion` asks for. `random_weights` labels every output that the model
    produces.
    """

    name: str
    path: str | None = None
    gguf_path: str | None = None
    converted: str | None = None
    random_weights: bool = False
    max_model_len: int | None = None


Input = Literal["token_ids", "images"]
"""What else than text a request may be."""

Api = Literal["chat", "completions", "responses", "embeddings", "rerank"]
"""How an engine is asked: with a conversation, or a text; for its continuation, or for a vector or score of each input."""


class EngineInfo(msgspec.Struct, kw_only=True):
    """What a started engine says of itself; kept in run.json. `dtype` is of what was really loaded: where weights are
    stored in another type than they are multiplied in, both (`engines.loaded_weights.dtype_text`).

    `api` is how it is asked, `accepts` what a request may be besides text. `reports` names what it can report: "usage", "stages", "stats".
    `notes` are sentences that a reader of the result must see, such as "one request at a time".
    """

    name: str
    versions: dict[str, str] = {}
    device: str = ""
    dtype: str = ""
    model: str = ""
    tokenizer: str | None = None
    max_model_len: int | None = None
    api: Api = "chat"
    reports: list[str] = []
    accepts: list[Input] = []
    notes: list[str] = []


class Exchange(NamedTuple):
    """A server's answer to a question outside the measurement. Header names are lower case; `protocol` is HTTP's version, where known."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    protocol: str
    keep_alive: bool


def caught_up() -> None:
    """A recorder's `catch_up` while no thread reads for it: all that has arrived is there."""


class Recorder(Protocol):
    """The only thing that stamps time. All calls are cheap and never raise. `payloads` is what has
    arrived so far, in order, for engines that need to look back; only `chunk` adds to it.

    A transport that reads on a thread of its own sets `catch_up` while the request runs: call it before
    looking at what has arrived so far."""

    payloads: list[Any]
    catch_up: Callable[[], None]

    def sent(self) -> None:
        """The request is on its way: call right before the bytes, or the call, leave."""

    def chunk(self, payload: Any) -> None:
        """Something of the answer arrived: call first, before looking at it."""

    def lists(self) -> tuple[list[int], list[Any]] | None:
        """Where `chunk` keeps stamps and payloads, for a transport that is compiled and does just that
        with the same clock (CLOCK_MONOTONIC, ns); None where `chunk` must be called."""


class Engine(Protocol):
    """The whole interface. `generate` may run many times at once on one event loop."""

    weights: ClassVar[WeightsKind]
    options_type: ClassVar[type[msgspec.Struct]]

    async def start(self, model: Model | None, options: Mapping[str, str]) -> EngineInfo:
        """Make ready. Raises EngineUnavailable or BadOption, nothing else."""

    async def generate(self, request: Request, recorder: Recorder) -> Finish:
        """Send one request, pass on what arrives. Raises EngineError; may be cancelled."""

    def decode(self, payloads: Sequence[Any]) -> Decoded:
        """Tell what the payloads of one request mean. Never raises on bad payloads."""

    async def close(self) -> None:
        """Give everything back. May be called after a failed start."""


# Optional methods and attributes, looked up by name:
#   conversion(options) -> str | None  (static) the form that it wants a checkpoint converted to: "gguf:q8_0", "ct2", "ort-genai:int4"
#   takes: frozenset[str]         fields of a TrafficClass that it sends on
#   endpoints() -> int            how many places requests go to
#   endpoint_of(request) -> str | None  which of them it is, where there are several
#   stats() -> dict[str, float]   queue, KV-cache use, prefix hit rate, preemptions
#   async reset_cache() -> str    empties the prefix cache: by which call, "" where it could not be emptied
#   addresses() -> list[tuple[str, int]]  host and port of each server that is reached directly
#   async counted() -> dict[str, Counted]  what each server has counted, by its role; "" of the one that requests go to
#   async exchange(path, fields, headers) -> Exchange  a server's page, or its answer to a request of these fields
#   reading_ns() -> int           processor time so far of a thread that reads beside the event loop
#   secrets() -> tuple[str, ...]  strings that must never reach an output
#   spoken(payloads, text) -> Message  what of an answer continues a chat: without reasoning, with its calls; `text` is Decoded's
#   requirements() -> Availability (a static or class method) whether it could start on this machine


class Availability(msgspec.Struct, frozen=True, kw_only=True):
    """Whether an engine could start here: its versions, or what is missing and the mend."""

    versions: dict[str, str] = {}
    missing: str = ""
    fix: str = ""


def availability_of(engine: type[Engine]) -> Availability:
    """What its `requirements` say; one without any lacks nothing."""
    ask: Callable[[], Availability] = getattr(engine, "requirements", Availability)
    return ask()


class EngineError(Exception):
    """One request failed. Becomes fields of its record."""

    def __init__(self, error_class: ErrorClass, detail: str = "") -> None:
        super().__init__(f"{error_class}: {detail}")
        self.error_class = error_class
        self.detail = detail


class EngineUnavailable(Exception):
    """The engine can't start. `cause` and `fix` are one sentence each."""

    def __init__(self, cause: str, fix: str) -> None:
        super().__init__(f"{cause}; {fix}")
        self.cause = cause
        self.fix = fix


class BadOption(EngineUnavailable):
    """An `--engine-option` that the engine does not know, or a value that it can't take."""


def check_header(name: str, value: str) -> None:
    """Raises BadOption for one that can't be sent."""
    if any(control in f"{name}{value}" for control in "\r\n\0"):
        raise BadOption(f"header {name!r} has a line break in it", "give headers as NAME: VALUE")
    unknown = next((word for word in PLACEHOLDER.findall(value) if word not in _PLACEHOLDERS), None)
    if unknown is not None:
        known = ", ".join(f"{{{word}}}" for word in _PLACEHOLDERS)
        raise BadOption(f"header {name!r} has the unknown placeholder {unknown!r}", f"known are {known}")


OptionsT = TypeVar("OptionsT", bound=msgspec.Struct)


def parse_options(options: Mapping[str, str], options_type: type[OptionsT]) -> OptionsT:
    """Turn `key=value` texts into the engine's options struct.

    Raises BadOption that names the key, the nearest valid key, and the value's expected type.
    """
    fields = {field.name: field for field in msgspec.structs.fields(options_type)}
    for key, value in options.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"valid: {', '.join(sorted(fields)) or 'none'}"
            raise BadOption(f"engine option '{key}' is unknown", hint)
        try:
            msgspec.convert(value, fields[key].type, strict=False)
        except msgspec.ValidationError as error:
            choices = get_args(fields[key].type) if get_origin(fields[key].type) is Literal else ()
            fix = f"use {', '.join(choices[:-1])} or {choices[-1]}" if choices else f"give another value for {key}"
            raise BadOption(f"engine option {key}={value!r} is not usable: {error}", fix) from None
    try:
        return msgspec.convert(dict(options), options_type, strict=False)
    except msgspec.ValidationError as error:
        raise BadOption(f"engine options are incomplete: {error}", "give it as --engine-option key=value") from None
