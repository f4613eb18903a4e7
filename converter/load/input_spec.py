"""The shape of the input: from the user's options, the file, or the training of torchvision's weights."""

from dataclasses import dataclass
from typing import Any

from calibrators.data.input_spec import PRESETS
from converter.errors import LoadError, OptionsError
from converter.load.options import ModelOptions


@dataclass(frozen=True)
class Origin:
    """What is known of the input besides the options.

    ``weights`` are the torchvision weights (an entry of its enum) whose preprocessing applies; ``assumed``
    says that it's a guess from the architecture. ``sizes`` are (channels, height, width) as the file fixed
    them, -1 where it leaves one open. ``white`` is the value of a white pixel, where the network normalises its own
    input and black is 0.
    """

    weights: Any | None = None
    assumed: bool = False
    sizes: tuple[int, ...] = (-1, -1, -1)
    white: float | None = None


def shape_from_options(options: ModelOptions, origin: Origin) -> tuple[int, int, int]:
    """The flag's shape, else the file's fixed one, the preset's, or the crop of torchvision's weights.

    Raises OptionsError where none is known, LoadError where the flag contradicts the file.
    """
    sizes = origin.sizes
    if options.input_shape is not None:
        if any(fixed not in (-1, given) for fixed, given in zip(sizes, options.input_shape, strict=True)):
            raise LoadError(
                f"the file was exported for inputs of {times(sizes)}, got --input-shape "
                f"{times(options.input_shape)}; leave the flag out"
            )
        return options.input_shape
    if min(sizes) > 0:
        return (sizes[0], sizes[1], sizes[2])
    preset = None if options.preset is None else PRESETS[options.preset].shape
    if preset is not None:
        return preset
    if origin.weights is not None:
        (crop,) = set(origin.weights.transforms().crop_size)
        return (3, crop, crop)
    raise OptionsError(
        "the input's shape is unknown: type --input-shape, for example --input-shape 3x32x32, or a --preset "
        f"that has one ({'|'.join(name for name, entry in PRESETS.items() if entry.shape)})"
    )


def times(shape: tuple[int, ...]) -> str:
    """The shape as it is typed."""
    return "x".join(str(size) if size > 0 else "?" for size in shape)
