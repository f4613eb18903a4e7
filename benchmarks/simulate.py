"""A quantization plan simulated on the FX graph, for any number of bits."""

import copy

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, fx

from calibrators.amax import weight_amax
from converter.alignment import value_name
from converter.graph import FoldedGraph
from converter.placement import QuantizationPlan


def levels_of(bits: int) -> int:
    """Positive levels of a signed value: 127 for 8 bits, 7 for 4."""
    return int(2 ** (bits - 1) - 1)


def simulated(
    graph: FoldedGraph, plan: QuantizationPlan, amax: dict[str, float], bits: int
) -> fx.GraphModule:
    """``graph.module`` with every quantizer of ``plan`` in it, in float32; ``graph`` stays as it is.

    Activations are signed and symmetric with one scale ``amax / (2^(bits-1) - 1)`` a tensor, also behind a
    ReLU, as TensorRT has it; weights have one scale for each output channel, from their largest magnitude.
    For 8 bits that is the model of ``converter.qdq``, except that biases too large for int32 raise no scale.
    """
    module = copy.deepcopy(graph.module)
    nodes = {value_name(node): node for node in module.graph.nodes if node.op != "get_attr"}
    for pair in plan.activations:
        source = nodes[pair.tensor]
        scale = torch.tensor(np.float32(amax[pair.range_of] / levels_of(bits)))
        with module.graph.inserting_after(source):
            args = (source, float(scale), levels_of(bits))
            rounded = module.graph.call_function(rounded_to_scale, args)
        for consumer in pair.consumers:
            nodes[consumer].replace_input_with(source, rounded)
    for number, weight in enumerate(plan.weights):
        consumer = nodes[weight.consumer]
        (read,) = (n for n in consumer.all_input_nodes if n.op == "get_attr" and n.target == weight.tensor)
        name = f"simulated_weight_{number}"
        value = module.get_parameter(weight.tensor).detach()
        module.register_buffer(name, rounded_weight(value, weight.axis, bits))
        with module.graph.inserting_before(consumer):
            replacement = module.graph.get_attr(name)
        consumer.replace_input_with(read, replacement)
    module.graph.lint()
    module.recompile()
    return module


def rounded_to_scale(x: Float[Tensor, "..."], scale: float, levels: int) -> Float[Tensor, "..."]:
    """``clip(round_half_even(x / scale), -levels - 1, levels) * scale``."""
    return torch.div(x, scale).round_().clamp_(-levels - 1, levels).mul_(scale)


def rounded_weight(weight: Float[Tensor, "..."], axis: int, bits: int) -> Float[Tensor, "..."]:
    """``weight`` on the levels -L...L of each index of ``axis``, with ``L = 2^(bits-1) - 1``."""
    shape = [1] * weight.dim()
    shape[axis] = -1
    levels = levels_of(bits)
    scale = (weight_amax(weight, axis) / levels).view(shape)
    return (weight / scale).round().clamp(-levels, levels) * scale
