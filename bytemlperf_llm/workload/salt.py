"""A salt where prompts begin: prompts of one salt share what they shared without it, and nothing with any prompt of another."""

from __future__ import annotations

import secrets

import msgspec

from engines.contract import Image, Message, Request

FIRST_SALT_ID = 32
SALT_IDS = 8
"""Of a salt before token ids: one a digit."""
SALT_TOKENS = 16
"""What a salt adds to a prompt, at most: eight hexadecimal digits are that many tokens at most, and brackets and a space three."""


def fresh_salt() -> str:
    """Another one in every run: 32 bits."""
    return secrets.token_hex(4)


def salted_text(text: str, salt: str) -> str:
    """Behind its salt."""
    return f"[{salt}] {text}"


def salted_messages(messages: tuple[Message, ...], salt: str | None) -> tuple[Message, ...]:
    """With the salt, where there is one, before the text of the first message, whatever its role; pictures before it are drawn anew."""
    if salt is None:
        return messages
    first, *others = messages
    images = tuple(
        [image if isinstance(image, str) else Image(image.width, image.height, f"{salt}/{image.seed}") for image in first.images]
    )
    return (msgspec.structs.replace(first, content=salted_text(first.content, salt), images=images), *others)


def salted_ids(token_ids: tuple[int, ...], salt: str) -> tuple[int, ...]:
    """Behind an id for each digit of the salt, from those that every vocabulary has."""
    return (*(FIRST_SALT_ID + int(digit, 16) for digit in salt), *token_ids)


def salted(request: Request, salt: str) -> Request:
    """The request with the salt before its messages' text, its plain prompt, its token ids or each of its inputs."""
    if request.token_ids is not None:
        return msgspec.structs.replace(request, token_ids=salted_ids(request.token_ids, salt))
    if request.inputs is not None:
        inputs = [salted_text(each, salt) if isinstance(each, str) else salted_ids(each, salt) for each in request.inputs]
        return msgspec.structs.replace(request, inputs=tuple(inputs))
    if request.messages is None:
        return msgspec.structs.replace(request, prompt=salted_text(request.prompt or "", salt))
    return msgspec.structs.replace(request, messages=salted_messages(request.messages, salt))
