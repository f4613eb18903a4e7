"""``samples.png`` and ``answers.png`` as parts of the page."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

LARGEST_PNG = 500_000
"""Bytes. A picture of 32-pixel samples has 200 kB; one of 224-pixel samples several MB."""
WIDEST = 1600
"""Pixels: as wide as a page on a screen with two dots a pixel."""
QUALITY = 85


@dataclass(frozen=True)
class Picture:
    """An image whose ``source`` is itself, as a data URI; its size in pixels keeps its place while it is read."""

    source: str
    width: int
    height: int


def picture_from_file(path: Path) -> Picture:
    """The PNG at ``path`` as it is, or as a JPEG of at most ``WIDEST`` pixels where it is large."""
    content, kind = path.read_bytes(), "png"
    with Image.open(io.BytesIO(content)) as image:
        if len(content) > LARGEST_PNG:
            image = image.convert("RGB")  # noqa: PLW2901
            image.thumbnail((WIDEST, WIDEST))
            buffer = io.BytesIO()
            image.save(buffer, format="JPEG", quality=QUALITY)
            content, kind = buffer.getvalue(), "jpeg"
        width, height = image.size
    return Picture(f"data:image/{kind};base64,{base64.b64encode(content).decode()}", width, height)
