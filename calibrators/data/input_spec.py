"""What a valid input of the classifier is: its shape and the bounds of a pixel."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal, get_args

Resize = int | tuple[int, int]
"""What images are resized to: the shorter side, or height and width, to which they are stretched."""


ChannelOrder = Literal["rgb", "bgr"]
"""In which order a network takes the colours of a pixel."""
ORDERS: tuple[ChannelOrder, ...] = get_args(ChannelOrder)


@dataclass(frozen=True)
class Preset:
    """A normalisation that many checkpoints share, of red, green and blue, with its usual input shape and order."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    shape: tuple[int, int, int] | None
    order: ChannelOrder = "rgb"

    def for_channels(
        self, channels: int, order: ChannelOrder | None = None
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and std of each channel in the network's order; those of a grey image are the colours' averages."""
        if channels == 1:
            return (sum(self.mean) / len(self.mean),), (sum(self.std) / len(self.std),)
        step = -1 if (order or self.order) == "bgr" else 1
        values = self.mean[::step], self.std[::step]
        mean, std = (each * channels if len(each) == 1 else each for each in values)
        return mean, std


PRESETS = {
    "imagenet": Preset((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (3, 224, 224)),
    "cifar10": Preset((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), (3, 32, 32)),
    "inception": Preset((0.5,), (0.5,), (3, 299, 299)),
    "unit": Preset((0.0,), (1.0,), None),
    "bytes": Preset((0.0,), (1 / 255,), None),
    "caffe": Preset((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255,), (3, 224, 224), "bgr"),
}


def as_typed(values: Sequence[float]) -> str:
    """Mean or std as a flag takes it; one value where all are alike."""
    return ",".join(f"{value:.6g}" for value in (values[:1] if len(set(values)) == 1 else values))


@dataclass(frozen=True)
class InputSpec:
    """Shape of one input and its normalisation ``(pixel - mean) / std`` for pixels in [0, 1].

    ``shape`` is (channels, height, width). ``mean`` and ``std`` hold one value a channel, in the network's order, which
    is ``channel_order``; a single value is repeated. Raises ValueError for sizes below 1, a wrong number of values, a
    std that is not positive, or an order of colours where there are none.
    """

    shape: tuple[int, int, int]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channel_order: ChannelOrder = "rgb"

    def __post_init__(self) -> None:
        channels = self.shape[0]
        if len(self.shape) != 3 or any(size < 1 for size in self.shape):
            raise ValueError(
                f"expected an input shape CxHxW of sizes from 1 up, got {'x'.join(map(str, self.shape))}; "
                "type for example --input-shape 3x224x224"
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise ValueError(
                    f"expected one value for --{name}, or one for each of the input's {channels} channels, "
                    f"got {len(values)}"
                )
            object.__setattr__(self, name, tuple(values) * (channels // len(values)))
        if not all(value > 0 and isfinite(value) for value in self.std):
            raise ValueError(f"expected --std above 0 and finite, got {', '.join(map(str, self.std))}")
        if not all(map(isfinite, self.mean)):
            raise ValueError(f"expected finite --mean, got {', '.join(map(str, self.mean))}")
        if self.channel_order not in ORDERS:
            raise ValueError(f"expected --channel-order {'|'.join(ORDERS)}, got {self.channel_order!r}")
        if self.channel_order == "bgr" and channels != 3:
            raise ValueError(
                f"expected an input of 3 channels for --channel-order bgr, got {channels}; leave it out"
            )

    @property
    def flags(self) -> str:
        """What to type for this normalisation."""
        order = "" if self.channel_order == "rgb" else f" --channel-order {self.channel_order}"
        return f"--mean {as_typed(self.mean)} --std {as_typed(self.std)}{order}"

    @property
    def low(self) -> tuple[float, ...]:
        """Normalised value of a black pixel, per channel."""
        return tuple((0.0 - m) / s for m, s in zip(self.mean, self.std, strict=True))

    @property
    def high(self) -> tuple[float, ...]:
        """Normalised value of a white pixel, per channel."""
        return tuple((1.0 - m) / s for m, s in zip(self.mean, self.std, strict=True))
