"""``samples.png``: a look at what the generator makes, one column a class."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from calibrators.data.export import bytes_from_inputs
from calibrators.data.input_spec import InputSpec
from calibrators.zscgan.ensemble import Ensemble
from calibrators.zscgan.guidance import Guide
from zscgan_common.files import write_atomic

MOST_COLUMNS = 10
ROWS, GUIDED_ROWS = 6, 3
SMALLEST_TILE = 64
GAP = 4
HEADER = 16


def shown_classes(generator: Ensemble) -> list[int]:
    """The classes of the picture's columns: all, or 10 spread evenly over them."""
    classes = generator.config.classes
    columns: list[int] = torch.linspace(0, classes - 1, min(classes, MOST_COLUMNS)).round().long().tolist()
    return columns


def save_picture(
    generator: Ensemble,
    path: Path,
    *,
    seed: int,
    class_names: Sequence[str] | None = None,
    guide: Guide | None = None,
) -> Path:
    """A grid of samples: a column for each of ``shown_classes``, 6 rows (3 where guided), of the generators in turn.

    Samples below 64 pixels are enlarged by a whole factor. The column's head is the class name or number; samples
    without labels have ten columns without heads.
    """
    spec, columns = generator.config.spec, shown_classes(generator)
    if generator.config.classes == 1:
        columns = columns * MOST_COLUMNS
    rows = ROWS if guide is None else GUIDED_ROWS
    z, _ = generator.draw(rows * len(columns), seed, 0)
    turns = torch.arange(rows) % len(generator.members)
    conditions = torch.cartesian_prod(turns, torch.tensor(columns))
    generator.eval()
    with torch.no_grad():
        made = generator(z, conditions) if guide is None else guide.samples(generator, z, conditions)
    heads = (
        [class_names[c] if class_names else str(c) for c in columns] if generator.config.classes > 1 else []
    )
    return save_sheet(made.cpu(), spec, path, columns=len(columns), heads=heads)


def save_sheet(
    samples: Float[Tensor, "samples channels height width"],
    spec: InputSpec,
    path: Path,
    *,
    columns: int = MOST_COLUMNS,
    heads: Sequence[str] = (),
) -> Path:
    """A grid of ``samples`` row by row, with a head for each column where there are some."""
    tiles = [tile_from_sample(sample, spec) for sample in samples]
    return save_tiles(tiles, path, columns=columns, heads=heads)


def save_tiles(tiles: Sequence[Image.Image], path: Path, *, columns: int, heads: Sequence[str] = ()) -> Path:
    """A grid of ``tiles``, all of one size, row by row, with a head for each column where there are some."""
    width, height = tiles[0].size
    columns, top = min(columns, len(tiles)), HEADER if heads else 0
    rows = -(-len(tiles) // columns)
    picture = Image.new("RGB", (columns * (width + GAP) + GAP, top + rows * (height + GAP) + GAP), "white")
    for position, tile in enumerate(tiles):
        row, column = divmod(position, columns)
        picture.paste(tile, (GAP + column * (width + GAP), top + GAP + row * (height + GAP)))
    write_heads(picture, heads, width + GAP)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return write_atomic(path, buffer.getvalue())


def tile_from_sample(sample: Float[Tensor, "channels height width"], spec: InputSpec) -> Image.Image:
    """The sample as an RGB picture. One channel is shown as grey, of others than three the first three."""
    pixels = bytes_from_inputs(sample[None], spec)[0]
    if pixels.shape[2] < 3:
        pixels = pixels[:, :, :1].repeat(3, axis=2)
    tile = Image.fromarray(np.ascontiguousarray(pixels[:, :, :3]))
    factor = max(1, -(-SMALLEST_TILE // max(tile.size)))
    return tile.resize((tile.width * factor, tile.height * factor), Image.Resampling.NEAREST)


def write_heads(picture: Image.Image, heads: Sequence[str], step: int) -> None:
    """One head a column, cut to the column's width."""
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default()
    for column, head in enumerate(heads):
        fits = [n for n in range(1, len(head) + 1) if draw.textlength(head[:n], font=font) <= step - GAP]
        draw.text((GAP + column * step, 2), head[: max(fits, default=1)], fill="black", font=font)
