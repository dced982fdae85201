"""Both distributions of an output as a PNG, drawn by Pillow: reference blue, backend orange, bar beside bar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WIDTH, HEIGHT, EDGE = 700, 450, 40
BLUE, ORANGE, GREY = (70, 110, 180), (225, 140, 50), (110, 110, 110)


def write_histogram(held: dict[str, Any], path: Path) -> None:
    """`held` has `edges`, `ours` and `reference`, as measure.numerics.compare gives them."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    floor, high = HEIGHT - EDGE, HEIGHT - 2 * EDGE
    largest = max(*held["ours"], *held["reference"], 1)
    step = (WIDTH - 2 * EDGE) / len(held["ours"])
    for place in range(len(held["ours"])):
        for shift, key, colour in ((0.1, "reference", BLUE), (0.5, "ours", ORANGE)):
            left, tall = EDGE + step * (place + shift), high * held[key][place] / largest
            if tall:
                draw.rectangle((left, floor - tall, left + step * 0.4, floor), fill=colour)
    draw.line((EDGE, floor, WIDTH - EDGE, floor), fill=GREY)
    draw.text((EDGE, floor + 8), f"{held['edges'][0]:.4g}", fill=GREY, font=font)
    draw.text((WIDTH - EDGE, floor + 8), f"{held['edges'][-1]:.4g}", fill=GREY, font=font, anchor="ra")
    draw.text((EDGE, 12), f"values of the output, at most {largest} in a bar", fill=GREY, font=font)
    draw.text((WIDTH - EDGE - 90, 12), "reference", fill=BLUE, font=font, anchor="ra")
    draw.text((WIDTH - EDGE, 12), "backend", fill=ORANGE, font=font, anchor="ra")
    image.save(path)
