"""An ONNX model with nothing left to compute ahead of time: constants folded, batch norms in the layers before them.

What a library does rightly it does here: onnxscript folds constants, so that weights which the model computes
(weight norm, standardised or transposed weights) become initializers, and onnx-ir takes out what is not read. The
folding of batch norms is this module's own: onnxscript's rule works in float32, leaves layers that share a weight
alone, and doesn't know the scale and shift of a frozen batch norm.
"""

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from converter.graph.ir_values import constant_of, free_name, new_constant
from converter.graph.output_names import name_outputs
from converter.graph.products import rewrite_products

Array = NDArray[np.float64]

_UNLIMITED = 2**40
_LAYERS = ("Conv", "ConvTranspose", "Gemm")
_OLDEST_IR = 4
"""Where initializers need no longer be inputs."""
_EPSILON = 1e-5
"""BatchNormalization's own default."""

_NEUTRAL = {"Mul": 1.0, "Div": 1.0, "Add": 0.0, "Sub": 0.0, "Pow": 1.0}


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``model`` that computes the same with nothing left to do ahead of time.

    Local functions are inlined, constants are initializers, and initializers are no inputs (as they are in files of
    IR version 3). Batch norms, and scales and shifts by one constant a channel, are folded into the Conv,
    ConvTranspose or Gemm whose output they alone read, one after the other. The values that are left keep their names.
    """
    simplified = ir.serde.deserialize_model(prepare(model))
    folder = _Folder(simplified.graph)
    while sum(map(folder.fold, list(simplified.graph))):
        pass
    common.RemoveUnusedNodesPass()(simplified)
    folder.name_weights()
    return ir.serde.serialize_model(simplified)


def prepare(model: onnx.ModelProto, *, one_image: bool = False) -> onnx.ModelProto:
    """A copy of ``model`` with its constants folded, without nodes that change nothing; its batch norms stay.

    ``one_image`` says that the graph was written for a batch of 1, where a squeeze of all axes takes that away too.
    """
    from onnxscript.optimizer import fold_constants
    from onnxscript.rewriter import rewrite
    from onnxscript.rewriter.rules.common import fuse_pad_into_conv_rule, materialize_reshape_shape_rule

    prepared = ir.serde.deserialize_model(model)
    outputs = [value.name or "" for value in prepared.graph.outputs]
    common.InlinePass()(prepared)
    common.RemoveInitializersFromInputsPass()(prepared)
    prepared.ir_version = max(prepared.ir_version, _OLDEST_IR)
    given = set(prepared.graph.initializers)
    while True:
        fold_constants(
            prepared, onnx_shape_inference=True, input_size_limit=_UNLIMITED, output_size_limit=_UNLIMITED
        )
        if not _fold_sizes(prepared.graph):
            break
    rewrite(prepared, pattern_rewrite_rules=[materialize_reshape_shape_rule, fuse_pad_into_conv_rule])
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(prepared)
    _drop_allowzero(prepared.graph)
    _drop_empty_biases(prepared.graph, given)
    if not one_image:
        _name_squeezed_axes(prepared.graph)
    rewrite_products(prepared.graph)
    _widen_indices(prepared.graph)
    for node in list(prepared.graph):
        if _is_idle(node):
            _replace(node, ir.node("Identity", [node.inputs[0]]))
    common.IdentityEliminationPass()(prepared)
    name_outputs(prepared.graph, outputs)
    common.RemoveUnusedNodesPass()(prepared)
    return ir.serde.serialize_model(prepared)


def _fold_sizes(graph: ir.Graph) -> bool:
    """Whether a known size was read alone, and is a constant now; onnxscript folds those that are read as a list."""
    known = [(node, size) for node in graph if (size := _known_size(node)) is not None]
    for node, size in known:
        _replace(node, ir.node("Constant", [], {"value": ir.tensor(size, ir.DataType.INT64)}, name=node.name))
    return bool(known)


def _known_size(node: ir.Node) -> int | None:
    """The number that ``node`` takes out of the shape of a value, where that has this size for every input."""
    shape = node.inputs[0].producer() if node.op_type == "Gather" and node.inputs[0] is not None else None
    if shape is None or shape.op_type != "Shape" or shape.attributes or node.inputs[1] is None:
        return None
    index = ir.convenience.get_const_tensor(node.inputs[1])
    sizes = shape.inputs[0].shape if shape.inputs[0] is not None else None
    if index is None or index.shape.rank() or sizes is None:
        return None
    size = sizes[int(index.numpy())]
    return size if isinstance(size, int) else None


def _drop_allowzero(graph: ir.Graph) -> None:
    """Take the attribute, which is new in opset 14, from reshapes to constant shapes without a zero."""
    for node in graph:
        shape = constant_of(node.inputs[1]) if node.op_type == "Reshape" else None
        if shape is not None and shape.all():
            node.attributes.pop("allowzero", None)


def _drop_empty_biases(graph: ir.Graph, given: set[str]) -> None:
    """Take from convolutions the zeros that an exporter computes where the network has no bias."""
    for node in graph:
        bias = node.inputs[2] if node.op_type in ("Conv", "ConvTranspose") and len(node.inputs) == 3 else None
        numbers = constant_of(bias)
        if bias is not None and bias.name not in given and numbers is not None and not numbers.any():
            node.resize_inputs(2)


def _name_squeezed_axes(graph: ir.Graph) -> None:
    """Let squeezes of all axes of size 1 name them: not the batch, which a single image would else lose."""
    for node in list(graph):
        shape = node.inputs[0].shape if node.op_type == "Squeeze" and node.inputs[0] is not None else None
        if shape is None or any(node.inputs[1:]) or "axes" in node.attributes:
            continue
        axes = ir.Value(
            name=free_name(graph, f"{node.outputs[0].name}_axes"),
            const_value=ir.tensor([axis for axis, size in enumerate(shape) if size == 1], ir.DataType.INT64),
        )
        graph.register_initializer(axes)
        _replace(node, ir.node("Squeeze", [node.inputs[0], axes], name=node.name))


def _widen_indices(graph: ir.Graph) -> None:
    """Give operators that index by int64 alone no int32, which torch.onnx passes on from an index of that type."""
    for node in list(graph):
        indices = node.inputs[1] if node.op_type in ("GatherND", "ScatterND") and not node.domain else None
        if indices is not None and indices.dtype == ir.DataType.INT32:
            cast = ir.node("Cast", [indices], {"to": ir.DataType.INT64})
            cast.outputs[0].dtype, cast.outputs[0].shape = ir.DataType.INT64, indices.shape
            graph.insert_before(node, cast)
            node.replace_input_with(1, cast.outputs[0])


def _is_idle(node: ir.Node) -> bool:
    """Whether the output of ``node`` is its first input, in type, shape and every number."""
    if node.op_type == "Dropout":
        training = node.inputs[2] if len(node.inputs) > 2 else None
        constant = constant_of(training)
        evaluates = training is None or (constant is not None and not constant.any())
        return evaluates and not any(output.uses() for output in node.outputs[1:])
    if node.op_type not in _NEUTRAL or node.domain:
        return False
    constant = constant_of(node.inputs[1])
    return constant is not None and constant.ndim == 0 and float(constant) == _NEUTRAL[node.op_type]


def _replace(old: ir.Node, new: ir.Node) -> None:
    """Put ``new`` in the place of ``old``, whose first output's name it takes."""
    assert old.graph is not None
    ir.convenience.replace_nodes_and_values(old.graph, old, [old], [new], [old.outputs[0]], [new.outputs[0]])


