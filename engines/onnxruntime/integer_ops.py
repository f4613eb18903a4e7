"""ONNX Runtime's integer operators for one convolution or fully connected layer of a Q/DQ network."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from engines.onnx_passes.graph import Array, OnnxGraph, attributes, is_scale
from engines.onnxruntime.uint8_activations import is_uint8
from zscgan_common.int32_bias import LARGEST_BIAS

CONTRIB = "com.microsoft"
# Begins the names of the MatMulIntegerToFloat nodes that were convolutions.
INT8_CONVOLUTION = "int8_convolution/"
# A scale that was raised so that its bias has LARGEST_BIAS steps is a float32, by which it may have a few more.
_MOST_STEPS = LARGEST_BIAS * (1 + 2**-20)


@dataclass(frozen=True)
class _Operands:
    """Quantized inputs of a layer: codes (uint8) with scale and zero point, weights (int8), float bias."""

    codes: str
    scale: str
    zero_point: str
    signed: bool
    weight_name: str
    weight: Array
    weight_scale: Array
    bias: Array | None

    def kernel_weight(self, weight: Array) -> Array:
        """Weights for the kernel that is exact for these codes: int8 beside 0…127, else uint8 around 128."""
        if not self.signed:
            return weight
        return (weight.astype(np.int16) + 128).astype(np.uint8)


def _operands(
    graph: OnnxGraph, node: NodeProto, producers: Mapping[str, NodeProto], axis: int
) -> _Operands | None:
    """The operands of ``node``, None where one of them isn't quantized in the way that ``lowering`` writes.

    ``axis`` is the weight's axis of output channels.
    """
    data, kernel = (producers.get(name) for name in node.input[:2])
    if data is None or kernel is None or not data.op_type == kernel.op_type == "DequantizeLinear":
        return None
    zero = graph.constants.get(data.input[2]) if len(data.input) > 2 else None
    weight, scale = graph.constants.get(kernel.input[0]), graph.constants.get(kernel.input[1])
    if zero is None or zero.dtype != np.uint8 or weight is None or weight.dtype != np.int8 or scale is None:
        return None
    weight_zero = graph.constants.get(kernel.input[2]) if len(kernel.input) > 2 else np.zeros(1, np.int8)
    if weight_zero is None or np.any(weight_zero) or not is_scale(scale):
        return None
    per_channel = attributes(kernel).get("axis", 1) % weight.ndim == axis and scale.ndim == 1
    if scale.size != 1 and not per_channel:
        return None
    bias_name = node.input[2] if len(node.input) > 2 else ""
    bias = graph.constants.get(bias_name)
    if bias_name and bias is None:
        return None
    scale = np.ascontiguousarray(np.broadcast_to(scale.reshape(-1), (weight.shape[axis],)))
    return _Operands(
        data.input[0], data.input[1], data.input[2], bool(zero), kernel.input[0], weight, scale, bias
    )


def quantized_convolution(
    graph: OnnxGraph, node: NodeProto, quantizer: NodeProto, producers: Mapping[str, NodeProto]
) -> bool:
    """Writes ``node`` and its ``quantizer`` as one QLinearConv; False where that can't be exact."""
    operands = _operands(graph, node, producers, axis=0)
    if operands is None:
        return False
    scale, bias = _integer_bias(operands, graph.constants[operands.scale].item())
    if bias is not None and not np.all(np.abs(bias) <= _MOST_STEPS):  # nor NaN
        return False
    name, weight = operands.weight_name, operands.kernel_weight(operands.weight)
    inputs = [
        operands.codes, operands.scale, operands.zero_point,
        graph.constant(f"{name}_{weight.dtype}", weight),
        graph.constant(f"{name}_scale", scale),
        graph.constant(f"{name}_zero", np.full(len(scale), 128 if operands.signed else 0, weight.dtype)),
        quantizer.input[1], quantizer.input[2],
    ]  # fmt: skip
    if bias is not None:
        inputs.append(graph.constant(f"{name}_bias", bias.astype(np.int32)))
    graph.write("QLinearConv", inputs, quantizer.output[0], **attributes(node))
    return True


