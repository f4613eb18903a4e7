"""Replaces int8 quantizers by uint8 codes, as early in the graph as that is exact.

Rounding is monotone, so ``Q(clip(x, a, b)) = clip(Q(x), Q(a), Q(b))`` and ``Q(max(x, y)) = max(Q(x), Q(y))``
hold bit by bit: a quantizer may move up through ReLU, Clip, MaxPool, Concat, reshapes and a Resize to nearest
pixels, which then work on codes. There it meets the convolution and becomes part of it. Below a layer in float it
stays where it is: that layer's activation is part of its kernel, and pools of floats are the faster ones.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from engines.onnx_passes.graph import OnnxGraph, attributes, is_scale, resize_mode
from engines.onnx_passes.sign_analysis import clip_bounds, nonnegative_tensors
from engines.onnxruntime.layers import LAYERS

# They only move or pick values, so they take codes as well as they take floats.
_MOVES = frozenset(
    {"Concat", "Flatten", "Identity", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
)


@dataclass(frozen=True)
class _Codes:
    """A uint8 tensor whose values must still be clipped to [low, high] before anyone reads them."""

    name: str
    low: int = 0
    high: int = 255

    def clipped(self, low: int, high: int) -> "_Codes":
        """``clip(clip(codes, self.low, self.high), low, high)`` as one clip."""
        return _Codes(self.name, min(max(self.low, low), high), max(min(self.high, high), low))


def lower_quantizers(graph: OnnxGraph, in_float: Collection[str] = ()) -> None:
    """Points every DequantizeLinear of a symmetric int8 pair at uint8 codes with the same scale.

    Leaves the replaced nodes behind as dead ones; ``graph.nodes`` must be sorted. ``in_float`` are layers that stay
    float although their inputs are quantized.
    """
    pusher = _Pusher(graph, in_float)
    for node in list(graph.nodes):
        if node.op_type != "QuantizeLinear" or not _is_symmetric_int8(graph, node):
            continue
        readers = pusher.consumers[node.output[0]]
        if node.output[0] in graph.outputs or not all(_dequantizes(graph, reader) for reader in readers):
            continue
        zero_point = 0 if node.input[0] in pusher.nonnegative else 128
        codes = pusher.finished(node.input[0], node.input[1], zero_point)
        for reader in readers:
            reader.input[:] = [codes, reader.input[1], _zero_point(graph, zero_point)]


class _Pusher:
    """Moves quantizers up the graph; equal quantizers of one tensor give one uint8 tensor."""

    def __init__(self, graph: OnnxGraph, in_float: Collection[str]) -> None:
        self.nonnegative = nonnegative_tensors(graph)
        self.consumers = graph.consumers()
        self._graph = graph
        self._in_float = in_float
        self._producers = graph.producers()
        self._codes: dict[tuple[str, float, int], _Codes] = {}
        self._clipped: dict[_Codes, str] = {}
        self._quantized: dict[str, bool] = {}

    def finished(self, tensor: str, scale: str, zero_point: int) -> str:
        """Name of the uint8 codes of ``tensor``, clipped to what int8 can hold."""
        return self._clip(self._pushed(tensor, scale, zero_point).clipped(0, zero_point + 127))

    def _clip(self, codes: _Codes) -> str:
        if (codes.low, codes.high) == (0, 255):
            return codes.name
        if codes not in self._clipped:
            bounds = [_zero_point(self._graph, bound) for bound in (codes.low, codes.high)]
            self._clipped[codes] = self._graph.add("Clip", [codes.name, *bounds], f"{codes.name}_clip")
        return self._clipped[codes]

    def _pushed(self, tensor: str, scale: str, zero_point: int) -> _Codes:
        key = (tensor, float(self._graph.constants[scale].item()), zero_point)
        if key not in self._codes:
            node = self._producers.get(tensor)
            meets = node is not None and self._meets_integers(node)
            codes = self._through(node, scale, zero_point) if node is not None and meets else None
            if codes is None:
                zero = _zero_point(self._graph, zero_point)
                codes = _Codes(self._graph.add("QuantizeLinear", [tensor, scale, zero], f"{tensor}_codes"))
            self._codes[key] = codes
        return self._codes[key]

    def _through(self, node: NodeProto, scale: str, zero_point: int) -> _Codes | None:
        """Codes of the output of ``node`` from codes of its inputs; None where floats must be quantized."""
        if node.op_type in {"Relu", "Clip"}:
            bounds = (0.0, np.inf) if node.op_type == "Relu" else clip_bounds(node, self._graph)
            if np.isnan(bounds).any():
                return None
            low, high = (self._code(bound, scale, zero_point) for bound in bounds)
            return self._pushed(node.input[0], scale, zero_point).clipped(low, high)
        if node.op_type == "DequantizeLinear" and self._same_grid(node, scale, zero_point):
            return _Codes(node.input[0])
        if _moves(node) and self._only_quantized(node):
            return self._moved(node, scale, zero_point)
        return None

    def _moved(self, node: NodeProto, scale: str, zero_point: int) -> _Codes:
        count = len(node.input) if node.op_type == "Concat" else 1
        inner = [self._pushed(name, scale, zero_point) for name in node.input[:count]]
        bounds = {(codes.low, codes.high) for codes in inner}
        # A clip that all branches need is made once, behind the concatenation or the pool.
        low, high = bounds.pop() if len(bounds) == 1 else (0, 255)
        names = [
            codes.name if (codes.low, codes.high) == (low, high) else self._clip(codes) for codes in inner
        ]
        inputs = [*names, *node.input[count:]]
        output = self._graph.add(node.op_type, inputs, f"{node.output[0]}_codes", **attributes(node))
        return _Codes(output, low, high)

    def _code(self, value: float, scale: str, zero_point: int) -> int:
        """The code of ``value`` in float32 arithmetic, as QuantizeLinear computes it."""
        level = np.rint(np.float32(value) / np.float32(self._graph.constants[scale].item()))
        return int(np.clip(level + zero_point, 0, 255))

    def _same_grid(self, node: NodeProto, scale: str, zero_point: int) -> bool:
        """Whether ``node`` reads codes of this very scale and zero point already."""
        constants = self._graph.constants
        if not is_uint8(self._graph, node):
            return False
        same_scale = constants[node.input[1]].item() == constants[scale].item()
        return bool(same_scale and constants[node.input[2]].item() == zero_point)

    def _meets_integers(self, node: NodeProto) -> bool:
        """Whether a quantizer that moves up from ``node`` comes to codes, or to a layer that can give them."""
        if node.op_type == "DequantizeLinear":
            return True
        if node.op_type in {"Relu", "Clip"} or _moves(node):
            inputs = node.input if node.op_type == "Concat" else node.input[:1]
            sources = [self._producers[name] for name in inputs if name in self._producers]
            return any(self._meets_integers(source) for source in sources)
        return node.op_type in LAYERS and node.output[0] not in self._in_float

    def _only_quantized(self, node: NodeProto) -> bool:
        """Whether every path from ``node`` ends in a quantizer.

        Otherwise the float operator stays alive, and one on codes beside it would be work done twice.
        """
        name = node.output[0]
        if name not in self._quantized:
            self._quantized[name] = (
                len(node.output) == 1
                and name not in self._graph.outputs
                and all(
                    _is_symmetric_int8(self._graph, reader)
                    if reader.op_type == "QuantizeLinear"
                    else (_moves(reader) or reader.op_type in {"Relu", "Clip"})
                    and self._only_quantized(reader)
                    for reader in self.consumers[name]
                )
            )
        return self._quantized[name]


def _moves(node: NodeProto) -> bool:
    return node.op_type in _MOVES or resize_mode(node) == "nearest"


def is_uint8(graph: OnnxGraph, node: NodeProto) -> bool:
    """Whether a QuantizeLinear or DequantizeLinear has a constant per-tensor scale and uint8 zero point."""
    return _zero_type(graph, node) == np.uint8


def _is_symmetric_int8(graph: OnnxGraph, node: NodeProto) -> bool:
    return _zero_type(graph, node) == np.int8 and graph.constants[node.input[2]].item() == 0


def _zero_type(graph: OnnxGraph, node: NodeProto) -> np.dtype[np.generic] | None:
    scale = graph.constants.get(node.input[1])
    zero = graph.constants.get(node.input[2]) if len(node.input) > 2 else None
    if scale is None or zero is None or scale.size != 1 or zero.size != 1 or not is_scale(scale):
        return None
    return zero.dtype


def _dequantizes(graph: OnnxGraph, node: NodeProto) -> bool:
    return node.op_type == "DequantizeLinear" and _is_symmetric_int8(graph, node)


def _zero_point(graph: OnnxGraph, value: int) -> str:
    return graph.constant(f"code_{value}", np.array(value, np.uint8))
