"""Where quantizers go: TensorRT's rules for explicit quantization, applied once to the FP32 ONNX model.

1. Conv, ConvTranspose, Gemm and MatMul with constant weights: activation per tensor, weight per output
   channel. Not the bias, not the output, nothing between a convolution and what fuses into it. MatMul of two
   activations, as in attention: both of them per tensor, but for those of ``quantize.attention``. Softmax, layer
   norms and GELU stay in float, and so does a layer of fewer than 16 outputs that reads a Softmax: the mean over the
   bins of a detector's boxes (DFL) gains nothing from INT8, and a step of a probability moves the box by pixels.
2. Average pools (also ReduceMean over space): the input, where an integer layer reads the result. Elsewhere
   the pool would only gain a conversion. Where the input also has float readers (the Mul beside the pool of a
   squeeze-and-excitation block) the pool stays float: a large tensor would be written in both precisions.
3. Residual Add: the branch that is not the one which TensorRT fuses the Add into. That is a convolution's output, or
   the activation of that (Relu, SiLU as Sigmoid and Mul), which the Add alone reads; of two such, the one on the
   longer path. Without one, both branches where integer layers read both anyway, else none.
4. MaxPool commutes with rounding: where all that reads its output takes it quantized, its input is quantized
   too, with one range for both, and it runs on integers. It joins a quantizer that its input already has. So does
   Resize: to the nearest pixel it picks values as a pool does; a linear one averages them, so both sides have the
   range of the input. A cubic one leaves that range and stays float.
5. Concat likewise, each input with the range of the output, also for other integer layers that read this input:
   with two scales for one tensor, what makes it writes it twice or as floats. One that goes into two such Concats has
   two.

Sources: TensorRT's developer guide on explicit quantization; for Resize, the Add behind an activation and the scale
of a Concat also ModelOpt 0.47 (``partitioning.py``, ``get_concat_eliminated_tensors``) and NVIDIA's QAT of YOLOv7
(yolo_deepstream, ``Guidance_of_QAT_performance_optimization.md``). ModelOpt also quantizes the branch behind a SiLU;
TensorRT for RTX 1.7 computes that in the kernel of the Add, where a pair would only round.

Shuffles, splits and reshapes move data without changing it; quantizers stay next to the layers that need
them, and TensorRT moves them over such operators itself.

Layers may be excluded, to stay in float. The rules then hold for what is left: nothing that only an excluded
layer wanted quantized is, and an Add that fuses into an excluded convolution stays in float with it.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

import onnx
from onnx import TensorProto, helper, numpy_helper

from converter.quantize.attention import MIN_SIZE, products_in_float
from engines.onnx_passes.graph import resize_mode

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
ACTIVATIONS = frozenset({
    "Add", "Clip", "Div", "Elu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Max", "Min", "Mul", "PRelu",
    "Relu", "Sigmoid", "Softplus", "Tanh",
})  # fmt: skip
"""Operators that are activations of a convolution, or what these consist of."""
DATA_MOVEMENT = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


@dataclass(frozen=True)
class ActivationQuantizer:
    """One Q/DQ pair on ``tensor``, read by the nodes whose first outputs are ``consumers``.

    Its scale comes from the range of the tensor ``range_of``. Other readers of ``tensor`` get the float
    value, or that of another quantizer: a tensor may have several, each with a ``range_of`` of its own.
    """

    tensor: str
    consumers: tuple[str, ...]
    range_of: str


@dataclass(frozen=True)
class WeightQuantizer:
    """Per-channel quantization of the initializer ``tensor`` along ``axis``, for one reader."""

    tensor: str
    axis: int
    consumer: str


@dataclass(frozen=True)
class QuantizationPlan:
    """All quantizers of a model, in the order in which the model's nodes make and read the tensors."""

    activations: tuple[ActivationQuantizer, ...]
    weights: tuple[WeightQuantizer, ...]

    @property
    def observed(self) -> tuple[str, ...]:
        """Tensors whose ranges are needed, each once."""
        return tuple(dict.fromkeys(quantizer.range_of for quantizer in self.activations))


def place_quantizers(model: onnx.ModelProto, excluded: Collection[str] = ()) -> QuantizationPlan:
    """The quantizers that ``model`` needs for INT8, in topological order.

    Only float values that depend on the input and whose type and shape the model declares are considered, as data and
    as results of the reading node; weights only where they are initializers. ``excluded`` are layers of rule 1, by
    their nodes' first outputs, that stay in float. Raises ValueError where one of these is not a node's.
    """
    graph = _Graph(model, frozenset(excluded))
    draft = _Draft()
    weights = [weight for node in graph.nodes for weight in _plan_layer(graph, draft, node)]
    for rule in (_plan_average_pool, _plan_add):
        for node in graph.nodes:
            rule(graph, draft, node)
    for node in reversed(graph.nodes):
        if node.op_type == "MaxPool" or resize_mode(node):
            _plan_pool(graph, draft, node)
        elif node.op_type == "Concat":
            _plan_concat(graph, draft, node)
    return QuantizationPlan(tuple(draft.quantizers(graph)), tuple(weights))


