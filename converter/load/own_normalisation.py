"""Networks that normalise their own input, told by the mean and the deviation among their weights."""

import re
from dataclasses import dataclass

from torch import Tensor, nn

from converter.load.state_dict import State

_MEAN = re.compile(r"^((?:.*\.)?(?:\w*_)?)(?:mean|mu)$")
_DEVIATION = ("std", "sigma")
_CHANNELS = (1, 3)


@dataclass(frozen=True)
class OwnNormalisation:
    """What a network subtracts and divides by, by channel; its pixels are 0 to ``white``."""

    mean: Tensor
    std: Tensor
    white: float

    def before(self, network: nn.Module) -> nn.Module:
        """``network`` behind it."""
        return _Normalised(self, network)

    def describe(self) -> str:
        mean, std = (
            ",".join(f"{value:.4g}" for value in values.tolist()) for values in (self.mean, self.std)
        )
        return f"built the normalisation that the file has: (x - mean) / std with mean {mean}, std {std}"


class _Normalised(nn.Module):
    mean: Tensor
    std: Tensor

    def __init__(self, values: OwnNormalisation, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", values.mean.view(1, -1, 1, 1))
        self.register_buffer("std", values.std.view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.network((x - self.mean) / self.std)
        return result


def without_normalisation(state: State) -> tuple[State, OwnNormalisation | None]:
    """``state`` without the one mean and deviation of pixels in it, and these; as it is where there is none."""
    found = [pair for name in state if (pair := _pair(name, state)) is not None]
    if len(found) != 1:
        return state, None
    names = found[0]
    mean, std = (state[name].float().flatten() for name in names)
    white = 1.0 if max(mean.max(), std.max()) <= 1 else 255.0
    rest = {name: value for name, value in state.items() if name not in names}
    return rest, OwnNormalisation(mean, std, white)


def _pair(name: str, state: State) -> tuple[str, str] | None:
    """``name``, if it is a mean of channels, and the name of the deviation beside it."""
    beside = _MEAN.match(name)
    names = [f"{beside[1]}{ending}" for ending in _DEVIATION] if beside else []
    other = next((one for one in names if one in state), None)
    if other is None or not all(_is_of_channels(state[one]) for one in (name, other)):
        return None
    same = state[name].numel() == state[other].numel() and bool((state[other] > 0).all())
    return (name, other) if same else None


def _is_of_channels(value: Tensor) -> bool:
    """Whether ``value`` has one number for each channel of an image: 3, 3x1x1 or 1x3x1x1."""
    return (
        value.is_floating_point()
        and value.numel() in _CHANNELS
        and value.numel() == max(value.shape, default=0)
    )
