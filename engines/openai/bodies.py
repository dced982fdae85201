"""The JSON bodies of requests: what differs between them is put between parts that are encoded once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial

import msgspec

from engines.chat import folded
from engines.contract import Api, BadOption, Message, Request, Sampling, TrafficClass
from engines.images import url_of
from engines.untrusted import decode_json

LIMIT_FIELDS: dict[Api, str] = {"chat": "max_tokens", "completions": "max_tokens", "responses": "max_output_tokens"}
"""The name of the longest answer allowed; chat has another one too (`advice.CHAT_LIMITS`)."""

SCENARIO_FIELDS = frozenset(("messages", "prompt", "max_tokens", "stream", "input", "query", "documents", "texts", "top_n"))
CACHED_PROMPT_CHARS = 4096  # longer ones are encoded each time, so that the cache stays under some megabytes

_SEVERAL = "which makes several responses of one request"
OTHER_TOKENS = {
    **dict.fromkeys(("n", "best_of", "use_beam_search", "num_beams", "beam_width", "num_return_sequences"), _SEVERAL),
    "echo": "which makes the prompt part of the response",
}
"""Fields of a body by which the tokens of a stream are not those of one answer."""


class Bodies:
    """The bodies of one endpoint. `limit_field` is under which name the longest answer goes, `documents_field` under which the inputs of a
    rerank do; `extra` are fields of the user's own."""

    def __init__(self, api: Api, model: str, extra: Mapping[str, object], *, usage: bool, limit_field: str, documents_field: str) -> None:
        self._api, self._model, self._extra, self._usage = api, model, extra, usage
        self._tools = api in ("chat", "responses") and "tools" not in extra
        self._rests: dict[object, bytes] = {}
        self._sent_fields: set[str] = set()
        self._key, self._encode = _ENCODERS[api]
        if api == "rerank":
            self._encode = partial(_encode_pairs, b',"%b":' % documents_field.encode())
        self.limit_by(limit_field)

    def limit_by(self, field: str) -> None:
        """The longest answer goes by this name; by none where the user's own body has one."""
        self.limit_field = field
        own = self._extra.keys() & {"max_completion_tokens", "max_output_tokens"}
        self._limit = b"" if own or not field else b'"%b":%%d,' % field.encode()

    def of(self, request: Request) -> bytes:
        """The body of one request."""
        limit = self._limit % request.max_tokens if self._limit else b""
        if request.tools and self._tools:
            limit += b'"tools":%b,' % (_flat_tools(request.tools) if self._api == "responses" else request.tools.encode())
        return b"{%b%b,%b%b" % (self._key, self._encode(request), limit, self._rest_of_body(request))

    def fields(self) -> set[str]:
        """Names of the fields that have been sent, beside the prompt's."""
        return {self.limit_field} | self._sent_fields

    def _rest_of_body(self, request: Request) -> bytes:
        """What requests of the same sampling and class have in common."""
        key = request.sampling if request.traffic_class is None else (request.sampling, request.traffic_class.name)
        rest = self._rests.get(key)
        if rest is None:
            fields = self._constant_fields(request.sampling) | _class_fields(request.traffic_class)
            self._sent_fields |= fields.keys()
            rest = self._rests[key] = msgspec.json.encode(fields)[1:]
        return rest

    def _constant_fields(self, sampling: Sampling) -> dict[str, object]:
        fields: dict[str, object] = {"model": self._model}
        if self._api in LIMIT_FIELDS:
            fields |= {"stream": True} | self._stream_fields() | {"temperature": sampling.temperature}
            optional = {"top_p": sampling.top_p, "top_k": sampling.top_k, "seed": sampling.seed, "ignore_eos": sampling.ignore_eos or None}
            fields |= {name: value for name, value in optional.items() if value is not None}
        return {**fields, **self._extra}

    def _stream_fields(self) -> dict[str, object]:
        if self._api == "responses":
            return {"store": False}  # OpenAI keeps responses otherwise
        return {"stream_options": {"include_usage": True}} if self._usage else {}


