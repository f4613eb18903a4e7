"""How much of a network a plan leaves in float."""

import onnx

from converter.graph.layer_sizes import layers_from_onnx
from converter.quantize.placement import QuantizationPlan


def float_macs_percent(model: onnx.ModelProto, plan: QuantizationPlan) -> float:
    """How much of the multiply-adds of ``model`` is not done by layers whose weights ``plan`` quantizes."""
    quantized = {weight.consumer for weight in plan.weights}
    layers = layers_from_onnx(model).values()
    in_float = sum(layer.macs for layer in layers if layer.name not in quantized)
    return 100.0 * in_float / max(1, sum(layer.macs for layer in layers))
