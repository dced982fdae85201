"""How many tokens a prompt is, as the server will count it: chat template and tokenizer of the model.

The tokenizer comes from a checkpoint's tokenizer.json (package `tokenizers`) and the template is
rendered as transformers renders it (jinja2, sandboxed), so neither torch nor transformers is loaded.
Without a tokenizer a word counts as a token. That is a rough estimate, and says so; it is
exact for the reference engine, whose own rule it is (`--tokenizer words`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from bytemlperf.errors import UserError
from bytemlperf.extras import require
from engines.chat import folded, templated
from engines.contract import Message
from engines.untrusted import decode_json

WORDS_RULE = "words"
WORD = re.compile(r"\S+")
MAX_CUTS = 20
_SENTINEL = "\N{OBJECT REPLACEMENT CHARACTER}content\N{OBJECT REPLACEMENT CHARACTER}"


class WordCounter:
    """One token a word; no template. `how` says in words for the reader of a result how it counts, and `exact` whether that is exact;
    `vocabulary` is how many ids there are, None where that is not known."""

    vocabulary = None

    def __init__(self, *, exact: bool) -> None:
        self.exact = exact
        self.how = (
            "one token per word, the engine's own rule"
            if exact
            else "one token per word, chat template not counted, since no tokenizer is known (give one with --tokenizer)"
        )

    has_calls = True

    def text(self, text: str) -> int:
        """Tokens of a bare text, nothing added."""
        return len(text.split())

    def prompt(self, messages: Sequence[Message], tools: str = "") -> int:
        """Tokens of the whole prompt that these messages and tools become."""
        return self.text(tools) + sum(self.text(message.text()) for message in messages)

    def tokens(self, messages: Sequence[Message], tools: str = "") -> Sequence[int | str]:
        """What the prompt's tokens are: their ids, or words."""
        return " ".join([tools, *(message.text() for message in messages)]).split()

    def head(self, content: str) -> int:
        """Tokens of the prompt of one user message up to the end of `content`."""
        return self.text(content)

    def rendered(self, messages: Sequence[Message], tools: str = "") -> str:
        """The prompt that these messages and tools become."""
        return " ".join(filter(None, (tools, *(message.text() for message in messages))))

    def within(self, text: str, end: int) -> int:
        """Tokens of a bare text that end by there."""
        return sum(1 for found in WORD.finditer(text) if found.end() <= end)

    def starts(self, text: str) -> list[int]:
        """Where in `text` each of its tokens starts."""
        return [found.start() for found in WORD.finditer(text)]


class TokenizerCounter:
    """A checkpoint's own tokenizer and chat template; `plain` leaves the template out, for completions."""

    exact = True

    def __init__(self, folder: Path, *, plain: bool) -> None:
        self._tokenizer = _tokenizer(folder)
        self.vocabulary = int(self._tokenizer.get_vocab_size())
        self._render = None if plain else _template(folder)
        self.how = f"tokenizer of {folder}, " + (
            "no chat template (plain completions)" if plain else "chat template included" if self._render else "which has no chat template"
        )

    @property
    def has_calls(self) -> bool:
        """Whether calls of tools are in the prompt."""
        return self._render is None or self._render.has_calls

    def text(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False))

    def prompt(self, messages: Sequence[Message], tools: str = "") -> int:
        return len(self._encoded(messages, tools))

    def tokens(self, messages: Sequence[Message], tools: str = "") -> Sequence[int | str]:
        ids: list[int] = self._encoded(messages, tools).ids
        return ids

    def head(self, content: str) -> int:
        messages = (Message(role="user", content=content),)
        encoded = self._encoded(messages)
        end = len(content) if self._render is None else self._render(messages).rindex(content) + len(content)
        after = sum(1 for start, stop in encoded.offsets if start >= end and stop > start)
        return len(encoded) - after

    def within(self, text: str, end: int) -> int:
        return sum(1 for _, stop in self._tokenizer.encode(text, add_special_tokens=False).offsets if stop <= end)

    def starts(self, text: str) -> list[int]:
        return [start for start, _ in self._tokenizer.encode(text, add_special_tokens=False).offsets]

    def _encoded(self, messages: Sequence[Message], tools: str = "") -> Any:
        return self._tokenizer.encode(self.rendered(messages, tools), add_special_tokens=self._render is None)

    def rendered(self, messages: Sequence[Message], tools: str = "") -> str:
        if self._render is None:
            return "\n\n".join(message.content for message in folded(messages, tools))
        return self._render(messages, tools)