def check_extra(extra: Mapping[str, object]) -> None:
    """Raises BadOption for fields of the scenario's, and where a stream would be more than one answer to its request."""
    if taken := sorted(extra.keys() & SCENARIO_FIELDS):
        raise BadOption(f"extra_body sets {taken[0]}, which the scenario sets", f"remove {taken[0]} from --extra-body")
    for name, why in OTHER_TOKENS.items():
        value = extra.get(name)
        if value is True or value not in (None, 0, 1):
            raise BadOption(f"extra_body sets {name}, {why}", f"remove {name} from --extra-body")


def _class_fields(traffic_class: TrafficClass | None) -> dict[str, object]:
    """What a class sets in the bodies of its requests."""
    given = {} if traffic_class is None else {"model": traffic_class.model, "priority": traffic_class.priority}
    return {name: value for name, value in given.items() if value is not None}


@lru_cache(maxsize=1024)
def _encode_messages(messages: tuple[Message, ...]) -> bytes:
    """Cached, since prompts come again; those of sessions don't. Empty where some show images, which are too large to keep."""
    return b"" if any(message.images for message in messages) else msgspec.json.encode(messages)


def _encode_chat(request: Request) -> bytes:
    messages = request.messages or (Message(role="user", content=request.prompt or ""),)
    cached = request.session is None and request.text_length() <= CACHED_PROMPT_CHARS
    encode = _encode_messages if cached else _encode_messages.__wrapped__
    return encode(messages) or msgspec.json.encode([_in_parts(message) for message in messages])


def _in_parts(message: Message) -> Message | dict[str, object]:
    """With its images as parts of the content, before the text."""
    if not message.images:
        return message
    images = [{"type": "image_url", "image_url": {"url": url_of(image)}} for image in message.images]
    plain: dict[str, object] = msgspec.to_builtins(msgspec.structs.replace(message, images=()))
    return plain | {"content": [*images, {"type": "text", "text": message.content}]}


def _input_parts(message: Message) -> dict[str, object]:
    """The same as the Responses API has it."""
    images = [{"type": "input_image", "image_url": url_of(image)} for image in message.images]
    return {"role": message.role, "content": [*images, {"type": "input_text", "text": message.content}] if images else message.content}


def _encode_items(request: Request) -> bytes:
    """Messages as OpenAI's Responses API has them: calls and results of tools are items of their own."""
    messages = request.messages or ()
    if not any(message.tool_calls or message.tool_call_id or message.images for message in messages):
        return _encode_chat(request)
    items: list[dict[str, object]] = []
    for message in messages:
        if message.role == "tool":
            items.append({"type": "function_call_output", "call_id": message.tool_call_id, "output": message.content})
            continue
        if message.content or not message.tool_calls:
            items.append(_input_parts(message))
        for call in message.tool_calls:
            items.append({"type": "function_call", "call_id": call.id, **msgspec.to_builtins(call.function)})
    return msgspec.json.encode(items)


def _flat_tools(tools: str) -> bytes:
    """Tools as the Responses API has them: a function's fields beside its type."""
    listed = decode_json(tools)
    flat = [{"type": "function", **tool["function"]} if isinstance(tool.get("function"), dict) else tool for tool in listed]
    return msgspec.json.encode(flat)


def _encode_prompt(request: Request) -> bytes:
    prompt = request.prompt if request.token_ids is None else request.token_ids
    return msgspec.json.encode(_flatten(request) if prompt is None else prompt)


def _flatten(request: Request) -> str:
    """A chat as plain text, for servers that only complete."""
    plain = folded(request.messages or (), request.tools)
    return "\n\n".join(f"{message.role}: {message.content}" for message in plain) + "\n\nassistant:"


def _encode_inputs(request: Request) -> bytes:
    return msgspec.json.encode(request.inputs)


def _encode_pairs(documents_key: bytes, request: Request) -> bytes:
    return msgspec.json.encode(request.query) + documents_key + msgspec.json.encode(request.inputs)


_ENCODERS: dict[Api, tuple[bytes, Callable[[Request], bytes]]] = {
    "chat": (b'"messages":', _encode_chat),
    "completions": (b'"prompt":', _encode_prompt),
    "responses": (b'"input":', _encode_items),
    "embeddings": (b'"input":', _encode_inputs),
    "rerank": (b'"query":', _encode_inputs),
}
"""The key of what is a request's own, and what encodes it."""
