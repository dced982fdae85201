"""Pictures drawn to a size, for requests that show some to a model.

A picture is a PNG of colours that mean nothing, of one byte a pixel: every fourth row is drawn by SHAKE-128, the three below repeat it, so
that its file is as large as a photograph's, some two bits a pixel. All pictures of a size share these bytes, which are kept; the
seed draws their 256 colours. So every picture is another one, whatever a server caches, and costs the client no more than its bytes do.
"""

from __future__ import annotations

import zlib
from base64 import b64encode
from functools import lru_cache
from hashlib import shake_128

from engines.contract import Image

MAX_SIDE = 8192
COLOURS = 256
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DATA_URL = "data:image/png;base64,"
_REPEATED = 4
_UP = b"\x02"  # PNG's filter: the row is what is added to the one above


def png(image: Image) -> bytes:
    """The picture as a file."""
    return _colours(image) + _pixels(image.width, image.height)


def url_of(image: Image | str) -> str:
    """As a data URL; one that isn't drawn is as it stands."""
    if isinstance(image, str):
        return image
    return f"{_DATA_URL}{b64encode(_colours(image)).decode()}{_encoded_pixels(image.width, image.height)}"


def bytes_of(image: Image | str) -> int:
    """Of the file that a request carries, before base64; 0 of one that the server fetches."""
    if isinstance(image, str):
        return len(image.partition(",")[2].rstrip("=")) * 3 // 4 if image.startswith("data:") else 0
    return len(_colours(image)) + len(_pixels(image.width, image.height))


def _colours(image: Image) -> bytes:
    """The file up to its pixels: 813 bytes, so that base64 of it and of the rest can be put together."""
    head = b"".join([image.width.to_bytes(4), image.height.to_bytes(4), bytes((8, 3, 0, 0, 0))])
    palette = shake_128(f"colours/{image.seed}".encode()).digest(3 * COLOURS)
    return _SIGNATURE + _chunk(b"IHDR", head) + _chunk(b"PLTE", palette)


@lru_cache(maxsize=64)
def _pixels(width: int, height: int) -> bytes:
    rows = []
    for row in range(height):
        drawn = row % _REPEATED == 0
        rows.append(b"\0" + shake_128(f"row/{row}".encode()).digest(width) if drawn else _UP + bytes(width))
    return _chunk(b"IDAT", zlib.compress(b"".join(rows), 1)) + _chunk(b"IEND", b"")


@lru_cache(maxsize=64)
def _encoded_pixels(width: int, height: int) -> str:
    return b64encode(_pixels(width, height)).decode()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)
