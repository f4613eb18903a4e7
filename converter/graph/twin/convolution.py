"""Convolutions."""

import torch.nn.functional as F
from torch import Tensor

from converter.graph.twin.table import operator
from converter.graph.twin.values import AutoPad
from converter.graph.twin.windows import explicit_pads, padded, spans

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@operator("Conv")
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: AutoPad = "NOTSET",
    dilations: tuple[int, ...] = (),
    group: int = 1,
    kernel_shape: tuple[int, ...] = (),
    pads: tuple[int, ...] = (),
    strides: tuple[int, ...] = (),
) -> Tensor:
    rank = x.ndim - 2
    dilations, strides = dilations or (1,) * rank, strides or (1,) * rank
    kernel = kernel_shape or tuple(weight.shape[2:])
    begin, end = explicit_pads(x.shape[2:], spans(kernel, dilations), strides, pads, auto_pad)
    if begin != end:
        x, begin = padded(x, begin, end), [0] * rank
    return _CONVOLUTIONS[rank](x, weight, bias, strides, begin, dilations, group)


@operator("ConvTranspose")
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: AutoPad = "NOTSET",
    dilations: tuple[int, ...] = (),
    group: int = 1,
    kernel_shape: tuple[int, ...] = (),
    output_padding: tuple[int, ...] = (),
    output_shape: tuple[int, ...] = (),
    pads: tuple[int, ...] = (),
    strides: tuple[int, ...] = (),
) -> Tensor:
    rank = x.ndim - 2
    dilations, strides = dilations or (1,) * rank, strides or (1,) * rank
    extra = output_padding or (0,) * rank
    sizes = list(x.shape[2:])
    if output_shape or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        wanted = output_shape[-rank:] or [s * stride for s, stride in zip(sizes, strides, strict=True)]
        windows = spans(kernel_shape or tuple(weight.shape[2:]), dilations)
        rows = zip(sizes, strides, windows, extra, wanted, strict=True)
        totals = [stride * (size - 1) + window + more - want for size, stride, window, more, want in rows]
        half, rest = [total // 2 for total in totals], [total - total // 2 for total in totals]
        begin, end = (half, rest) if auto_pad == "SAME_UPPER" else (rest, half)
    else:
        begin, end = explicit_pads(sizes, sizes, strides, pads, auto_pad)
    if begin == end and min(begin) >= 0:
        return _TRANSPOSED[rank](x, weight, bias, strides, begin, extra, group, dilations)
    full = _TRANSPOSED[rank](x, weight, bias, strides, 0, extra, group, dilations)
    return padded(full, [-pad for pad in begin], [-pad for pad in end])
