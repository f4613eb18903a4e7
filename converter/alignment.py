"""The exporter's ONNX model and the FX graph that it came from, made to agree edge by edge.

torch.onnx names a value after the FX node that made it, but its optimizer then rewrites the model: it drops
what does nothing, merges a Pad into the Conv behind it, transposes a linear layer's weight ahead of time and
keeps one of two initializers that hold the same numbers. Quantizers are planned on the ONNX model and
simulated on the FX graph, so whatever they are attached to must be the same in both.
"""

import operator
import re
from collections.abc import Iterable, Iterator
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import Tensor, fx

from converter.errors import CaptureError
from converter.infinite import infinite_values

INPUT = "input"

_aten = torch.ops.aten
_CONVOLUTIONS = {
    _aten.conv1d.default,
    _aten.conv2d.default,
    _aten.conv3d.default,
    _aten.convolution.default,
}
_LAYERS = _CONVOLUTIONS | {
    _aten.conv_transpose1d.default,
    _aten.conv_transpose2d.input,
    _aten.conv_transpose3d.input,
    _aten.linear.default,
}
# The exporter merges only pads with zeros.
_PADS = {_aten.pad.default, _aten.constant_pad_nd.default}
_LAYER_TYPES = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
# Operators whose inputs may get quantizers.
_QUANTIZABLE = _LAYER_TYPES | {
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "ReduceMean",
    "Concat",
    "Add",
}


def value_name(node: fx.Node) -> str:
    """Name in the ONNX model of the value that ``node`` makes.

    That is the node's name, but for the input: FX won't call a node ``input``, which is a builtin's name.
    """
    return INPUT if node.op == "placeholder" else node.name


def cleaned_onnx(model: onnx.ModelProto, batch: str) -> onnx.ModelProto:
    """A copy whose first input axis is called ``batch``, without the exporter's notes.

    The notes hold stack traces, so they differ from machine to machine and name its folders.
    """
    cleaned = onnx.ModelProto()
    cleaned.CopyFrom(model)
    graph = cleaned.graph
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    values = [*graph.input, *graph.output, *graph.value_info]
    for item in (cleaned, graph, *graph.node, *graph.initializer, *values):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    for value in values:
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                dim.dim_param = re.sub(rf"\b{re.escape(symbol)}\b", batch, dim.dim_param)
    return cleaned


def align(module: fx.GraphModule, model: onnx.ModelProto) -> None:
    """Change both in place until each edge that may carry a quantizer is the same in both.

    Then ``model`` declares the values that both have, except those that no range suits: infinite or complex ones.
    Raises CaptureError where the exporter's rewriting can't be followed.
    """
    _rename_parts(module, model)
    for layer in [node for node in module.graph.nodes if node.target in _LAYERS]:
        _restore_parameters(module, model, layer)
    _hide_derived_weights(module, model)
    nodes = _named_nodes(module)
    for proto in model.graph.node:
        if proto.op_type in _QUANTIZABLE and proto.output[0] in nodes:
            _align_inputs(nodes, proto)
    module.graph.eliminate_dead_code()
    nodes, infinite = _named_nodes(module), infinite_values(model)
    known = [
        value
        for value in model.graph.value_info
        if value.name in nodes and value.name not in infinite and not _is_complex(nodes[value.name])
    ]
    del model.graph.value_info[:]
    model.graph.value_info.extend(known)
    _drop_unread(model)
    module.graph.lint()
    module.recompile()


def padded_convolution(
    x: Tensor, pad: list[int], convolution: torch._ops.OpOverload, *arguments: Any
) -> Tensor:
    """``convolution(pad(x), *arguments)`` as one call, as ONNX's Conv has it; pads may be lopsided."""
    result: Tensor = convolution(F.pad(x, pad), *arguments)
    return result


def _rename_parts(module: fx.GraphModule, model: onnx.ModelProto) -> None:
    """Call the outputs of each Split what the FX graph calls the items of the split."""
    renamed = {
        f"{node.args[0].name}_split_{node.args[1]}": node.name
        for node in module.graph.nodes
        if node.target is operator.getitem and isinstance(node.args[0], fx.Node)
    }
    for proto in model.graph.node:
        for names in (proto.input, proto.output):
            names[:] = [renamed.get(name, name) for name in names]
    for value in model.graph.value_info:
        value.name = renamed.get(value.name, value.name)


def _named_nodes(module: fx.GraphModule) -> dict[str, fx.Node]:
    return {value_name(node): node for node in module.graph.nodes if node.op != "get_attr"}


def _producer(model: onnx.ModelProto, name: str) -> onnx.NodeProto | None:
    return next((node for node in model.graph.node if name in node.output), None)


def _restore_parameters(module: fx.GraphModule, model: onnx.ModelProto, layer: fx.Node) -> None:
    """Let the ONNX node of ``layer`` read the parameters that ``layer`` reads, by their names."""
    proto = _producer(model, layer.name)
    reads = [argument for argument in layer.args[1:3] if argument is not None]
    if proto is None or not all(isinstance(r, fx.Node) and r.op == "get_attr" for r in reads):
        return
    names = [str(read.target) for read in reads if isinstance(read, fx.Node)]
    if proto.op_type in ("Conv", "ConvTranspose", "Gemm"):
        data = proto.input[0]
        del proto.input[:]
        proto.input.extend([data, *names])
    elif layer.target == _aten.linear.default and proto.op_type in ("Add", "MatMul"):
        if not _split_linear(module, model, layer, proto):
            return
    else:
        return
    _add_initializers(module, model, names)


