"""What the converter's own types of options take, and what they refuse."""

import click
import pytest

from converter.cli.params import ResizeType
from converter.errors import OptionsError
from converter.options import ImageOptions


@pytest.mark.parametrize(("text", "size"), [("256", 256), ("240x320", (240, 320)), ("352X352", (352, 352))])
def test_a_shorter_side_or_height_and_width(text: str, size: int | tuple[int, int]) -> None:
    assert ResizeType()(text) == size
    assert ImageOptions(resize=ResizeType()(text)).resize == size


@pytest.mark.parametrize("text", ["0", "-8", "1.5", "240x0", "3x240x320", "240x", "x", "", "240,320"])
def test_other_sizes_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"for example 256, or height x width, for example 240x320"):
        ResizeType().convert(text, None, None)


@pytest.mark.parametrize("size", [0, (0, 8), (8, -1)])
def test_no_side_is_less_than_a_pixel(size: int | tuple[int, int]) -> None:
    with pytest.raises(OptionsError, match="--resize of at least 1 pixel"):
        ImageOptions(resize=size)
