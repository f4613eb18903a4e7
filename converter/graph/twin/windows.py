"""Windows that move over an image: their padding, and sums over them."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from converter.graph.twin.values import AutoPad


def explicit_pads(
    sizes: Sequence[int],
    windows: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    auto_pad: AutoPad,
) -> tuple[list[int], list[int]]:
    """Padding at the begin and at the end of each spatial axis; ``windows`` are as wide as dilation makes them."""
    rank = len(sizes)
    if auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        pads = list(pads) if pads and auto_pad == "NOTSET" else [0] * (2 * rank)
        return pads[:rank], pads[rank:]
    totals = [
        max((-(-size // stride) - 1) * stride + window - size, 0)
        for size, window, stride in zip(sizes, windows, strides, strict=True)
    ]
    smaller, larger = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (smaller, larger) if auto_pad == "SAME_UPPER" else (larger, smaller)


def spans(kernel: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """How wide a dilated kernel is along each axis."""
    return [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]


def padded(x: Tensor, begin: Sequence[int], end: Sequence[int], value: float = 0.0) -> Tensor:
    """``x`` with its last axes padded; negative padding takes away."""
    pairs = [side for pair in zip(reversed(begin), reversed(end), strict=True) for side in pair]
    return F.pad(x, pairs, value=value) if any(pairs) else x


def window_sums(x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Tensor:
    """The sum over each window, one axis after another; no padding."""
    for axis, (size, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True), start=2):
        x = x.unfold(axis, (size - 1) * dilation + 1, stride)[..., ::dilation].sum(-1)
    return x