def _integer_bias(operands: _Operands, scale: float) -> tuple[Array, Array | None]:
    """Weight scales, and the bias rounded to units of ``s_x·s_w`` (float64 whole numbers).

    A channel of zeros has the same products with any scale; it gets the one that holds its bias best.
    """
    weight_scale = operands.weight_scale
    if operands.bias is None:
        return weight_scale, None
    bias = operands.bias.astype(np.float64)
    empty = ~operands.weight.reshape(len(weight_scale), -1).any(axis=1)
    fine = (np.maximum(np.abs(bias), 1e-6) / 2**20 / scale).astype(np.float32)
    weight_scale = np.where(empty, fine, weight_scale)
    return weight_scale, np.rint(bias / (scale * weight_scale.astype(np.float64)))


@dataclass(frozen=True)
class _Geometry:
    """Where a two-dimensional convolution reads: (height, width) pairs, pads of the top and the left edge."""

    channels: int
    source: tuple[int, int]
    target: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int]

    @property
    def is_pointwise(self) -> bool:
        return self.kernel == (1, 1) and self.source == self.target and self.pads == (0, 0)

    def pixels(self) -> Array:
        """Pixel that each position of the kernel reads, int32 (out height, out width, kernel h, kernel w).

        Outside of the image that is pixel ``height·width``, one behind the last.
        """
        rows, columns = (
            np.arange(self.target[axis])[:, None] * self.strides[axis]
            - self.pads[axis]
            + np.arange(self.kernel[axis])[None, :] * self.dilations[axis]
            for axis in (0, 1)
        )
        rows, columns = rows[:, None, :, None], columns[None, :, None, :]
        height, width = self.source
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        return np.where(inside, rows * width + columns, height * width).astype(np.int32)


def _geometry(graph: OnnxGraph, node: NodeProto, weight: Array) -> _Geometry | None:
    """None for a convolution that isn't two-dimensional, is grouped or has sizes known only at run time."""
    given = attributes(node)
    source, target = graph.shapes.get(node.input[0]), graph.shapes.get(node.output[0])
    if weight.ndim != 4 or given.get("group", 1) != 1 or given.get("auto_pad", b"NOTSET") != b"NOTSET":
        return None
    if source is None or target is None:
        return None
    channels, *sizes = (*source[1:], *target[2:])
    if channels is None or len(sizes) != 4 or None in sizes:
        return None
    height, width, out_height, out_width = (int(size or 0) for size in sizes)
    pads, strides, dilations = (
        tuple(given.get(key, [default, default])[:2])
        for key, default in (("pads", 0), ("strides", 1), ("dilations", 1))
    )
    kernel = (weight.shape[2], weight.shape[3])
    return _Geometry(channels, (height, width), (out_height, out_width), kernel, strides, dilations, pads)


def float_convolution(graph: OnnxGraph, node: NodeProto, producers: Mapping[str, NodeProto]) -> bool:
    """Writes a convolution with a float result as a product of gathered patches; False where it can't.

    ONNX Runtime has no fast convolution from uint8 to float (``ConvInteger`` takes longer than FP32), so:
    channels last, one ``Gather`` of the patches, ``MatMulIntegerToFloat`` with the float bias, channels first
    again. The transposes cancel with those that ONNX Runtime puts round the neighbouring QLinearConv.
    """
    operands = _operands(graph, node, producers, axis=0)
    geometry = None if operands is None else _geometry(graph, node, operands.weight)
    if operands is None or geometry is None:
        return False
    name, channels_out = node.output[0], operands.weight.shape[0]
    matrix = operands.weight.transpose(2, 3, 1, 0).reshape(-1, channels_out)
    pixels = graph.add("Transpose", [operands.codes], f"{operands.codes}_nhwc", perm=[0, 2, 3, 1])
    rows = pixels if geometry.is_pointwise else _patches(graph, geometry, operands, pixels, name)
    product = graph.unique(f"{name}_product")
    _product(graph, operands, rows, matrix, product, name=f"{INT8_CONVOLUTION}{name}")
    if not geometry.is_pointwise:
        size = graph.constant(f"{name}_size", np.array([-1, *geometry.target, channels_out], np.int64))
        product = graph.add("Reshape", [product, size], f"{name}_nhwc")
    graph.write("Transpose", [product], name, perm=[0, 3, 1, 2])
    return True


