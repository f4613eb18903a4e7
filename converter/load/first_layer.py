"""A network's first convolution with the batch norm behind it, found by running the network on a few images.

What runs is seen below the modules, so a module of any shape and a graph are looked at in the same way.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

_CONVOLUTION = torch.ops.aten.convolution.default
_BATCH_NORMS = {
    torch.ops.aten.native_batch_norm.default: (3, 4),
    torch.ops.aten._native_batch_norm_legit.default: (3, 4),
    torch.ops.aten._native_batch_norm_legit_no_training.default: (3, 4),
    torch.ops.aten.cudnn_batch_norm.default: (3, 4),
}
"""Operators -> the places of the running mean and variance among their arguments."""
_LEAST_FILTERS = 2
"""Filters for each channel of the image, below which nothing could be told from them."""


@dataclass(frozen=True)
class FirstLayer:
    """``weight`` of the convolution as applied to the network's own input, and what the batch norm remembers.

    The convolution sees ``matrix @ pixel + offset`` of each pixel, the identity unless the network normalises its
    input itself. ``inside`` says for each tap of the kernel and each place of the output whether the tap lies on the
    image or on the border of zeros around it.
    """

    weight: Float[Tensor, "filters channels height width"]
    bias: Float[Tensor, "filters"]
    mean: Float[Tensor, "filters"]
    variance: Float[Tensor, "filters"]
    matrix: Float[Tensor, "channels channels"]
    offset: Float[Tensor, "channels"]
    inside: Bool[Tensor, "taps places"]
    dilation: tuple[int, int]


@dataclass(frozen=True)
class _Seen:
    """What one image met: the input of the convolution, all its arguments, and the batch norm's statistics."""

    image: Float[Tensor, "1 channels height width"]
    arguments: tuple[Any, ...]
    mean: Float[Tensor, "filters"]
    variance: Float[Tensor, "filters"]


class _FoundError(BaseException):
    """Ends the forward pass; no Exception, which the network's own code might handle."""


class _Watch(TorchDispatchMode):
    """Ends the forward pass at the batch norm that takes what the first convolution gave."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: _Seen | None = None
        self._arguments: tuple[Any, ...] = ()
        self._output: Tensor | None = None
        self._version = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (places := _BATCH_NORMS.get(func)) is not None and self._is_output(args[0]):
            mean, variance = (args[place] for place in places)
            if mean is not None and variance is not None:
                self.seen = _Seen(self._arguments[0], self._arguments, mean, variance)
                raise _FoundError
        result = func(*args, **(kwargs or {}))
        if func is _CONVOLUTION and self._output is None:
            self._arguments, self._output, self._version = args, result, result._version
        return result

    def _is_output(self, x: Tensor) -> bool:
        output = self._output
        # A version of its own for each change in place, as of a ReLU before the batch norm.
        return output is not None and x is output and x._version == self._version


def first_layer(module: nn.Module, shape: tuple[int, int, int]) -> FirstLayer | None:
    """The first convolution of ``module`` and the batch norm right behind it.

    None where there is none, where the convolution takes anything but the image with its channels scaled, shifted or
    mixed, or where the batch norm remembers nothing yet.
    """
    channels = shape[0]
    random = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    flat = torch.zeros(1 + channels, *shape)
    for channel in range(channels):
        flat[1 + channel, channel] = 1
    seen = [_watched(module, x) for x in (*flat.split(1), random)]
    if any(one is None for one in seen):
        return None
    found = [one for one in seen if one is not None]
    inputs = [one.image for one in found]
    weight, bias, *sizes, transposed, _, groups = found[0].arguments[1:9]
    if transposed or weight.dim() != 4 or inputs[0].dim() != 4 or inputs[0].shape[1] != channels:
        return None
    stride, padding, dilation = (
        tuple(size) * (2 // len(size)) for size in sizes
    )  # one number is for both axes
    border = _border(inputs, shape, [channels, *weight.shape[2:]])
    mean, variance = found[0].mean.detach().double(), found[0].variance.detach().double()
    if border is None or _is_new(mean, variance) or len(weight) < _LEAST_FILTERS * channels:
        return None
    inside = torch.nn.functional.unfold(
        border.on_image, weight.shape[2:], dilation=dilation, padding=padding, stride=stride
    )[0]
    return FirstLayer(
        weight=_ungrouped(weight.detach(), groups).double(),
        bias=torch.zeros_like(mean) if bias is None else bias.detach().double(),
        mean=mean,
        variance=variance,
        matrix=border.matrix,
        offset=border.offset,
        inside=inside > 0,
        dilation=(dilation[0], dilation[1]),
    )


@torch.no_grad()
def _watched(module: nn.Module, x: Float[Tensor, "1 channels height width"]) -> _Seen | None:
    """What ``x`` meets in ``module``; None where no convolution leads to a batch norm, or the network fails."""
    watch = _Watch()
    run = (
        module.forward if isinstance(module, fx.GraphModule) else module
    )  # called, it prints what goes wrong
    try:
        with watch:
            run(x)
    except _FoundError:
        return watch.seen
    except Exception:  # noqa: BLE001 - the network's forward is the user's code; what fails is told of later
        return None
    return None


@dataclass(frozen=True)
class _Border:
    """What becomes of a pixel before the convolution, and where the image lies in what it takes."""

    matrix: Float[Tensor, "channels channels"]
    offset: Float[Tensor, "channels"]
    on_image: Float[Tensor, "1 1 height width"]


def _border(inputs: list[Tensor], shape: tuple[int, int, int], kernel: list[int]) -> _Border | None:
    """How the inputs of the convolution follow from the images: black, one channel white each, random ones."""
    *flat, random = inputs
    _, height, width = shape
    more_y, more_x = (size - side for size, side in zip(random.shape[2:], (height, width), strict=True))
    if not (0 <= more_y <= 2 * kernel[1] and 0 <= more_x <= 2 * kernel[2]):
        return None
    middle = [x[0, :, x.shape[2] // 2, x.shape[3] // 2] for x in flat]
    offset, matrix = middle[0], torch.stack([value - middle[0] for value in middle[1:]], dim=1)
    pixels = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    expected = torch.einsum("ij,bjyx->biyx", matrix, pixels) + offset.view(1, -1, 1, 1)
    for top in range(more_y + 1):
        for left in range(more_x + 1):
            part = random[:, :, top : top + height, left : left + width]
            if torch.allclose(part, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())):
                on_image = torch.zeros(1, 1, *random.shape[2:])
                on_image[:, :, top : top + height, left : left + width] = 1
                return _Border(matrix.double(), offset.double(), on_image)
    return None


def _is_new(mean: Float[Tensor, "filters"], variance: Float[Tensor, "filters"]) -> bool:
    """Whether the batch norm is as it was made."""
    return bool((mean == 0).all() and (variance == 1).all())


def _ungrouped(weight: Tensor, groups: int) -> Float[Tensor, "filters channels height width"]:
    """The weights of a convolution of one group that does the same."""
    if groups == 1:
        return weight
    filters, each = weight.shape[0] // groups, weight.shape[1]
    whole = weight.new_zeros(weight.shape[0], groups * each, *weight.shape[2:])
    for group in range(groups):
        rows = slice(group * filters, (group + 1) * filters)
        whole[rows, group * each : (group + 1) * each] = weight[rows]
    return whole
