"""What leaves INT8 together: the groups of layers among which mixed precision chooses.

A group is one layer with weights or one product of two activations, and with it every quantizer that
``quantize.placement`` would not place if that layer were float: its own inputs, the identity of the residual Add that
fuses into it, the max pool, Resize or Concat that ran on integers for its sake. No group leaves a fusion half
quantized, as the plan without it is made by the rules.

A depthwise convolution has one multiply-add for each value that it reads and each position of its kernel, so it
waits for memory: alone in float it would read and write tensors two or four times as large and have them converted
on both sides. It leaves together with the layer that alone reads its result, the pointwise convolution, so that
one conversion is spared. Other neighbours are not tied: a float layer writes INT8, and an INT8 layer float, in
their own last step, and a larger group would take more multiply-adds out of INT8 than the target needs.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx
from onnx import helper

from converter.graph.layer_sizes import Layer, layers_from_onnx
from converter.quantize.placement import ACTIVATIONS, LAYERS, QuantizationPlan, place_quantizers
from converter.quantize.quantized_inputs import Part, parts_of


@dataclass(frozen=True)
class Group:
    """``layers`` of rule 1 (first outputs of their nodes), and all ``parts`` that leave the plan with them."""

    layers: tuple[str, ...]
    parts: frozenset[Part]
    macs: int


def groups_from_onnx(model: onnx.ModelProto, plan: QuantizationPlan) -> tuple[Group, ...]:
    """The groups of ``plan``, which was made for ``model``, in the graph's order; each layer is in one."""
    sizes, parts = layers_from_onnx(model), frozenset(parts_of(plan))
    read = {part.consumer for part in parts}
    quantized = [name for name, layer in sizes.items() if layer.op in LAYERS and name in read]
    return tuple(_group(model, layers, parts, sizes) for layers in _tied(model, quantized))


def _group(
    model: onnx.ModelProto, layers: tuple[str, ...], parts: frozenset[Part], sizes: Mapping[str, Layer]
) -> Group:
    left = parts_of(place_quantizers(model, excluded=layers))
    return Group(layers, parts.difference(left), sum(sizes[name].macs for name in layers))


def _tied(model: onnx.ModelProto, quantized: Collection[str]) -> list[tuple[str, ...]]:
    """``quantized`` layers, each depthwise one joined to the one that reads it alone."""
    nodes = {node.output[0]: node for node in model.graph.node}
    joined: dict[str, tuple[str, ...]] = {}
    for name in quantized:
        reader = _only_layer_behind(model, name, quantized) if _is_depthwise(model, nodes[name]) else None
        before = joined.pop(name, ())
        owner = reader or name
        joined[owner] = (*joined.get(owner, ()), *before, name)
    order = {name: position for position, name in enumerate(nodes)}
    return sorted(joined.values(), key=lambda layers: order[layers[0]])


def _is_depthwise(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Whether each output channel of a convolution has one input channel, of several."""
    groups = {a.name: helper.get_attribute_value(a) for a in node.attribute}.get("group", 1)
    weights = {value.name: value.dims for value in model.graph.initializer}
    return bool(node.op_type == "Conv" and groups > 1 and weights[node.input[1]][1] == 1)


def _only_layer_behind(model: onnx.ModelProto, name: str, quantized: Collection[str]) -> str | None:
    """The one layer of ``quantized`` that reads ``name``, directly or past an activation; None if there are others."""
    found, seen, waiting = set[str](), set[str](), [name]
    outputs = {value.name for value in model.graph.output}
    while waiting:
        tensor = waiting.pop()
        if tensor in outputs:
            return None
        for node in model.graph.node:
            if tensor not in node.input or node.output[0] in seen:
                continue
            seen.add(node.output[0])
            if node.output[0] in quantized:
                found.add(node.output[0])
            elif node.op_type in ACTIVATIONS:
                waiting.append(node.output[0])
            else:
                return None
    return found.pop() if len(found) == 1 else None
