"""Half precision written into the ONNX, as strongly typed networks of TensorRT ask for it."""

import sys
from collections import Counter, defaultdict
from graphlib import TopologicalSorter

import numpy as np
import onnx
import onnx.inliner
from jaxtyping import Float
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from engines.errors import BuildError
from engines.onnx_passes.file import graphs, nodes, reads
from engines.onnx_passes.graph import Array, attributes

LARGEST = float(np.finfo(np.float16).max)  # 65504
SMALLEST = float(np.finfo(np.float16).tiny)  # 2^-14 = 6.1e-5; below it float16 loses digits
_QDQ = ("QuantizeLinear", "DequantizeLinear")
_QDQ_OPSET = 19  # the first whose Q/DQ take float16


def half_from_onnx(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` in half precision: inputs and outputs stay float32, with a Cast at the edge.

    Q/DQ pairs keep their places. A scale becomes the nearest float16, at least the smallest normal one
    (6.1e-5): below that float16 holds few digits, or 0. Integer weights whose scale is raised are quantized
    again from ``q·s``, so that they are off by at most half a step of the new scale; all others keep their
    integers, since a scale moves by 2^-11 at most, which is 0.06 of a step at 127. ONNX Runtime's converter
    casts the rest. It would cut values off at float16's range, so that is checked before.

    Raises BuildError, with the tensor's name, for a value beyond float16's range (65504), and for Q/DQ pairs
    before opset 19, which can't be float16. A network that has no float32 constants comes back as it is;
    ``model`` itself is not changed.
    """
    source = onnx.inliner.inline_local_functions(model) if model.functions else model
    prepared = onnx.ModelProto()
    prepared.CopyFrom(source)
    _spell_out_constants(prepared.graph)
    pairs = [node for node in nodes(prepared.graph) if node.op_type in _QDQ]
    tensors = _constants(prepared.graph)
    if tensors and all(tensor.data_type != TensorProto.FLOAT for tensor in tensors.values()):
        return prepared
    if pairs:
        _check_opset(prepared)
        _fit_scales(prepared, pairs, tensors)
    _check_range(tensors)
    loose = _loose_outputs(prepared.graph)
    half = _converted(prepared)
    outputs = {value.name: value for value in [*half.graph.output, *loose]}
    ordered = [outputs[value.name] for value in model.graph.output]
    del half.graph.output[:]
    half.graph.output.extend(ordered)
    for node in nodes(half.graph):
        _set_output_type(node)
    _sort(half.graph)
    return half


def half_scale(scale: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Positive scales as float32 values that float16 holds exactly: the nearest, at least ``SMALLEST``."""
    raised = np.asarray(np.maximum(scale, np.float32(SMALLEST)))
    return raised.astype(np.float16).astype(np.float32)


def requantized(codes: Array, old: Array, new: Array, zero_point: Array) -> Array:
    """Integers of ``codes``' type for the scales ``new``: ``round((q - z)·old / new) + z``, in float64.

    ``old``, ``new`` and ``zero_point`` have a shape that broadcasts with ``codes``.
    """
    zero = zero_point.astype(np.float64)
    steps = (codes.astype(np.float64) - zero) * old.astype(np.float64) / new.astype(np.float64)
    limits = np.iinfo(codes.dtype)
    return np.clip(np.rint(steps) + zero, limits.min, limits.max).astype(codes.dtype)


def _loose_outputs(graph: GraphProto) -> list[ValueInfoProto]:
    """Takes the outputs from ``graph`` that no node writes: inputs and constants, which stay as they are.

    The conversion would put a Cast before each output, and with it a name that nothing writes.
    """
    written = {name for node in graph.node for name in node.output}
    outputs = list(graph.output)
    loose = [value for value in outputs if value.name not in written]
    del graph.output[:]
    graph.output.extend(value for value in outputs if value.name in written)
    names = {value.name for value in loose}
    for tensor in [tensor for tensor in graph.initializer if tensor.name in names]:
        copied = graph.initializer.add()
        copied.CopyFrom(tensor)
        copied.name = f"{tensor.name}_read"
        for node in nodes(graph):
            node.input[:] = [copied.name if name == tensor.name else name for name in node.input]
    return loose


def _spell_out_constants(graph: GraphProto) -> None:
    """Writes ``Constant`` nodes with a bare number as tensors, the only form that the conversion knows."""
    for node in nodes(graph):
        if node.op_type == "Constant" and node.attribute[0].name in {"value_float", "value_floats"}:
            value = np.array(helper.get_attribute_value(node.attribute[0]), np.float32)
            node.attribute[0].CopyFrom(helper.make_attribute("value", numpy_helper.from_array(value)))


def _constants(graph: GraphProto) -> dict[str, TensorProto]:
    """Name → the tensor in the model itself, of initializers and of ``Constant`` nodes."""
    tensors = {tensor.name: tensor for part in graphs(graph) for tensor in part.initializer}
    for node in nodes(graph):
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    return tensors


def _check_opset(model: onnx.ModelProto) -> None:
    version = max(
        (entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), default=0
    )
    if version < _QDQ_OPSET:
        raise BuildError(
            f"expected opset {_QDQ_OPSET} or newer for Q/DQ pairs in half precision, got {version}; export the "
            "network with a newer opset, or build it without --fp16"
        )


def _check_range(tensors: dict[str, TensorProto]) -> None:
    for name, tensor in tensors.items():
        if tensor.data_type != TensorProto.FLOAT:
            continue
        value = numpy_helper.to_array(tensor)
        largest = float(np.abs(value[np.isfinite(value)]).max(initial=0.0))
        if largest > LARGEST:
            raise BuildError(
                f"{name} holds {largest:g}, beyond the range of half precision ({LARGEST:g}); build without --fp16"
            )


def _fit_scales(model: onnx.ModelProto, pairs: list[NodeProto], tensors: dict[str, TensorProto]) -> None:
    """Rounds the scales of ``pairs`` to float16's numbers, and the integers that are read with raised ones."""
    readers = Counter(name for node in nodes(model.graph) for name in node.input)
    scales: dict[str, tuple[Array, Array]] = {}
    for node in pairs:
        name = node.input[1]
        tensor = tensors.get(name)
        if tensor is None or tensor.data_type != TensorProto.FLOAT:
            continue  # computed at run time, or half precision already
        if name not in scales:
            old = numpy_helper.to_array(tensor)
            _check_scale(name, old)
            scales[name] = old, half_scale(old)
            tensor.CopyFrom(numpy_helper.from_array(scales[name][1], tensor.name))
        if node.op_type == "DequantizeLinear" and node.input[0] in tensors:
            _requantize(model, node, tensors, *scales[name], shared=readers[node.input[0]] > 1)


def _check_scale(name: str, scale: Array) -> None:
    if not np.all(np.isfinite(scale) & (scale > 0)):
        raise BuildError(f"expected scales above 0 in {name}, got {scale.min():g} to {scale.max():g}")
    if (largest := float(scale.max()) * 128) > LARGEST:
        raise BuildError(
            f"{name} stands for values up to {largest:g}, beyond the range of half precision ({LARGEST:g}); "
            "build without --fp16"
        )


def _requantize(
    model: onnx.ModelProto,
    node: NodeProto,
    tensors: dict[str, TensorProto],
    old: Array,
    new: Array,
    *,
    shared: bool,
) -> None:
    """Rewrites the integers that ``node`` reads, where its scale was raised; ``shared`` ones are copied."""
    raised = old < np.float32(SMALLEST)
    if not raised.any():
        return
    source = tensors[node.input[0]]
    codes = numpy_helper.to_array(source)
    given = attributes(node)
    if codes.dtype.kind not in "iu" or given.get("block_size", 0):
        raise BuildError(
            f"{node.input[1]} has scales below {SMALLEST:g}, the least of half precision, for "
            f"{helper.tensor_dtype_to_string(source.data_type)} weights or in blocks; build without --fp16"
        )
    zero_name = node.input[2] if len(node.input) > 2 else ""
    zero = numpy_helper.to_array(tensors[zero_name]) if zero_name in tensors else np.array(0, codes.dtype)
    axis = given.get("axis", 1)
    old, new, zero, raised = (_along(value, codes.ndim, axis) for value in (old, new, zero, raised))
    rewritten = np.where(raised, requantized(codes, old, new, zero), codes)
    if shared:
        name = f"{node.output[0]}_half_codes"
        model.graph.initializer.append(numpy_helper.from_array(rewritten, name))
        node.input[0] = name
    else:
        source.CopyFrom(numpy_helper.from_array(rewritten, source.name))


def _along(value: Array, ndim: int, axis: int) -> Array:
    """A scalar as it is, a vector shaped to lie along ``axis``."""
    if value.size == 1:
        return value.reshape(())
    shape = [1] * ndim
    shape[axis] = value.size
    return value.reshape(shape)


def _converted(model: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX Runtime's conversion, edges in float32. Operators that it knows to lack float16 stay in float32."""
    path = list(sys.path)
    from onnxruntime.transformers.float16 import convert_float_to_float16

    sys.path[:] = path  # the import of that package appends its own folder
    half: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True)
    return half


def _set_output_type(node: NodeProto) -> None:
    """From opset 21 Q/DQ may name the type of their output; the scale's, float16 now, has to follow."""
    for attribute in node.attribute:
        if (
            node.op_type in _QDQ
            and attribute.name in {"output_dtype", "precision"}
            and attribute.i == TensorProto.FLOAT
        ):
            attribute.i = TensorProto.FLOAT16


def _sort(graph: GraphProto) -> None:
    """Puts the nodes into topological order, which the conversion's casts are not in."""
    producers = {name: index for index, node in enumerate(graph.node) for name in node.output}
    needs: dict[int, set[int]] = defaultdict(set)
    for index, node in enumerate(graph.node):
        needs[index] = {producers[name] for name in reads(node) if name in producers}
    ordered_nodes = [graph.node[index] for index in TopologicalSorter(needs).static_order()]
    ordered = [NodeProto.FromString(node.SerializeToString()) for node in ordered_nodes]
    del graph.node[:]
    graph.node.extend(ordered)
