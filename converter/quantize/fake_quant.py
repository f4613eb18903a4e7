"""A quantization plan on the FX graph: a module on every edge that it quantizes; and plain quantizers for that."""

import copy
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from calibrators.ranges.amax import finite_amax
from converter.graph.capture import FoldedGraph
from converter.graph.twin import nodes_by_value, parameter_of
from converter.quantize.placement import QuantizationPlan
from converter.quantize.weight_scales import along, rounded_steps, weight_scales


def levels_of(bits: int) -> int:
    """Positive levels of a signed value: 127 for 8 bits, 7 for 4."""
    return int(2 ** (bits - 1) - 1)


def with_quantizers(
    graph: FoldedGraph,
    plan: QuantizationPlan,
    activations: Mapping[str, nn.Module],
    weights: Mapping[tuple[str, int], nn.Module],
) -> fx.GraphModule:
    """A copy of ``graph.module`` in which every value that ``plan`` quantizes goes through a module.

    ``activations`` has one for each tensor in ``plan.observed``: all edges with the range of that tensor share it.
    ``weights`` has one for each weight and axis; several readers of a weight share one call. The modules become
    ``quantizers.activations.N`` and ``quantizers.weights.N``.
    """
    module = copy.deepcopy(graph.module)
    nodes = nodes_by_value(module)
    names = {name: f"quantizers.activations.{number}" for number, name in enumerate(activations)}
    weight_names = {key: f"quantizers.weights.{number}" for number, key in enumerate(weights)}
    for name, quantizer in activations.items():
        module.add_submodule(names[name], quantizer)
    for key, quantizer in weights.items():
        module.add_submodule(weight_names[key], quantizer)
    for pair in plan.activations:
        source = nodes[pair.tensor]
        with module.graph.inserting_after(source):
            quantized = module.graph.call_module(names[pair.range_of], (source,))
        for consumer in pair.consumers:
            nodes[consumer].replace_input_with(source, quantized)
    order = {node: position for position, node in enumerate(module.graph.nodes)}
    calls: dict[tuple[str, int], fx.Node] = {}
    for weight in sorted(plan.weights, key=lambda planned: order[nodes[planned.consumer]]):
        reader, read, key = nodes[weight.consumer], nodes[weight.tensor], (weight.tensor, weight.axis)
        if key not in calls:
            with module.graph.inserting_before(reader):
                calls[key] = module.graph.call_module(weight_names[key], (read,))
        reader.replace_input_with(read, calls[key])
    module.graph.lint()
    module.recompile()
    return module


def simulate(graph: FoldedGraph, plan: QuantizationPlan, amax: dict[str, float], bits: int) -> fx.GraphModule:
    """``graph.module`` with every quantizer of ``plan`` in it, in float32; ``graph`` stays as it is.

    Activations are signed and symmetric with one scale ``amax / (2^(bits-1) - 1)`` a tensor, also behind a
    ReLU, as TensorRT has it; weights have one scale for each output channel, from their largest magnitude.
    For 8 bits that is the model of ``converter.quantize.qdq``, except that biases too large for int32 raise no scale.
    """
    levels = levels_of(bits)
    activations = {name: _Rounded(float(np.float32(amax[name] / levels)), levels) for name in plan.observed}
    weights = {
        (weight.tensor, weight.axis): _Stored(
            rounded_weight(parameter_of(graph.module, weight.tensor).detach(), weight.axis, bits)
        )
        for weight in plan.weights
    }
    return with_quantizers(graph, plan, activations, weights)


class _Rounded(nn.Module):
    """``rounded_to_scale`` with its scale."""

    def __init__(self, scale: float, levels: int) -> None:
        super().__init__()
        self.scale, self.levels = scale, levels

    def forward(self, x: Tensor) -> Tensor:
        return rounded_to_scale(x, self.scale, self.levels)


class _Stored(nn.Module):
    """A weight that was rounded ahead of time, in place of the one that comes in."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value: Tensor
        self.register_buffer("value", value)

    def forward(self, _weight: Tensor) -> Tensor:
        return self.value


def rounded_to_scale(x: Float[Tensor, "..."], scale: float, levels: int) -> Float[Tensor, "..."]:
    """``clip(round_half_even(x / scale), -levels - 1, levels) * scale``."""
    return torch.div(x, scale).round_().clamp_(-levels - 1, levels).mul_(scale)


def rounded_weight(weight: Float[Tensor, "..."], axis: int, bits: int) -> Float[Tensor, "..."]:
    """``weight`` on the levels -L...L of each index of ``axis``, with ``L = 2^(bits-1) - 1``.

    Raises CalibrationError at NaN or infinity.
    """
    finite_amax(weight, f"weight of shape {tuple(weight.shape)}")
    levels = levels_of(bits)
    scale = weight_scales(weight, axis, levels)
    return rounded_steps(weight, axis, scale, levels) * along(scale, axis, weight.dim())
