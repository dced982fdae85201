"""Where prompt i comes from: a shuffled prompt set, or words made up on the spot.

A set is dealt like a deck of cards: every prompt once in seeded order, then a fresh shuffle. Warm-up
and probe requests are dealt from the far end of the first deck, so that they warm no cache with a
prompt that is measured soon after.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Protocol

import msgspec

from bytemlperf.arrivals import seeded
from bytemlperf.errors import UserError
from bytemlperf_llm.plan.scenario import Lengths, Prompts
from bytemlperf_llm.workload.data_files import decode, lines
from bytemlperf_llm.workload.lengths import LengthSeries
from bytemlperf_llm.workload.prefixes import Prefix, PrefixIndex
from bytemlperf_llm.workload.salt import salted_text
from bytemlperf_llm.workload.sessions.conversations import FileMessage
from bytemlperf_llm.workload.synthesis import WORDS
from bytemlperf_llm.workload.token_ids import maker_of
from engines.contract import Message

LINE_FORMS = '{"messages": [{"role": "user", "content": "..."}]} or {"prompt": "..."}'


class Prompt(msgspec.Struct, frozen=True):
    """One prompt of a file, or one made up, which may be of `token_ids`. `output_tokens` goes before the scenario's lengths."""

    messages: tuple[Message, ...] | None = None
    prompt: str | None = None
    token_ids: tuple[int, ...] | None = None
    output_tokens: int | None = None
    lang: str | None = None
    topic: str | None = None
    session: str | None = None


class _Line(msgspec.Struct, frozen=True):
    """Of a prompt file."""

    messages: tuple[FileMessage, ...] | None = None
    prompt: str | None = None
    output_tokens: int | None = None
    lang: str | None = None
    topic: str | None = None
    session: str | None = None


class PromptSource(Protocol):
    """Prompts by index, in any order; `count` is None where there is no end of different ones."""

    @property
    def count(self) -> int | None: ...

    def at(self, index: int) -> Prompt:
        """Prompt of the measured request `index`."""

    def aside(self, index: int) -> Prompt:
        """Prompt of the unmeasured request `index`."""

    def prefix(self, index: int) -> Prefix | None:
        """What of the prompt was in an earlier one of the schedule; asked for in its order."""


def source(prompts: Prompts, folder: Path, seed: int) -> PromptSource:
    """Of files in that folder, or made up. Raises UserError that names the file and line that can't be used."""
    found, drawn = _undrawn(prompts, folder, seed), prompts.drawn
    return found if drawn is None else DrawnPrompts(found, drawn, seed)


def _undrawn(keys: Prompts, folder: Path, seed: int) -> PromptSet | SyntheticPrompts | CountedPrompts:
    synthetic, shared = keys.synthetic, PrefixIndex(keys)
    if synthetic is not None and synthetic.words is not None and not keys.token_ids:
        return SyntheticPrompts(synthetic.words, seed, shared)
    if synthetic is not None and (lengths := synthetic.tokens or synthetic.words) is not None:
        return CountedPrompts(keys, lengths, synthetic.prefix_tokens, seed)
    paths = [folder / file for file in keys.files or ()]
    prompts = [prompt for path in paths for prompt in read(path)]
    if not prompts:
        raise UserError(f"no prompt in {', '.join(str(path) for path in paths)}", f"write one per line: {LINE_FORMS}")
    return PromptSet(prompts, seed, shared)


def read(path: Path) -> list[Prompt]:
    """All prompts of a JSONL file, empty lines passed over. Raises UserError."""
    decoder = msgspec.json.Decoder(_Line, strict=False)
    fix = "give its path relative to the scenario file"
    return [_checked(decode(decoder, line, path, number, LINE_FORMS), f"{path}:{number}") for number, line in lines(path, fix)]


