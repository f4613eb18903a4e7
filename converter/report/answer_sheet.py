"""``answers.png``: what FP32 and INT8 find in a few inputs, FP32 above INT8; boxes or masks over each picture."""

from collections.abc import Sequence
from colorsys import hls_to_rgb
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Integer
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from calibrators.data.input_spec import InputSpec
from calibrators.zscgan.sample_sheet import save_tiles, tile_from_sample
from converter.trust.task.base import Answer, Task
from converter.trust.task.boxes import FoundBoxes
from converter.trust.task.mask import Mask

SHOWN = 6
SIDE = 256
"""Pixels of a tile's longer side: six are as wide as a page on a screen with two dots a pixel."""
LETTERS = 16
HEAD = 22
LINE = 2
_GOLDEN = 0.618034
"""Steps of the hue that keep the colours of neighbouring classes apart."""
Colour = tuple[int, int, int]


def is_drawable(task: Task) -> bool:
    """Whether answers can be drawn: boxes and masks."""
    return isinstance(task, FoundBoxes | Mask)


def worth_showing(task: Task, answers: Sequence[Answer]) -> list[int]:
    """The first inputs, in their order; those in which the network finds nothing only where others are too few."""
    preferred = sorted(range(len(answers)), key=lambda index: _found(task, answers[index]) == 0)
    return sorted(preferred[:SHOWN])


def save_answers(
    inputs: Float[Tensor, "inputs channels height width"],
    spec: InputSpec,
    task: Task,
    fp32: Sequence[Answer],
    int8: Sequence[Answer],
    path: Path,
) -> Path:
    """A column an input: the answer of ``fp32``, and below it that of ``int8``."""
    tiles = [
        _headed(_drawn(x, spec, task, answer), f"{name}: {_in_words(task, answer)}")
        for name, row in (("FP32", fp32), ("INT8", int8))
        for x, answer in zip(inputs, row, strict=True)
    ]
    return save_tiles(tiles, path, columns=len(inputs))


def colour_of(label: int) -> Colour:
    """A bright colour, another one for each class."""
    red, green, blue = (round(255 * part) for part in hls_to_rgb(label * _GOLDEN % 1.0, 0.6, 1.0))
    return red, green, blue


def _found(task: Task, answer: Any) -> int:
    """How many boxes, or classes of pixels but the first, which usually is the background."""
    return len(task.counting(answer)) if isinstance(task, FoundBoxes) else len(np.setdiff1d(answer, [0]))


def _in_words(task: Task, answer: Any) -> str:
    """What a tile shows; boxes without a metric are not where the network sees them."""
    if isinstance(task, FoundBoxes):
        count = _found(task, answer)
        return f"{count} {'nominal ' if task.metric is None else ''}{'box' if count == 1 else 'boxes'}"
    count = len(np.unique(answer))
    return f"{count} {'class' if count == 1 else 'classes'}"


def _drawn(
    x: Float[Tensor, "channels height width"], spec: InputSpec, task: Task, answer: Any
) -> Image.Image:
    """The input, a tile's size, with the answer over it."""
    picture = tile_from_sample(x, spec)
    scale = SIDE / max(spec.shape[1:])
    width, height = (max(1, round(side * scale)) for side in (spec.shape[2], spec.shape[1]))
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    tile = picture.resize((width, height), how)
    if isinstance(task, FoundBoxes):
        for box in task.counting(answer)[::-1]:  # the strongest lies on top
            _draw_box(tile, box, scale)
        return tile
    return _blended(tile, answer)


def _draw_box(tile: Image.Image, box: Float[np.ndarray, "6"], scale: float) -> None:
    """A frame with the class and the score at its upper left corner."""
    draw, label = ImageDraw.Draw(tile), int(box[5])
    limits = np.array([tile.width - 1, tile.height - 1])
    first, second = np.clip(box[:4].reshape(2, 2) * scale, 0, limits)
    (left, top), (right, bottom) = np.minimum(first, second), np.maximum(first, second)
    colour, font = colour_of(label), ImageFont.load_default(LETTERS)
    draw.rectangle((left, top, right, bottom), outline=colour, width=LINE)
    text = f"{label} {box[4]:.2f}"
    width = draw.textlength(text, font=font) + 2 * LINE
    x = max(0.0, min(left, tile.width - width))
    y = top - LETTERS if top >= LETTERS else min(bottom, tile.height - LETTERS)
    draw.rectangle((x, y, x + width, y + LETTERS), fill=colour)
    draw.text((x + LINE, y + LETTERS / 2), text, fill=_readable_on(colour), font=font, anchor="lm")


def _readable_on(colour: Colour) -> str:
    """Black or white, by the luma of ITU-R BT.601."""
    return "black" if 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 128 else "white"


def _blended(tile: Image.Image, mask: Integer[np.ndarray, "height width"]) -> Image.Image:
    """Half the picture, half the colours of the classes; that of the first class is black."""
    classes, places = np.unique(mask, return_inverse=True)
    colours = np.array([colour_of(int(label)) if label else (0, 0, 0) for label in classes], dtype=np.uint8)
    painted = Image.fromarray(colours[places.reshape(mask.shape)])
    return Image.blend(tile, painted.resize(tile.size, Image.Resampling.NEAREST), 0.5)


def _headed(tile: Image.Image, head: str) -> Image.Image:
    """``tile`` below a line of text."""
    whole = Image.new("RGB", (tile.width, HEAD + tile.height), "white")
    whole.paste(tile, (0, HEAD))
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(LETTERS)
    draw.text((0, HEAD / 2), head, fill="black", font=font, anchor="lm")
    return whole