@dataclass(frozen=True)
class _Affine:
    """``factor * x + shift`` with one number a channel of ``x``, in float64."""

    factor: Array
    shift: Array


class _Folder:
    """Folds scales and shifts into layers, in float64 and rounded once.

    Layers that shared a weight and have the same behind them share the new one.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.made: dict[tuple[object, ...], tuple[ir.Value, ir.Value]] = {}
        self.names: dict[ir.Value, str] = {}

    def fold(self, node: ir.Node) -> bool:
        """Fold ``node`` into the layer before it; False where it is no scale or shift that can be."""
        layer = _layer_before(node)
        affine = None if layer is None else _affine_of(node, layer)
        if layer is None or affine is None:
            return False
        meaning = tuple(str(layer.attributes.get(name)) for name in ("transB", "group", "beta"))
        key = (*layer.inputs[1:], *meaning, affine.factor.tobytes(), affine.shift.tobytes())
        if key not in self.made:
            self.made[key] = self._weights(layer, affine)
        attributes = {name: value for name, value in layer.attributes.items() if name != "beta"}
        folded = ir.node(layer.op_type, [layer.inputs[0], *self.made[key]], attributes, name=layer.name)
        kept = node.outputs[0].name if node.outputs[0].is_graph_output() else layer.outputs[0].name
        _replace(node, folded)
        self.graph.remove(layer, safe=True)
        folded.outputs[0].name = kept
        return True

    def name_weights(self) -> None:
        """Call each new weight what it came from, as far as nothing else that is left has this name."""
        for value, name in self.names.items():
            if value.is_initializer() and value.uses():
                del self.graph.initializers[str(value.name)]
                value.name = free_name(self.graph, name)
                self.graph.register_initializer(value)

    def _weights(self, layer: ir.Node, affine: "_Affine") -> tuple[ir.Value, ir.Value]:
        """Weight and bias of ``layer`` with ``affine`` behind it."""
        weight, bias = (
            constant_of(layer.inputs[1]),
            constant_of(layer.inputs[2] if len(layer.inputs) > 2 else None),
        )
        assert weight is not None
        assert layer.inputs[1] is not None
        beta = layer.attributes.get_float("beta", 1.0)
        old = np.zeros(1) if bias is None else beta * bias.astype(np.float64)
        shift = np.broadcast_to(affine.factor * old + affine.shift, affine.factor.shape)
        scaled = _scaled(layer, weight.astype(np.float64), affine.factor)
        name = self._name(layer.inputs[1])
        if name.endswith("weight"):
            bias_name = f"{name.removesuffix('weight')}bias"
        else:
            given = layer.inputs[2] if len(layer.inputs) > 2 else None
            bias_name = f"{name}_bias" if given is None else self._name(given)
        return self._store(scaled.astype(weight.dtype), name), self._store(
            shift.astype(weight.dtype), bias_name
        )

    def _name(self, value: ir.Value) -> str:
        return self.names.get(value, str(value.name))

    def _store(self, numbers: NDArray[np.generic], name: str) -> ir.Value:
        value = new_constant(self.graph, f"{name}_folded", numbers)
        self.names[value] = name
        return value


def _layer_before(node: ir.Node) -> ir.Node | None:
    """The layer with constant weights whose output ``node`` alone reads, as its data."""
    if node.op_type not in ("BatchNormalization", "Mul", "Add", "Sub", "Div") or node.domain:
        return None
    layers = [
        value.producer()
        for value in node.inputs[:2]
        if value is not None
        and value.producer() is not None
        and len(value.uses()) == 1
        and not value.is_graph_output()
    ]
    for layer in layers:
        assert layer is not None
        constants = [constant_of(value) for value in layer.inputs[1:] if value is not None]
        if layer.op_type in _LAYERS and not layer.domain and all(c is not None for c in constants):
            return layer
    return None


def _output_channels(layer: ir.Node, weight: NDArray[np.generic]) -> int:
    if layer.op_type == "ConvTranspose":
        return int(weight.shape[1]) * layer.attributes.get_int("group", 1)
    if layer.op_type == "Gemm":
        return int(weight.shape[0 if layer.attributes.get_int("transB", 0) else 1])
    return int(weight.shape[0])


def _scaled(layer: ir.Node, weight: Array, factor: Array) -> Array:
    """``weight`` with each output channel multiplied by its ``factor``."""
    if layer.op_type == "ConvTranspose":  # [in, out / groups, ...], whose inputs are group by group
        groups = layer.attributes.get_int("group", 1)
        wide = weight.reshape(groups, -1, *weight.shape[1:])
        shape = (groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
        return (wide * factor.reshape(shape)).reshape(weight.shape)
    axis = 1 if layer.op_type == "Gemm" and not layer.attributes.get_int("transB", 0) else 0
    return weight * factor.reshape([-1 if dim == axis else 1 for dim in range(weight.ndim)])


def _affine_of(node: ir.Node, layer: ir.Node) -> _Affine | None:
    """What ``node`` does to each output channel of ``layer``; None where that is not one scale and one shift."""
    if node.op_type == "BatchNormalization":
        return _affine_of_batch_norm(node, layer)
    first = node.inputs[0] is layer.outputs[0]
    numbers = _by_channel(constant_of(node.inputs[1 if first else 0]), layer)
    if numbers is None or (node.op_type == "Div" and not (first and numbers.all())):
        return None
    one, zero = np.ones_like(numbers), np.zeros_like(numbers)
    if node.op_type in ("Mul", "Div"):
        return _Affine(numbers if node.op_type == "Mul" else 1 / numbers, zero)
    if node.op_type == "Sub" and not first:
        return _Affine(-one, numbers)
    return _Affine(one, -numbers if node.op_type == "Sub" else numbers)


def _by_channel(constant: NDArray[np.generic] | None, layer: ir.Node) -> Array | None:
    """``constant`` as one number for each output channel of ``layer``; None where it is something else."""
    weight = constant_of(layer.inputs[1])
    if constant is None or weight is None or not np.issubdtype(constant.dtype, np.floating):
        return None
    shape = (*[1] * (weight.ndim - constant.ndim), *constant.shape)
    if len(shape) > weight.ndim or any(size != 1 for dim, size in enumerate(shape) if dim != 1):
        return None
    channels = _output_channels(layer, weight)
    if shape[1] not in (1, channels):
        return None
    return np.broadcast_to(constant.astype(np.float64).reshape(-1), channels)


def _affine_of_batch_norm(node: ir.Node, layer: ir.Node) -> _Affine | None:
    constants = [constant_of(value) for value in node.inputs[1:5]]
    trains = node.attributes.get_int("training_mode", 0) or any(o.uses() for o in node.outputs[1:])
    if trains or node.inputs[0] is not layer.outputs[0] or any(constant is None for constant in constants):
        return None
    gamma, beta, mean, variance = (np.asarray(c).astype(np.float64) for c in constants)
    factor = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", _EPSILON))
    return _Affine(factor, beta - mean * factor)
