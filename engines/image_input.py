"""The input that every engine requires of a network."""

from collections.abc import Sequence

IMAGE_INPUT = "one image input (batch, channels, height, width), of which only the batch is dynamic"


def image_shape(shapes: Sequence[Sequence[object]]) -> tuple[int, int, int] | None:
    """(channels, height, width) where ``shapes``, those of all inputs, are as ``IMAGE_INPUT`` says; else None.

    A dynamic size is a number below 1, or no number.
    """
    if len(shapes) != 1 or len(shapes[0]) != 4:
        return None
    fixed = [size for size in shapes[0][1:] if isinstance(size, int) and size > 0]
    return (fixed[0], fixed[1], fixed[2]) if len(fixed) == 3 else None