def _add_initializers(module: fx.GraphModule, model: onnx.ModelProto, names: Iterable[str]) -> None:
    present = {initializer.name for initializer in model.graph.initializer}
    for name in names:
        if name not in present:
            value = operator.attrgetter(name)(module).detach().cpu().numpy()
            model.graph.initializer.append(numpy_helper.from_array(value, name))


def _split_linear(
    module: fx.GraphModule, model: onnx.ModelProto, layer: fx.Node, last: onnx.NodeProto
) -> bool:
    """Write a linear layer on a sequence as Transpose(weight), MatMul and Add in both graphs.

    True if the ONNX model had it as MatMul with a weight transposed ahead of time, the exporter's way.
    """
    product = last if last.op_type == "MatMul" else _producer(model, last.input[0])
    if product is None or product.op_type != "MatMul" or not isinstance(layer.args[1], fx.Node):
        return False
    weight, graph = layer.args[1], module.graph
    with graph.inserting_before(layer):
        transposed = graph.create_node(
            "call_function", _aten.t.default, (weight,), name=f"{layer.name}_weight"
        )
        if product is last:
            layer.target, layer.args = _aten.matmul.default, (layer.args[0], transposed)
        else:
            matmul = graph.create_node(
                "call_function",
                _aten.matmul.default,
                (layer.args[0], transposed),
                name=f"{layer.name}_matmul",
            )
            matmul.meta = dict(layer.meta)
            layer.target, layer.args = _aten.add.Tensor, (matmul, layer.args[2])
            _declare(model, layer.name, matmul.name)
            product.output[0] = last.input[0] = matmul.name
            last.input[1] = str(layer.all_input_nodes[1].target)
    product.input[1] = transposed.name
    node = helper.make_node(
        "Transpose", [str(weight.target)], [transposed.name], transposed.name, perm=[1, 0]
    )
    model.graph.node.insert(0, node)
    return True


def _declare(model: onnx.ModelProto, like: str, name: str) -> None:
    """Declare ``name`` with the type and shape of ``like``."""
    for value in [*model.graph.value_info, *model.graph.output]:
        if value.name == like:
            declared = model.graph.value_info.add()
            declared.CopyFrom(value)
            declared.name = name


def _hide_derived_weights(module: fx.GraphModule, model: onnx.ModelProto) -> None:
    """Turn weights that the exporter computed from parameters into constants.

    They have no name in the FX graph, so they can't be quantized; the planner takes initializers alone.
    """
    known = {name for name, _ in module.named_parameters()} | {name for name, _ in module.named_buffers()}
    initializers = {initializer.name: initializer for initializer in model.graph.initializer}
    layers = [
        node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")
    ]
    hidden = sorted({name for node in layers for name in node.input if name in initializers.keys() - known})
    for name in hidden:
        model.graph.node.insert(0, helper.make_node("Constant", [], [name], name, value=initializers[name]))
        model.graph.initializer.remove(initializers[name])


def _align_inputs(nodes: dict[str, fx.Node], proto: onnx.NodeProto) -> None:
    """Let the FX node of ``proto`` read what ``proto`` reads, past nodes that the exporter found idle."""
    consumer = nodes[proto.output[0]]
    for name in proto.input:
        if name not in nodes:
            if proto.op_type in _LAYER_TYPES and name == proto.input[0]:
                raise CaptureError(_unfollowed(consumer))
            continue
        if nodes[name] in consumer.all_input_nodes:
            continue
        source = nodes[name]
        for read in consumer.all_input_nodes:
            if source in _idle_chain(read):
                consumer.replace_input_with(read, source)
                break
            if read.target in _PADS and source in _idle_chain(read.args[0]):
                _merge_pad(consumer, read, source)
                break
        else:
            raise CaptureError(_unfollowed(consumer))


def _is_complex(node: fx.Node) -> bool:
    """Whether ONNX writes the value with one more axis, of real and imaginary parts."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_complex()


def _unfollowed(consumer: fx.Node) -> str:
    return (
        f"the ONNX exporter rewrote the network around {consumer.name} in a way that can't be followed; "
        "please report it with the network's forward"
    )


def _idle_chain(node: Any) -> Iterator[fx.Node]:
    """``node`` and the nodes before it along first arguments, as long as the shape stays."""
    while isinstance(node, fx.Node):
        yield node
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or _shape(before) is None or _shape(before) != _shape(node):
            return
        node = before


def _shape(node: fx.Node) -> list[str] | None:
    value = node.meta.get("val")
    return [str(size) for size in value.shape] if isinstance(value, Tensor) else None


def _merge_pad(consumer: fx.Node, pad: fx.Node, source: fx.Node) -> None:
    """Let a convolution behind a pad read the pad's input, as its ONNX node does."""
    if consumer.target not in _CONVOLUTIONS:
        raise CaptureError(_unfollowed(consumer))
    consumer.args = (source, pad.args[1], consumer.target, *consumer.args[1:])
    consumer.target = padded_convolution


def _drop_unread(model: onnx.ModelProto) -> None:
    """Take out initializers that no node reads."""
    read = {name for node in model.graph.node for name in node.input} | {v.name for v in model.graph.output}
    kept = [initializer for initializer in model.graph.initializer if initializer.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
