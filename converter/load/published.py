"""What is published beside the weights: ``config.json`` of timm or transformers and ``preprocessor_config.json``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import floor
from pathlib import Path
from typing import Any

from converter.errors import LoadError
from converter.load.folder import json_from
from zscgan_common.text import shortened

_MODEL_CONFIG, _PROCESSOR_CONFIG = "config.json", "preprocessor_config.json"
_LARGEST = 1e6
"""Of sizes and other numbers; JSON can hold such as no float can."""
_WARPED = 384
"""From this size on, ConvNeXt's processor stretches images and crops nothing."""
_TEXT = (
    "CausalLM",
    "LMHeadModel",
    "ConditionalGeneration",
    "MaskedLM",
    "SequenceClassification",
    "TokenClassification",
)


@dataclass(frozen=True)
class Published:
    """What files beside the weights say of the network; None where they don't.

    ``arch`` is ``timm:NAME`` or ``transformers:CLASS``, ``arguments`` are what timm's builder gets besides. ``shape``,
    ``mean`` and ``std`` are those of the input, for pixels in [0, 1]; ``bgr`` says that the network takes blue first,
    ``resize`` is the shorter side that images have before the crop.
    ``source`` is the file for messages, ``folder`` where it lies, None where no file says it.
    """

    arch: str | None
    shape: tuple[int, int, int] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    class_names: tuple[str, ...] | None
    source: str
    folder: Path | None = None
    classes: int | None = None
    bgr: bool = False
    resize: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


def published_beside(file: Path) -> Published | None:
    """What the files beside ``file`` say; one that isn't of timm or transformers says nothing."""
    try:
        return published_in(file.parent)
    except LoadError:
        return None


def published_in(folder: Path) -> Published | None:
    """What the files in ``folder`` say, or None where there are none, or none of timm's or transformers'.

    Raises LoadError for a damaged file, and for a network of text.
    """
    if not (folder / _MODEL_CONFIG).is_file():
        return None
    config = json_from(folder / _MODEL_CONFIG)
    if isinstance(config.get("architecture"), str):
        return _of_timm(config, folder)
    if isinstance(config.get("model_type"), str) or isinstance(config.get("architectures"), list):
        return _of_transformers(config, folder)
    if "_class_name" in config:
        raise LoadError(
            f"{folder / _MODEL_CONFIG} is of {_said(config, '_class_name')}, a network for diffusion; expected "
            "one of images alone"
        )
    return None


def _said(config: Mapping[str, Any], key: str) -> str:
    return shortened(str(config.get(key)), 80)


def _of_timm(config: Mapping[str, Any], folder: Path) -> Published:
    """timm's: ``pretrained_cfg`` has the input, old files have all on one level."""
    nested = config.get("pretrained_cfg")
    input_of = nested if isinstance(nested, dict) else config
    arguments = config.get("model_args")
    shape = _sizes(input_of.get("input_size"))
    classes = config.get("num_classes", input_of.get("num_classes"))
    return Published(
        arch=f"timm:{config['architecture']}",
        shape=shape,
        mean=_numbers(input_of.get("mean")),
        std=_numbers(input_of.get("std")),
        class_names=_names(config.get("label_names", input_of.get("label_names")), classes),
        source=_MODEL_CONFIG,
        folder=folder,
        classes=classes if isinstance(classes, int) else None,
        resize=_resize(shape, input_of.get("crop_pct")),
        arguments=arguments if isinstance(arguments, dict) else {},
    )


