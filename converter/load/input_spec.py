"""The shape of the input: from the user's options, the file, or the training of torchvision's weights."""

from dataclasses import dataclass
from typing import Any

from calibrators.data.input_spec import PRESETS
from converter.errors import LoadError, OptionsError
from converter.load.input_size import SizesThatRun
from converter.load.options import ModelOptions
from converter.load.published import Published


@dataclass(frozen=True)
class Origin:
    """What is known of the input besides the options.

    ``weights`` are the torchvision weights (an entry of its enum) whose preprocessing applies; ``assumed``
    says that it's a guess from the architecture. ``sizes`` are (channels, height, width) as the file fixed
    them, -1 where it leaves one open. ``white`` is the value of a white pixel, where the network normalises its own
    input and black is 0. ``published`` is what files beside the weights say. ``tried`` are the usual sizes that the
    network runs on, where nothing else says its size.
    """

    weights: Any | None = None
    assumed: bool = False
    sizes: tuple[int, ...] = (-1, -1, -1)
    white: float | None = None
    published: Published | None = None
    tried: SizesThatRun | None = None


def is_shape_known(options: ModelOptions, origin: Origin) -> bool:
    """Whether ``shape_from_options`` knows the shape without a run of the network."""
    return _known_shape(options, origin) is not None


def shape_from_options(options: ModelOptions, origin: Origin) -> tuple[int, int, int]:
    """The flag's shape, else the file's fixed one, the preset's, the published one, or that of torchvision's weights.

    Without any of these, the only usual one that the network runs on. Raises OptionsError where none is known,
    LoadError where the flag contradicts the file.
    """
    known = _known_shape(options, origin)
    if known is not None:
        return known
    shapes = () if origin.tried is None else origin.tried.shapes
    if len(shapes) == 1:
        return shapes[0]
    reason = ""
    if len(shapes) > 1:
        reason = f" (the network runs on {', '.join(map(times, shapes))})"
    elif origin.tried is not None and origin.tried.any_size:
        reason = f" (the network runs on any; {origin.tried.usual})"
    raise OptionsError(
        f"the input's shape is unknown{reason}: type --input-shape, for example --input-shape "
        f"{times(shapes[0]) if shapes else '3x32x32'}, or a --preset "
        f"that has one ({'|'.join(name for name, entry in PRESETS.items() if entry.shape)})"
    )


def _known_shape(options: ModelOptions, origin: Origin) -> tuple[int, int, int] | None:
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
    if origin.published is not None and origin.published.shape is not None:
        return origin.published.shape
    if origin.weights is not None:
        (crop,) = set(origin.weights.transforms().crop_size)
        return (3, crop, crop)
    return None


def notes_on_shape(options: ModelOptions, origin: Origin, shape: tuple[int, int, int]) -> tuple[str, ...]:
    """What to say of a shape that only the network told, or that was published with a crop."""
    published = origin.published
    if is_shape_known(options, origin):
        if published is None or published.resize is None or shape != published.shape:
            return ()
        return (
            f"{published.source} prepares images as --resize {published.resize} --crop {shape[1]} would for --val",
        )
    return (
        f"input {times(shape)}: the only usual size that the network runs on (--input-shape says otherwise)",
    )


def times(shape: tuple[int, ...]) -> str:
    """The shape as it is typed."""
    return "x".join(str(size) if size > 0 else "?" for size in shape)