def _checked(line: _Line, where: str) -> Prompt:
    if (line.messages is None) == (line.prompt is None):
        raise UserError(f"{where}: exactly one of messages and prompt is needed", f"give each line as {LINE_FORMS}")
    messages = None if line.messages is None else tuple([message.message() for message in line.messages])
    text = line.prompt if messages is None else "".join(message.content for message in messages)
    if not text and not any(message.images for message in messages or ()):
        raise UserError(f"{where}: the prompt is empty", "write some text, or remove the line")
    if line.output_tokens is not None and line.output_tokens < 1:
        raise UserError(f"{where}: output_tokens is {line.output_tokens}", "give 1 or more, or leave it out")
    return Prompt(messages, line.prompt, None, line.output_tokens, line.lang, line.topic, line.session)


class PromptSet:
    """A list of prompts, dealt shuffle after shuffle."""

    def __init__(self, prompts: list[Prompt], seed: int, shared: PrefixIndex) -> None:
        self._prompts, self._seed, self._shared = prompts, seed, shared
        self._first = self._deal(0)
        self._round, self._order = 0, self._first

    @property
    def count(self) -> int:
        return len(self._prompts)

    def at(self, index: int) -> Prompt:
        number, place = divmod(index, len(self._prompts))
        return self._prompts[self._order_of(number)[place]]

    def line(self, number: int) -> Prompt:
        """As the files have them, from 0."""
        return self._prompts[number]

    def aside(self, index: int) -> Prompt:
        return self._prompts[self._first[-1 - index % len(self._first)]]

    def prefix(self, index: int) -> Prefix | None:
        """A prompt that comes again was there as a whole."""
        number, place = divmod(index, len(self._prompts))
        return self._first_round[place] if number == 0 else Prefix(self._places[self._order_of(number)[place]], whole=True)

    @cached_property
    def _first_round(self) -> list[Prefix | None]:
        return [self._shared.add(messages_of(self._prompts[number]), place) for place, number in enumerate(self._first)]

    @cached_property
    def _places(self) -> dict[int, int]:
        return {number: place for place, number in enumerate(self._first)}

    def _order_of(self, number: int) -> list[int]:
        if number != self._round:
            self._round, self._order = number, self._deal(number)
        return self._order

    def _deal(self, number: int) -> list[int]:
        return seeded.shuffled(range(len(self._prompts)), seeded.stream(self._seed, "shuffle", number))


class SyntheticPrompts:
    """Sentences of common words without meaning. They differ from the first word on, so that no
    prefix cache helps."""

    count = None

    def __init__(self, words: Lengths, seed: int, shared: PrefixIndex) -> None:
        self._seed, self._shared = seed, shared
        self._lengths = LengthSeries(words, seed, "words")
        self._lengths_aside = LengthSeries(words, seed, "words-aside")

    def at(self, index: int) -> Prompt:
        return self._made("text", index, self._lengths.at(index))

    def aside(self, index: int) -> Prompt:
        return self._made("text-aside", index, self._lengths_aside.at(index))

    def prefix(self, index: int) -> Prefix | None:
        """The chat template's beginning."""
        return Prefix(0, self._shared.head) if index else None

    def _made(self, purpose: str, index: int, words: int) -> Prompt:
        return Prompt(messages=(Message(role="user", content=made_up(self._seed, f"{purpose}/{index}", words)),))


def made_up(seed: int, purpose: str, words: int) -> str:
    """So many common words without meaning, the same for a seed and purpose."""
    return made_up_texts(seed, purpose, [words])[0]


def made_up_texts(seed: int, purpose: str, lengths: Iterable[int]) -> list[str]:
    """One after the other from one stream: to seed one costs as much as thirty words."""
    draw, count = seeded.stream(seed, purpose), len(WORDS)
    return [" ".join([WORDS[int(draw() * count)] for _ in range(words)]) for words in lengths]


def prompt_of(made: str | tuple[int, ...], *, plain: bool) -> Prompt:
    """A prompt of made-up text, or of token ids."""
    if isinstance(made, tuple):
        return Prompt(token_ids=made)
    return Prompt(prompt=made) if plain else Prompt(messages=(Message(role="user", content=made),))