TokenCounter = WordCounter | TokenizerCounter


def cut(counter: TokenCounter, messages: tuple[Message, ...], most_tokens: int) -> tuple[Message, ...]:
    """The messages with the last one shortened from its end until all of it is at most `most_tokens`
    or nothing of that message is left."""
    *before, last = messages
    for _ in range(MAX_CUTS):
        excess = counter.prompt((*before, last)) - most_tokens
        if excess <= 0 or not last.content:
            break
        starts = counter.starts(last.content)
        end = starts[-excess] if excess < len(starts) else 0
        last = msgspec.structs.replace(last, content=last.content[:end].rstrip())
    return (*before, last)


@lru_cache(maxsize=4)
def counter_for(tokenizer: str | None, template: str) -> TokenCounter:
    """The counter of a scenario's `prompts.tokenizer` and `prompts.template`. Raises UserError."""
    if tokenizer is None or tokenizer == WORDS_RULE:
        return WordCounter(exact=tokenizer == WORDS_RULE)
    return TokenizerCounter(Path(tokenizer), plain=template == "plain")


def _tokenizer(folder: Path) -> Any:
    require("counting a model's tokens", "hf", "tokenizers")
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"{folder} has no tokenizer.json", "give --tokenizer a folder that has one")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises plain Exception
        raise UserError(f"{path} can't be used: {error}", "fetch the tokenizer again") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


class _Template:
    """A chat template as a function from messages to text."""

    def __init__(self, source: str, variables: dict[str, Any], folder: Path) -> None:
        from jinja2.exceptions import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        # The settings and functions that transformers gives to templates.
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
        self._error, self._folder, self._variables, self._source = TemplateError, folder, variables, source
        self.has_calls = "tool_calls" in source
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise self._unusable(error) from None
        self._around: tuple[str, str] | None = None
        parts = self._rendered((Message(role="user", content=_SENTINEL),)).split(_SENTINEL)
        if len(parts) == 2:
            self._around = (parts[0], parts[1])

    def __call__(self, messages: Sequence[Message], tools: str = "") -> str:
        first = messages[0]
        # Templates often strip the content, so only what has nothing to strip goes the short way.
        alone = len(messages) == 1 and first.role == "user" and not tools
        if self._around is not None and alone and first.content == first.content.strip():
            return self._around[0] + first.content + self._around[1]
        return self._rendered(messages, tools)

    def _rendered(self, messages: Sequence[Message], tools: str = "") -> str:
        try:
            return templated(self._render, self._source, messages, tools)
        except (self._error, TypeError, ValueError, AttributeError, KeyError) as error:
            raise self._unusable(error) from None

    def _render(self, messages: Sequence[dict[str, Any]], tools: list[Any] | None) -> str:
        return str(self._template.render(messages=messages, tools=tools, add_generation_prompt=True, **self._variables))

    def _unusable(self, error: Exception) -> UserError:
        problem = " ".join(str(error).split())
        return UserError(f"the chat template of {self._folder} can't be used: {problem}", "send plain prompts: --endpoint /v1/completions")


def _raise_exception(message: str) -> NoReturn:
    from jinja2.exceptions import TemplateError

    raise TemplateError(message)


def _template(folder: Path) -> _Template | None:
    try:
        config = decode_json((folder / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError):
        config = {}
    source = _template_text(folder, config if isinstance(config, dict) else {})
    if source is None:
        return None
    require("counting a chat template's tokens", "hf", "jinja2")
    return _Template(source, _special_tokens(config), folder)


def _template_text(folder: Path, config: dict[str, Any]) -> str | None:
    """chat_template.jinja goes before tokenizer_config.json, as in transformers."""
    try:
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    except OSError:
        named = config.get("chat_template")
    if isinstance(named, list):
        named = next((each.get("template") for each in named if isinstance(each, dict) and each.get("name") == "default"), None)
    return named if isinstance(named, str) else None


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """bos_token and its like: a string, or an object that holds one."""
    found = {}
    for name, value in config.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            found[name] = text
    return found
