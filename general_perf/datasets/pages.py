"""Pages of text drawn here, so that the true boxes are known to the pixel: for text detection, judged by COCO's mAP.

Words come from the docstrings of Python's standard library, the font is the one that Pillow carries; sizes, places and
colours are seeded. Drawn pages are cleaner than scans: figures compare backends and precisions, not OCR products.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from general_perf.backends.contract import Array
from general_perf.card import Card
from general_perf.datasets.contract import Dataset
from general_perf.datasets.text import docstring_pairs
from general_perf.failures import StageError

PAGES = 24
SEED = 7
CALIBRATION_SEED = 8
MARGIN = 16
MOST_BOXES = 100
TEXT_AT, SCORE_AT, UNCLIP = 0.3, 0.5, 1.6
"""Probability from which a pixel is text, mean probability from which an area counts, growth of an area: the settings
that rapidocr-onnxruntime ships for this model (its config.yaml)."""
SMALLEST_SIDE = 3

Box = tuple[float, float, float, float]
ScoredBox = tuple[float, float, float, float, float]


def text_pages(card: Card, limit: int) -> Dataset:
    """Drawn pages; mAP over IoU 0.50 to 0.95, at 0.50, at 0.75, and recall of 100 boxes a page."""
    side = card.dims["image"]
    drawn = [page(SEED, index, side) for index in range(min(limit, PAGES))]
    image_input, answer = card.inputs[0].name, card.outputs[0]
    return Dataset(
        name="text-pages",
        source=f"pages drawn with Pillow's own font, words of Python's docstrings, seed {SEED}: true boxes known exactly",
        samples=[picture for picture, _ in drawn],
        labels=[boxes for _, boxes in drawn],
        whole=PAGES,
        preprocess=lambda picture: {image_input: normalised(picture)},
        postprocess=lambda _picture, outputs: as_rows(boxes_of(outputs[answer][0])),
        metrics=lambda answers, truth: mean_average_precision(answers, truth, side),
        decisions=lambda answers: np.round(np.asarray(answers)[:, :, 4]) > 0,
        calibration=[page(CALIBRATION_SEED, index, side)[0] for index in range(PAGES)] if limit else [],
    )


def page(seed: int, index: int, side: int) -> tuple[Array, list[Box]]:
    """A page as RGB bytes [side, side, 3], and its lines' boxes (left, top, right, bottom)."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise StageError("missing_dataset", "pages are drawn with Pillow, which is not installed", "pip install pillow") from None
    random = np.random.default_rng([seed, index])
    image = Image.new("RGB", (side, side), _colour(random, 215, 256))
    draw = ImageDraw.Draw(image)
    boxes: list[Box] = []
    top = MARGIN
    while top < side - 4 * MARGIN:
        font = ImageFont.load_default(int(random.integers(14, 40)))
        left, count, start = (int(random.integers(low, high)) for low, high in ((MARGIN, side // 5), (2, 7), (0, len(_words()) - 10)))
        words = _words()[start : start + count]
        while len(words) > 1 and draw.textbbox((left, top), " ".join(words), font=font)[2] > side - MARGIN:
            words = words[:-1]
        box = draw.textbbox((left, top), " ".join(words), font=font)
        if box[2] <= side - MARGIN:
            draw.text((left, top), " ".join(words), font=font, fill=_colour(random, 0, 110))
            boxes.append(box)
        top = int(box[3]) + int(random.integers(14, 34))
    return np.asarray(image), boxes


def normalised(picture: Array) -> Array:
    """[3, height, width] in blue, green, red, from −1 to 1, as the model was trained."""
    return ((picture[:, :, ::-1] / 255 - 0.5) / 0.5).transpose(2, 0, 1).astype(np.float32)


def boxes_of(chance: Array) -> list[ScoredBox]:
    """Boxes with scores from a map of text probabilities [height, width]: connected areas, grown by area × UNCLIP /
    perimeter (Liao et al., Real-time Scene Text Detection with Differentiable Binarization, 2020, for upright boxes)."""
    from scipy import ndimage  # type: ignore[import-untyped]

    areas, _ = ndimage.label(chance > TEXT_AT, structure=np.ones((3, 3)))
    boxes = []
    for rows, columns in ndimage.find_objects(areas):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        score = float(chance[rows, columns].mean())
        if min(height, width) < SMALLEST_SIDE or score < SCORE_AT:
            continue
        grow = height * width * UNCLIP / (2 * (height + width))
        boxes.append((columns.start - grow, rows.start - grow, columns.stop + grow, rows.stop + grow, score))
    return sorted(boxes, key=lambda box: -box[4])[:MOST_BOXES]


def as_rows(boxes: list[ScoredBox]) -> Array:
    """[MOST_BOXES, 5], zeros where there is no box: an answer of one shape."""
    rows = np.zeros((MOST_BOXES, 5))
    if boxes:
        rows[: len(boxes)] = boxes
    return rows


def mean_average_precision(answers: Array, truth: Sequence[list[Box]], side: int) -> dict[str, float]:
    """COCO's figures by faster-coco-eval; 0 where nothing was found."""
    from faster_coco_eval import COCO, COCOeval_faster  # type: ignore[import-untyped]

    boxes = [(page_index, box) for page_index, boxes in enumerate(truth) for box in boxes]
    marks = []
    for number, (page_index, box) in enumerate(boxes, 1):
        bbox = _sized(box)
        marks.append({"id": number, "image_id": page_index, "category_id": 1, "bbox": bbox, "area": bbox[2] * bbox[3], "iscrowd": 0})
    images = [{"id": page_index, "width": side, "height": side} for page_index in range(len(truth))]
    known = COCO({"images": images, "annotations": marks, "categories": [{"id": 1, "name": "text"}]})
    detections = [
        {"image_id": page_index, "category_id": 1, "bbox": _sized(row[:4]), "score": float(row[4])}
        for page_index, rows in enumerate(answers)
        for row in rows
        if row[4] > 0
    ]
    names = {"map": "AP_all", "map_50": "AP_50", "map_75": "AP_75", "recall_100": "AR_third"}
    if not detections:
        return dict.fromkeys(names, 0.0)
    judged = COCOeval_faster(known, known.loadRes(detections), "bbox", print_function=lambda *_: None)
    judged.evaluate()
    judged.accumulate()
    judged.summarize()
    return {ours: float(judged.stats_as_dict[theirs]) for ours, theirs in names.items()}


@cache
def _words() -> tuple[str, ...]:
    return tuple(word for _, document in docstring_pairs() for word in document.split())


def _colour(random: np.random.Generator, low: int, high: int) -> tuple[int, ...]:
    return tuple(int(value) for value in random.integers(low, high, 3))


def _sized(box: Box | Array) -> list[float]:
    left, top, right, bottom = map(float, box)
    return [left, top, right - left, bottom - top]