class _Graph:
    """Producers, readers and shapes of an ONNX graph."""

    def __init__(self, model: onnx.ModelProto, excluded: frozenset[str] = frozenset()) -> None:
        graph = model.graph
        self.nodes = list(graph.node)
        self.excluded = excluded
        if unknown := sorted(excluded - {node.output[0] for node in self.nodes}):
            raise ValueError(f"expected first outputs of the model's nodes, got {', '.join(unknown)}")
        self.initializers = {initializer.name: initializer for initializer in graph.initializer}
        self.outputs = {value.name for value in graph.output}
        self.producers = {name: node for node in self.nodes for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self.readers[name].append(node)
        dependent = _dependent(self.nodes, {value.name for value in graph.input} - self.initializers.keys())
        self.shapes = {
            value.name: tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
            for value in (*graph.input, *graph.value_info, *graph.output)
            if value.type.tensor_type.elem_type == TensorProto.FLOAT and value.name in dependent
        }
        names = [value.name for value in graph.input] + [name for node in self.nodes for name in node.output]
        self.products_in_float = products_in_float(self.nodes, self.initializers, self.shapes)
        self.order = {name: position for position, name in enumerate(names)}
        self.depths: dict[str, int] = {}
        for node in self.nodes:
            depth = 1 + max((self.depths.get(name, 0) for name in node.input), default=0)
            self.depths.update(dict.fromkeys(node.output, depth))

    def is_read_once(self, name: str) -> bool:
        return len(self.readers[name]) == 1 and name not in self.outputs

    def attribute(self, node: onnx.NodeProto, name: str, default: object) -> object:
        values = [helper.get_attribute_value(a) for a in node.attribute if a.name == name]
        return values[0] if values else default

    def constant(self, name: str) -> list[int] | None:
        """Integers of an initializer."""
        value = self.initializers.get(name)
        return [int(v) for v in numpy_helper.to_array(value).ravel()] if value is not None else None


def _dependent(nodes: Iterable[onnx.NodeProto], inputs: set[str]) -> set[str]:
    """``inputs`` and what is computed from them."""
    found = set(inputs)
    for node in nodes:
        if not found.isdisjoint(node.input):
            found.update(node.output)
    return found


@dataclass
class _Draft:
    """Quantizers while they are planned: tensor → range_of → consumers."""

    pairs: dict[str, dict[str, list[str]]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, tensor: str, consumer: onnx.NodeProto, range_of: str) -> None:
        consumers = self.pairs[tensor].setdefault(range_of, [])
        if consumer.output[0] not in consumers:
            consumers.append(consumer.output[0])

    def range_of(self, tensor: str) -> str | None:
        """Range that the integer layers reading ``tensor`` use; its own before a shared one."""
        ranges = self.pairs.get(tensor, {})
        return tensor if tensor in ranges else next(iter(ranges), None)

    def replace_range(self, old: str, new: str) -> None:
        for ranges in self.pairs.values():
            if old in ranges:
                ranges.setdefault(new, []).extend(ranges.pop(old))

    def is_quantized(self, tensor: str, consumer: onnx.NodeProto) -> bool:
        return any(consumer.output[0] in names for names in self.pairs.get(tensor, {}).values())

    def quantizers(self, graph: _Graph) -> Iterator[ActivationQuantizer]:
        for tensor in sorted(self.pairs, key=graph.order.__getitem__):
            ranges = self.pairs[tensor]
            for range_of in sorted(ranges, key=graph.order.__getitem__):
                consumers = sorted(ranges[range_of], key=graph.order.__getitem__)
                yield ActivationQuantizer(tensor, tuple(consumers), range_of)


def _plan_layer(graph: _Graph, draft: _Draft, node: onnx.NodeProto) -> list[WeightQuantizer]:
    """Rule 1; the weight quantizers of ``node``."""
    if node.op_type not in LAYERS or node.output[0] in graph.excluded:
        return []
    if node.output[0] not in graph.shapes or node.input[0] not in graph.shapes:
        return []
    weight = _weight_quantizer(graph, node)
    if weight is not None and _is_mean_over_bins(graph, node, weight):
        return []
    if weight is not None:
        draft.add(node.input[0], node, node.input[0])
        return [weight]
    if _is_integer_product(graph, node):
        for name in node.input:
            draft.add(name, node, name)
    return []


def _is_mean_over_bins(graph: _Graph, node: onnx.NodeProto, weight: WeightQuantizer) -> bool:
    """Whether ``node`` has few outputs and reads a Softmax, past operators that move data."""
    source = graph.producers.get(node.input[0])
    while source is not None and source.op_type in DATA_MOVEMENT:
        source = graph.producers.get(source.input[0])
    outputs = graph.initializers[weight.tensor].dims[weight.axis]
    return source is not None and source.op_type == "Softmax" and outputs < MIN_SIZE


def _is_integer_product(graph: _Graph, node: onnx.NodeProto) -> bool:
    """Whether ``node`` multiplies two activations that rule 1 quantizes."""
    activations = all(name in graph.shapes for name in node.input)
    return node.op_type == "MatMul" and activations and node.output[0] not in graph.products_in_float


def _weight_quantizer(graph: _Graph, node: onnx.NodeProto) -> WeightQuantizer | None:
    weight = graph.initializers.get(node.input[1])
    if weight is None or weight.data_type != TensorProto.FLOAT:
        return None
    if node.op_type in ("Conv", "ConvTranspose"):
        # ConvTranspose's [in, out/groups, ...] has one scale an output of a group, shared by the groups.
        axis = 1 if node.op_type == "ConvTranspose" else 0
    elif len(weight.dims) < 2:
        return None
    elif node.op_type == "MatMul":
        axis = len(weight.dims) - 1  # the products of a batch share the scale of a column
    else:
        axis = 0 if graph.attribute(node, "transB", 0) else 1
    return WeightQuantizer(weight.name, axis, node.output[0])


def _plan_average_pool(graph: _Graph, draft: _Draft, node: onnx.NodeProto) -> None:
    """Rule 2."""
    tensor = node.input[0] if node.input else ""
    if not _is_average_pool(graph, node) or tensor not in graph.shapes or node.output[0] not in graph.shapes:
        return
    shared = draft.range_of(tensor) is not None
    if (shared or graph.is_read_once(tensor)) and _feeds_integers(
        graph, draft, node.output[0], past=DATA_MOVEMENT
    ):
        draft.add(tensor, node, tensor)


def _is_average_pool(graph: _Graph, node: onnx.NodeProto) -> bool:
    if node.op_type in ("AveragePool", "GlobalAveragePool"):
        return True
    if node.op_type != "ReduceMean" or len(node.input) != 2:
        return False
    rank = len(graph.shapes.get(node.input[0], ()))
    axes = graph.constant(node.input[1])
    return axes is not None and rank > 2 and sorted(axis % rank for axis in axes) == list(range(2, rank))


def _feeds_integers(graph: _Graph, draft: _Draft, tensor: str, past: tuple[str, ...] = ()) -> bool:
    """Whether every reader of ``tensor``, past operators of the types ``past``, takes it quantized."""
    if tensor in graph.outputs or not graph.readers[tensor]:
        return False
    return all(
        draft.is_quantized(tensor, reader)
        or (reader.op_type in past and _feeds_integers(graph, draft, reader.output[0], past))
        for reader in graph.readers[tensor]
    )


def _plan_add(graph: _Graph, draft: _Draft, node: onnx.NodeProto) -> None:
    """Rule 3."""
    if node.op_type != "Add" or not all(name in graph.shapes for name in (*node.input, node.output[0])):
        return
    first, second = node.input
    if first == second or graph.shapes[first] != graph.shapes[second]:
        return
    fusible = [name for name in node.input if graph.is_read_once(name) and _convolution_of(graph, name)]
    if not fusible:
        if all(draft.range_of(name) is not None for name in node.input):
            for name in node.input:
                draft.add(name, node, name)
        return
    main = max(fusible, key=lambda name: (graph.depths[name], graph.order[name]))
    if _convolution_of(graph, main) in graph.excluded:
        return
    identity = second if main == first else first
    draft.add(identity, node, identity)


def _convolution_of(graph: _Graph, name: str, steps: int = 6) -> str | None:
    """The output of the one convolution of which ``name`` is the activation, or that it is itself."""
    node = graph.producers.get(name)
    if node is None or node.op_type == "Conv":
        return name if node is not None else None
    if node.op_type not in ACTIVATIONS or steps == 0:
        return None
    data = [each for each in node.input if each and each not in graph.initializers]
    found = {_convolution_of(graph, each, steps - 1) for each in data}
    return found.pop() if len(found) == 1 else None


def _plan_pool(graph: _Graph, draft: _Draft, node: onnx.NodeProto) -> None:
    """Rule 4, for a MaxPool or a Resize."""
    tensor, result = node.input[0], node.output[0]
    wanted, averages = draft.range_of(result), resize_mode(node) == "linear"
    if wanted is None or tensor not in graph.shapes or not _feeds_integers(graph, draft, result):
        return
    if averages and tensor not in graph.producers:
        return  # the network's input, which would be rounded before it is first read
    # What is averaged is larger than the averages: their range would clip it.
    present = draft.range_of(tensor) or (tensor if averages else wanted)
    if wanted == result != present:
        draft.replace_range(result, present)
    draft.add(tensor, node, present)


def _plan_concat(graph: _Graph, draft: _Draft, node: onnx.NodeProto) -> None:
    """Rule 5."""
    wanted = draft.range_of(node.output[0])
    if wanted is None or not all(name in graph.shapes for name in node.input):
        return
    if not _feeds_integers(graph, draft, node.output[0]):
        return
    for name in dict.fromkeys(node.input):
        draft.replace_range(name, wanted)
        draft.add(name, node, wanted)
