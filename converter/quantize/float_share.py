"""How much of a network a plan leaves in float."""

import onnx

from converter.graph.layer_sizes import Layer, layers_from_onnx
from converter.quantize.placement import QuantizationPlan


def float_macs_percent(model: onnx.ModelProto, plan: QuantizationPlan) -> float:
    """How much of the multiply-adds of ``model`` is not done by layers that ``plan`` quantizes."""
    layers = layers_from_onnx(model).values()
    in_float = sum(layer.macs for layer in layers_in_float(model, plan))
    return 100.0 * in_float / max(1, sum(layer.macs for layer in layers))


def layers_in_float(model: onnx.ModelProto, plan: QuantizationPlan) -> list[Layer]:
    """What multiplies in float, the largest first."""
    quantized = {consumer for pair in plan.activations for consumer in pair.consumers}
    found = [layer for name, layer in layers_from_onnx(model).items() if layer.macs and name not in quantized]
    return sorted(found, key=lambda layer: layer.macs, reverse=True)
