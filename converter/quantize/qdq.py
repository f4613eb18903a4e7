"""The INT8 ONNX model: the FP32 one with a plan's QuantizeLinear/DequantizeLinear pairs written into it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from jaxtyping import Float, Int8
from onnx import helper, numpy_helper

from calibrators.ranges.scales import is_valid_amax, scale_from_amax
from converter.errors import ConversionError
from converter.quantize.placement import ActivationQuantizer, QuantizationPlan
from converter.quantize.weight_scales import min_scales, rounded_steps, weight_scales
from zscgan_common.text import cut

_ZERO_POINT = "int8_zero_point"


def qdq_from_onnx(
    fp32: onnx.ModelProto, plan: QuantizationPlan, amax: Mapping[str, float]
) -> onnx.ModelProto:
    """``fp32`` with the quantizers of ``plan``; equal arguments give equal bytes.

    An activation x becomes ``clip(round(x / s), -128, 127) * s`` with ``s = amax / 127`` for the readers that
    the plan lists. Weights are stored as int8 with a float32 scale for each output channel
    (``quantized_weight``), biases stay float32. Weight scales are raised where needed so that
    ``|bias| <= 2^30 * s_x * s_w``: the bias then fits into int32, as in ONNX Runtime's own quantizer.

    ``amax`` maps each name in ``plan.observed`` to the largest |value| that is represented. Raises
    ConversionError where one is missing or no positive number, or where a weight is not finite.
    """
    pairs = _pairs(plan, amax)
    weights = _weights(fp32, plan, pairs)
    model = onnx.ModelProto()
    model.CopyFrom(fp32)
    del model.graph.node[:]
    model.graph.node.extend(_quantized_nodes(fp32.graph, pairs, weights))
    read = {name for node in model.graph.node for name in node.input} | {v.name for v in model.graph.output}
    del model.graph.initializer[:]
    for initializer in fp32.graph.initializer:
        if initializer.name in read:
            model.graph.initializer.append(initializer)
        for weight in weights:
            if weight.tensor == initializer.name:
                model.graph.initializer.extend(weight.initializers())
    model.graph.initializer.extend(numpy_helper.from_array(pair.scale, pair.names["scale"]) for pair in pairs)
    if pairs:
        model.graph.initializer.append(numpy_helper.from_array(np.int8(0), _ZERO_POINT))
    return model


def quantized_weight(
    weight: Float[np.ndarray, "..."], axis: int, min_scale: Float[torch.Tensor, "channels"] | None = None
) -> tuple[Int8[np.ndarray, "..."], Float[np.ndarray, "channels"]]:
    """``weight`` as integers in -127...127 and their float32 scale for each index of ``axis``.

    See ``converter.quantize.weight_scales``.
    """
    values = torch.tensor(weight)
    scale = weight_scales(values, axis, min_scale=min_scale)
    return rounded_steps(values, axis, scale).to(torch.int8).numpy(), scale.numpy()


@dataclass(frozen=True)
class _Pair:
    """One QuantizeLinear and DequantizeLinear on an activation."""

    quantizer: ActivationQuantizer
    scale: np.ndarray
    names: Mapping[str, str]

    def nodes(self) -> list[onnx.NodeProto]:
        scale, quantized, dequantized = (self.names[n] for n in ("scale", "quantized", "dequantized"))
        tensor = self.quantizer.tensor
        return [
            helper.make_node("QuantizeLinear", [tensor, scale, _ZERO_POINT], [quantized], quantized),
            helper.make_node("DequantizeLinear", [quantized, scale, _ZERO_POINT], [dequantized], dequantized),
        ]


@dataclass(frozen=True)
class _Weight:
    """An int8 initializer and its DequantizeLinear."""

    tensor: str
    axis: int
    consumers: tuple[str, ...]
    values: np.ndarray
    scale: np.ndarray
    names: Mapping[str, str]

    def initializers(self) -> Iterator[onnx.TensorProto]:
        yield numpy_helper.from_array(self.values, self.names["quantized"])
        yield numpy_helper.from_array(self.scale, self.names["scale"])
        yield numpy_helper.from_array(np.zeros(self.scale.shape, np.int8), self.names["zero_point"])

    def node(self) -> onnx.NodeProto:
        inputs = [self.names[n] for n in ("quantized", "scale", "zero_point")]
        output = self.names["dequantized"]
        return helper.make_node("DequantizeLinear", inputs, [output], output, axis=self.axis)


def _names(stem: str) -> dict[str, str]:
    return {suffix: f"{stem}_{suffix}" for suffix in ("scale", "zero_point", "quantized", "dequantized")}


def _pairs(plan: QuantizationPlan, amax: Mapping[str, float]) -> list[_Pair]:
    if missing := [name for name in plan.observed if name not in amax]:
        raise ConversionError(
            f"expected ranges for {len(plan.observed)} tensors, got none for {cut(missing, 5)}; calibrate again"
        )
    for name in plan.observed:
        if not is_valid_amax(amax[name]):
            raise ConversionError(
                f"expected a finite range above 0 for {name}, got {amax[name]}; calibrate again"
            )
    scales = {name: np.float32(scale_from_amax(amax[name])) for name in plan.observed}
    pairs, taken = [], set[str]()
    for quantizer in plan.activations:
        stem = quantizer.tensor
        if stem in taken:  # a second pair, with the range of another tensor
            stem = f"{stem}_as_{quantizer.range_of}"
        taken.add(stem)
        pairs.append(_Pair(quantizer, np.array(scales[quantizer.range_of]), _names(stem)))
    return pairs


def _weights(fp32: onnx.ModelProto, plan: QuantizationPlan, pairs: list[_Pair]) -> list[_Weight]:
    """The plan's weights, each once, although several layers may read it."""
    initializers = {initializer.name: initializer for initializer in fp32.graph.initializer}
    nodes = {node.output[0]: node for node in fp32.graph.node}
    scales = {
        (pair.quantizer.tensor, name): pair.scale for pair in pairs for name in pair.quantizer.consumers
    }
    consumers: dict[tuple[str, int], list[str]] = defaultdict(list)
    for planned in plan.weights:
        consumers[planned.tensor, planned.axis].append(planned.consumer)
    weights, taken = [], set[str]()
    for (tensor, axis), names in consumers.items():
        weight = numpy_helper.to_array(initializers[tensor])
        if not np.isfinite(weight).all():
            raise ConversionError(
                f"expected finite weights, got inf or nan in {tensor}; check the model file"
            )
        min_scale = torch.zeros(weight.shape[axis])
        for name in names:
            scale = scales.get((nodes[name].input[0], name))
            bias = initializers.get(nodes[name].input[2]) if len(nodes[name].input) > 2 else None
            if scale is not None and bias is not None:
                values = torch.tensor(numpy_helper.to_array(bias))
                smallest = min_scales(values, torch.tensor(scale), len(min_scale))
                min_scale = torch.maximum(min_scale, smallest)
        codes, weight_scale = quantized_weight(weight, axis, min_scale)
        stem = f"{tensor}_axis{axis}" if tensor in taken else tensor
        taken.add(tensor)
        weights.append(_Weight(tensor, axis, tuple(names), codes, weight_scale, _names(stem)))
    return weights


def _quantized_nodes(
    graph: onnx.GraphProto, pairs: list[_Pair], weights: list[_Weight]
) -> Iterator[onnx.NodeProto]:
    """The nodes in topological order: each pair behind its tensor, each weight before its first reader."""
    behind: dict[str, list[_Pair]] = defaultdict(list)
    replaced: dict[tuple[str, str], str] = {}
    for pair in pairs:
        behind[pair.quantizer.tensor].append(pair)
        for consumer in pair.quantizer.consumers:
            replaced[consumer, pair.quantizer.tensor] = pair.names["dequantized"]
    for weight in weights:
        for consumer in weight.consumers:
            replaced[consumer, weight.tensor] = weight.names["dequantized"]
    waiting = list(weights)
    for value in graph.input:
        for pair in behind[value.name]:
            yield from pair.nodes()
    for original in graph.node:
        for weight in [weight for weight in waiting if original.output[0] in weight.consumers]:
            waiting.remove(weight)
            yield weight.node()
        node = onnx.NodeProto()
        node.CopyFrom(original)
        for position, name in enumerate(original.input):
            node.input[position] = replaced.get((original.output[0], name), name)
        yield node
        for name in original.output:
            for pair in behind[name]:
                yield from pair.nodes()