def _of_transformers(config: Mapping[str, Any], folder: Path) -> Published:
    """transformers': the class and its names in config.json, the input in preprocessor_config.json."""
    classes = config.get("architectures")
    name = shortened(str(classes[0]), 80) if isinstance(classes, list) and classes else ""
    if any(name.endswith(ending) for ending in _TEXT):
        raise LoadError(
            f"{folder / _MODEL_CONFIG} is of {name} ({_said(config, 'model_type')}), a network of text; expected one "
            "whose only input is an image, such as ResNetForImageClassification"
        )
    processor: Mapping[str, Any] = {}
    if (folder / _PROCESSOR_CONFIG).is_file():
        processor = json_from(folder / _PROCESSOR_CONFIG)
    mean, std = _normalisation(processor)
    shape = _shape(config, processor)
    sides = processor.get("size")
    shortest = sides.get("shortest_edge") if isinstance(sides, dict) else None
    resize = (
        _resize(shape, processor.get("crop_pct"))
        if isinstance(shortest, int) and shortest < _WARPED
        else None
    )
    if processor.get("do_center_crop") and isinstance(shortest, int) and resize is None:
        resize = shortest
    labels = config.get("id2label")
    ordered = [labels.get(str(i)) for i in range(len(labels))] if isinstance(labels, dict) else None
    return Published(
        arch=f"transformers:{name}" if name else None,
        shape=shape,
        mean=mean,
        std=std,
        class_names=_names(ordered, None),
        source=_PROCESSOR_CONFIG if processor else _MODEL_CONFIG,
        folder=folder,
        resize=resize,
        bgr=processor.get("do_flip_channel_order") is True,
    )


def _normalisation(processor: Mapping[str, Any]) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and deviation for pixels p in [0, 1], of which the processor makes ``(255 p factor - mean) / std``."""
    if not processor:
        return None, None
    factor = processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1.0
    offset = 1.0 if processor.get("rescale_offset") is True else 0.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    # MobileViT's, which turns the channels round, says nothing and normalises nothing.
    usual = "image_mean" in processor and "do_flip_channel_order" not in processor
    if processor.get("do_normalize", usual):
        mean, std = _numbers(processor.get("image_mean")) or (), _numbers(processor.get("image_std")) or ()
    if _numbers(factor) is None or factor <= 0 or not mean or not std or min(std) <= 0:
        return None, None
    if str(processor.get("image_processor_type")).startswith("EfficientNet") and processor.get(
        "include_top", True
    ):
        # EfficientNet's processor divides by the deviation twice: (x / std) of what was normalised already.
        again = _numbers(processor.get("image_std")) or (1.0,)
        scaled = tuple(s * a for s, a in zip(std * (len(again) // len(std)), again, strict=True))
    else:
        scaled = std
    white = 255 * factor
    return tuple((m + offset) / white for m in mean), tuple(s / white for s in scaled)


def _shape(config: Mapping[str, Any], processor: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """The input's shape: the processor's crop, else its size, else the network's own."""
    channels = config.get("num_channels", 3)
    crop = processor.get("crop_size") if processor.get("do_center_crop") else None
    for size in (crop, processor.get("size"), config.get("image_size")):
        if isinstance(size, dict):
            height = size.get("height", size.get("shortest_edge"))
            shape = _sizes([channels, height, size.get("width", height)])
        elif isinstance(size, list):
            shape = _sizes([channels, *size])
        else:
            shape = _sizes([channels, size, size])
        if shape is not None:
            return shape
    return None


def _resize(shape: tuple[int, int, int] | None, crop_pct: object) -> int | None:
    """The shorter side of which a crop of ``shape`` is the share ``crop_pct``."""
    if shape is None or not isinstance(crop_pct, int | float) or not 0 < crop_pct < 1:
        return None
    return floor(shape[1] / crop_pct)


def _sizes(value: object) -> tuple[int, int, int] | None:
    if (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(n, int) and 0 < n < _LARGEST for n in value)
    ):
        return (value[0], value[1], value[2])
    return None


def _numbers(value: object) -> tuple[float, ...] | None:
    values = value if isinstance(value, list) else [value]
    numbers = tuple(float(n) for n in values if isinstance(n, int | float) and abs(n) < _LARGEST)
    return numbers if numbers and len(numbers) == len(values) else None


def _names(labels: object, classes: object) -> tuple[str, ...] | None:
    """Names of the classes; transformers numbers those without a name LABEL_0 and on."""
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        return None
    if isinstance(classes, int) and classes != len(labels):
        return None
    return None if all(label.startswith("LABEL_") for label in labels) else tuple(labels)
