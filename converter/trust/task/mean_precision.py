"""How good boxes are: COCO's mean average precision."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from converter.errors import ConversionError

MAP_EXTRA = 'pip install "zscgan-convert[map]"'


def mean_average_precision(
    answers: Sequence[Float[np.ndarray, "_ 6"]], truths: Sequence[Shaped[np.ndarray, "_ 5"]]
) -> float:
    """mAP@[.5:.95] in percent, by pycocotools, with the best 100 boxes of an image.

    ``answers``: of each image x1, y1, x2, y2, score, class. ``truths``: x1, y1, x2, y2, class, in the same pixels.
    Raises ConversionError where pycocotools is missing or there is no true box.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ConversionError(f"mAP requires pycocotools ({error}): {MAP_EXTRA}") from error
    if not any(len(truth) for truth in truths):
        raise ConversionError(
            "mAP requires at least one true box, and none of the images has any: check the truths"
        )
    true = [_entry(image, box, int(box[4])) for image, boxes in enumerate(truths) for box in boxes]
    said = [
        {**_entry(image, box, int(box[5])), "score": float(box[4])}
        for image, boxes in enumerate(answers)
        for box in boxes
    ]
    if not said:
        return 0.0
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        categories = sorted({entry["category_id"] for entry in true})
        # An id of 0 counts as no match.
        numbered = [{**entry, "id": number} for number, entry in enumerate(true, 1)]
        coco.dataset = {
            "info": {},
            "images": [{"id": image} for image in range(len(truths))],
            "categories": [{"id": category} for category in categories],
            "annotations": numbered,
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(said), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100.0 * float(evaluation.stats[0])


def _entry(image: int, box: Shaped[np.ndarray, "_"], category: int) -> dict[str, Any]:
    """A box as COCO writes it."""
    x1, y1, x2, y2 = (float(value) for value in box[:4])
    sides = [x2 - x1, y2 - y1]
    return {
        "image_id": image,
        "category_id": category,
        "bbox": [x1, y1, *sides],
        "area": sides[0] * sides[1],
        "iscrowd": 0,
    }
