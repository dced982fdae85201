"""Drawn pictures: files that hold what they say, another one for each seed, the same for the same; how requests carry them."""

from __future__ import annotations

import base64
import io
import json
import zlib
from itertools import islice

import pytest

from engines.contract import Image, Message, Request, Sampling
from engines.images import bytes_of, png, url_of
from engines.openai.bodies import Bodies


def chunks(file):
    """Kind and content of each chunk of a PNG, whose sums are right."""
    assert file[:8] == b"\x89PNG\r\n\x1a\n"
    place = 8
    while place < len(file):
        length = int.from_bytes(file[place : place + 4])
        kind, data = file[place + 4 : place + 8], file[place + 8 : place + 8 + length]
        assert zlib.crc32(kind + data) == int.from_bytes(file[place + 8 + length : place + 12 + length])
        yield kind, data
        place += 12 + length


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 5), (64, 48), (641, 7), (1024, 1024)])
def test_a_file_has_its_size_and_every_pixel(width, height):
    image = Image(width, height, "a")
    parts = dict(chunks(png(image)))
    assert list(parts) == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    assert (int.from_bytes(parts[b"IHDR"][:4]), int.from_bytes(parts[b"IHDR"][4:8])) == (width, height)
    assert (len(parts[b"PLTE"]), len(zlib.decompress(parts[b"IDAT"]))) == (768, (width + 1) * height)
    assert base64.b64decode(url_of(image).removeprefix("data:image/png;base64,"), validate=True) == png(image)
    assert bytes_of(image) == len(png(image))


def test_a_file_is_as_large_as_a_photographs():
    assert 0.2 < bytes_of(Image(1024, 768, "a")) / (1024 * 768) < 0.3


def test_another_seed_is_another_picture_and_the_same_the_same():
    one, other = (png(Image(64, 64, seed)) for seed in "ab")
    assert one == png(Image(64, 64, "a")) != other


def test_a_picture_can_be_looked_at():
    pictures = pytest.importorskip("PIL.Image")
    one, other = (pictures.open(io.BytesIO(png(Image(40, 30, seed)))).convert("RGB") for seed in "ab")
    assert one.size == (40, 30)
    same = sum(a == b for a, b in zip(islice(one.tobytes(), 3600), other.tobytes(), strict=False))
    assert same < 60  # of 3,600 values, as chance has it
    assert len(set(zip(*[iter(one.tobytes())] * 3, strict=True))) > 100


def test_what_a_url_holds_is_counted_and_what_it_names_is_not():
    held = "data:image/jpeg;base64," + base64.b64encode(bytes(1000)).decode()
    assert (bytes_of(held), bytes_of("https://host/picture.jpg"), url_of(held)) == (1000, 0, held)


SHOWN = Request(
    index=0,
    id="r",
    max_tokens=4,
    messages=(Message("system", "Look."), Message("user", "What is it?", images=(Image(8, 8, "s"), "https://host/a.png"))),
    sampling=Sampling(ignore_eos=False),
)


def body(api):
    return json.loads(Bodies(api, "m", {}, usage=True, limit_field="max_tokens", documents_field="").of(SHOWN))


def test_a_chat_has_them_as_parts_before_the_text():
    assert body("chat")["messages"] == [
        {"role": "system", "content": "Look."},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": url_of(Image(8, 8, "s"))}},
                {"type": "image_url", "image_url": {"url": "https://host/a.png"}},
                {"type": "text", "text": "What is it?"},
            ],
        },
    ]


def test_responses_have_them_as_their_own_kind_of_parts():
    assert body("responses")["input"][1]["content"] == [
        {"type": "input_image", "image_url": url_of(Image(8, 8, "s"))},
        {"type": "input_image", "image_url": "https://host/a.png"},
        {"type": "input_text", "text": "What is it?"},
    ]