class CountedPrompts:
    """Made-up prompts of a known number of tokens, template included; the first `prefix_tokens` of
    them are the same in all measured ones. Raises UserError for a prompt shorter than the template."""

    count = None

    def __init__(self, prompts: Prompts, tokens: Lengths, prefix_tokens: int, seed: int) -> None:
        self._prefix_tokens, self._plain = prefix_tokens, prompts.template == "plain"
        self._maker = maker_of(prompts, seed, max(1, prefix_tokens))
        self._shared = PrefixIndex(prompts)
        self._lengths = LengthSeries(tokens, seed, "tokens")
        self._lengths_aside = LengthSeries(tokens, seed, "tokens-aside")

    @property
    def lengths(self) -> str:
        """Whether the lengths are exact or estimated, and by which rule."""
        return self._maker.lengths

    def at(self, index: int) -> Prompt:
        return self._made(f"text/{index}", self._lengths.at(index), ("prefix",) if self._prefix_tokens else ())

    def aside(self, index: int) -> Prompt:
        return self._made(f"text-aside/{index}", self._lengths_aside.at(index), ())

    def prefix(self, index: int) -> Prefix | None:
        """The chat template's beginning, or the shared prefix, a salt included."""
        return self._shared.beginning(0, self._prefix_tokens) if index else None

    def _made(self, name: str, tokens: int, blocks: tuple[str, ...]) -> Prompt:
        total, least = self._prefix_tokens + tokens, self._maker.minimum
        if total < least:
            raise UserError(f"no prompt has {total} tokens: the chat template and one word have {least}", f"give {least} or more")
        return prompt_of(self._maker.prompt(name, total, blocks), plain=self._plain)


class DrawnPrompts:
    """`count` of another source's prompts, drawn with replacement as the client of MLPerf Endpoints draws them: by a random.Random of the
    seed, whose sequence Python keeps (rules 6.5). Each has 64 bits of salt before the user's text, so that no prefix cache knows more than
    the system prompt (rules 2.9.5.1)."""

    def __init__(self, prompts: PromptSet | SyntheticPrompts | CountedPrompts, count: int, seed: int) -> None:
        if prompts.count is not None and prompts.count < count:
            raise UserError(f"{count} prompts to draw from, and the files hold {prompts.count}", "give as many, or fewer")
        self.count, self._prompts, self._seed = count, prompts, seed
        self._random, self._drawn = random.Random(seed), list[int]()

    @property
    def lengths(self) -> str | None:
        """As the prompts are made, without the salt."""
        found = getattr(self._prompts, "lengths", None)
        return found and f"{found}, before a salt of 19 characters"

    def at(self, index: int) -> Prompt:
        while len(self._drawn) <= index:
            self._drawn.append(self._random.randint(0, self.count - 1))
        number = self._drawn[index]
        prompt = self._prompts.line(number) if isinstance(self._prompts, PromptSet) else self._prompts.at(number)
        return _salted(prompt, hashlib.blake2b(f"{self._seed}/{index}".encode(), digest_size=8).hexdigest())

    def aside(self, index: int) -> Prompt:
        return self._prompts.aside(index)

    def prefix(self, _index: int) -> Prefix:
        """What stands before the salt of each prompt, which nothing counts."""
        return Prefix(None)


def messages_of(prompt: Prompt) -> tuple[Message, ...]:
    """A plain prompt is a message of its own."""
    return prompt.messages or (Message(role="user", content=prompt.prompt or ""),)


def _salted(prompt: Prompt, salt: str) -> Prompt:
    """Before the user's first text: what the system prompt says before it may be shared."""
    if prompt.messages is None:
        return msgspec.structs.replace(prompt, prompt=salted_text(prompt.prompt or "", salt))
    messages = list(prompt.messages)
    place = next((place for place, message in enumerate(messages) if message.role == "user"), 0)
    messages[place] = msgspec.structs.replace(messages[place], content=salted_text(messages[place].content, salt))
    return msgspec.structs.replace(prompt, messages=tuple(messages))