def _patches(graph: OnnxGraph, geometry: _Geometry, operands: _Operands, pixels: str, name: str) -> str:
    """Codes (batch, height, width, channels) → (batch, out positions, kernel positions · channels)."""
    table = geometry.pixels()
    flat = graph.constant(f"pixels_{geometry.channels}", np.array([0, -1, geometry.channels], np.int64))
    rows = graph.add("Reshape", [pixels, flat], f"{name}_pixels")
    if (table == geometry.source[0] * geometry.source[1]).any():
        one_pixel = graph.constant("one_pixel", np.array([0, 0, 0, 0, 1, 0], np.int64))
        rows = graph.add("Pad", [rows, one_pixel, operands.zero_point], f"{name}_padded")
    # Layers of the same geometry share one table, whatever their channels.
    shared = "patches_" + "_".join(str(size) for size in (*geometry.source, *table.shape, *geometry.strides))
    rows = graph.add("Gather", [rows, graph.constant(shared, table.ravel())], f"{name}_gather", axis=1)
    positions, columns = table.shape[0] * table.shape[1], table.shape[2] * table.shape[3] * geometry.channels
    size = graph.constant(f"{name}_rows", np.array([-1, positions, columns], np.int64))
    return graph.add("Reshape", [rows, size], f"{name}_patches")


def fully_connected(graph: OnnxGraph, node: NodeProto, producers: Mapping[str, NodeProto]) -> bool:
    """Writes a Gemm or MatMul with quantized inputs as MatMulIntegerToFloat; False where it can't."""
    given = attributes(node)
    transposed = bool(given.get("transB", 0))
    operands = _operands(graph, node, producers, axis=0 if transposed else 1)
    if operands is None or operands.weight.ndim != 2:
        return False
    if given.get("transA", 0) or given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0:
        return False
    matrix = operands.weight.T if transposed else operands.weight
    if operands.bias is not None and operands.bias.shape != (matrix.shape[1],):
        return False
    _product(graph, operands, operands.codes, matrix, node.output[0])
    return True


def product_of_activations(graph: OnnxGraph, node: NodeProto, producers: Mapping[str, NodeProto]) -> bool:
    """Writes a MatMul of two quantized activations as MatMulIntegerToFloat; False where an operand is no uint8."""
    left, right = (producers.get(name) for name in node.input[:2])
    if (
        node.op_type != "MatMul"
        or left is None
        or right is None
        or not left.op_type == right.op_type == "DequantizeLinear"
    ):
        return False
    if not all(is_uint8(graph, operand) for operand in (left, right)):
        return False
    pairs = zip(left.input, right.input, strict=True)
    graph.write(
        "MatMulIntegerToFloat", [name for pair in pairs for name in pair], node.output[0], domain=CONTRIB
    )
    return True


def _product(
    graph: OnnxGraph, operands: _Operands, rows: str, matrix: Array, output: str, *, name: str = ""
) -> None:
    """Writes ``output = s_x·s_w·(rows - zero)·matrix + bias`` in float."""
    weight = operands.kernel_weight(np.ascontiguousarray(matrix))
    zero = np.full(matrix.shape[1], 128 if operands.signed else 0, weight.dtype)
    prefix = operands.weight_name
    inputs = [
        rows, graph.constant(f"{prefix}_matrix", weight), operands.scale,
        graph.constant(f"{prefix}_scale", operands.weight_scale), operands.zero_point,
        graph.constant(f"{prefix}_zero", zero),
    ]  # fmt: skip
    if operands.bias is not None:
        inputs.append(graph.constant(f"{prefix}_bias_float", operands.bias))
    graph.write("MatMulIntegerToFloat", inputs, output, name=name, domain=CONTRIB)
