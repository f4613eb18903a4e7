"""``samples.png``: a look at what the generator makes."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from calibrators.data.batches import Batch
from calibrators.data.export import bytes_from_inputs
from calibrators.data.input_spec import InputSpec
from calibrators.zscgan.ensemble import Ensemble
from calibrators.zscgan.guidance import Guide
from calibrators.zscgan.sampling import SyntheticBatches
from zscgan_common.files import write_atomic

MOST_COLUMNS = 10
ROWS, GUIDED_ROWS = 6, 3
SMALLEST_TILE = 64
GAP = 4
HEADER = 16


def shown_classes(generator: Ensemble, seed: int = 0, guide: Guide | None = None) -> list[int]:
    """The classes of the picture's columns: all, or 10 spread evenly over them; of guided samples those of each."""
    if guide is not None:
        return first_guided(generator, seed, guide)[1].tolist()
    classes = generator.config.classes
    columns: list[int] = torch.linspace(0, classes - 1, min(classes, MOST_COLUMNS)).round().long().tolist()
    return columns


def first_guided(generator: Ensemble, seed: int, guide: Guide) -> Batch:
    """The first samples of ``seed``, as many as the picture shows."""
    count = GUIDED_ROWS * MOST_COLUMNS
    (found,) = SyntheticBatches(generator, count, count, seed, guide)
    return found


def save_picture(
    generator: Ensemble,
    path: Path,
    *,
    seed: int,
    class_names: Sequence[str] | None = None,
    guide: Guide | None = None,
) -> Path:
    """A grid of samples: a column for each of ``shown_classes``, 6 rows, of the generators in turn.

    Samples below 64 pixels are enlarged by a whole factor. The column's head is the class name or number; samples
    without labels have ten columns without heads. Guided samples are the first of ``seed``, each below its class.
    """
    spec = generator.config.spec

    def heads_of(classes: Sequence[int]) -> list[str]:
        return [class_names[c] if class_names else str(c) for c in classes]

    if guide is not None:
        x, labels = first_guided(generator, seed, guide)
        return save_sheet(x.cpu(), spec, path, heads=heads_of(labels.tolist()))
    one, columns = generator.config.classes == 1, shown_classes(generator)
    columns = columns * MOST_COLUMNS if one else columns
    z, _ = generator.draw(ROWS * len(columns), seed, 0)
    turns = torch.arange(ROWS) % len(generator.members)
    generator.eval()
    with torch.no_grad():
        made = generator(z, torch.cartesian_prod(turns, torch.tensor(columns)))
    return save_sheet(made.cpu(), spec, path, columns=len(columns), heads=[] if one else heads_of(columns))


def save_sheet(
    samples: Float[Tensor, "samples channels height width"],
    spec: InputSpec,
    path: Path,
    *,
    columns: int = MOST_COLUMNS,
    heads: Sequence[str] = (),
) -> Path:
    """``save_tiles`` of ``samples``."""
    tiles = [tile_from_sample(sample, spec) for sample in samples]
    return save_tiles(tiles, path, columns=columns, heads=heads)


def save_tiles(tiles: Sequence[Image.Image], path: Path, *, columns: int, heads: Sequence[str] = ()) -> Path:
    """A grid of ``tiles``, all of one size, row by row, with a head for each column, for each tile, or without."""
    width, height = tiles[0].size
    columns = min(columns, len(tiles))
    rows, headed = -(-len(tiles) // columns), -(-len(heads) // columns)
    size = columns * (width + GAP) + GAP, headed * HEADER + rows * (height + GAP) + GAP
    picture = Image.new("RGB", size, "white")
    corners = [
        (GAP + column * (width + GAP), GAP + row * (height + GAP) + HEADER * min(row + 1, headed))
        for row in range(rows)
        for column in range(columns)
    ]
    for tile, corner in zip(tiles, corners, strict=False):
        picture.paste(tile, corner)
    for head, corner in zip(heads, corners, strict=False):
        write_head(picture, head, corner, width)
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


def write_head(picture: Image.Image, head: str, corner: tuple[int, int], width: int) -> None:
    """The head above the tile with this upper left ``corner``, cut to the tile's width."""
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default()
    fits = [n for n in range(1, len(head) + 1) if draw.textlength(head[:n], font=font) <= width]
    x, y = corner
    draw.text((x, y - HEADER - GAP + 2), head[: max(fits, default=1)], fill="black", font=font)
