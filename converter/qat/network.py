"""Teacher and student: the folded network as it is, and with fake quantizers where the plan has Q/DQ pairs."""

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from jaxtyping import Float
from torch import Tensor, fx, nn

from calibrators.zscgan.layout import in_channels_last
from converter.graph.capture import FoldedGraph
from converter.graph.outputs import tensors_of
from converter.graph.twin import nodes_by_value, parameter_of
from converter.qat.learned_ranges import ActivationRange, WeightRange
from converter.qat.options import QATOptions
from converter.qat.quantizers import Backend, QuantizerSpec
from converter.quantize.fake_quant import with_quantizers
from converter.quantize.placement import QuantizationPlan
from engines.onnx_passes.graph import OnnxGraph
from engines.onnx_passes.sign_analysis import nonnegative_tensors

WeightKey = tuple[str, int]
"""Name and axis of a quantized weight."""


@dataclass(frozen=True)
class Reader:
    """A layer that reads a quantized weight and has a bias: the bias and the range of the layer's input."""

    bias: str
    range_of: str


class Student(nn.Module):
    """The fake-quantized network: ``module`` gives outputs and features.

    Before each forward pass every quantizer gets the amax that follows from the weights and ranges of then, as
    ``converter.quantize.qdq`` will compute it. ``ranges`` are those of the activations, by the tensor that they are of.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        ranges: Mapping[str, ActivationRange],
        weights: Mapping[WeightKey, WeightRange],
        readers: Mapping[WeightKey, Sequence[Reader]],
    ) -> None:
        super().__init__()
        self.module = module
        self._ranges, self._weights, self._readers = dict(ranges), dict(weights), dict(readers)

    def refresh(self) -> None:
        """Bring every quantizer up to date."""
        for activation in self._ranges.values():
            activation.refresh()
        for key, weight in self._weights.items():
            readers = [
                (parameter_of(self.module, reader.bias), self._ranges[reader.range_of].scale)
                for reader in self._readers.get(key, ())
            ]
            weight.refresh(parameter_of(self.module, key[0]), readers)

    def amax(self) -> dict[str, float]:
        """Each activation's range as it is now."""
        return {name: float(activation.amax) for name, activation in self._ranges.items()}

    def learned(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    def features(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Outputs, and the values that are quantized, before they are."""
        self.refresh()
        outputs, features = self.module(x)
        return tensors_of(outputs), features

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> tuple[Tensor, ...]:
        return self.features(x)[0]


def student_from_graph(
    graph: FoldedGraph,
    plan: QuantizationPlan,
    amax: Mapping[str, float],
    options: QATOptions,
    backend: Backend,
) -> Student:
    """The student of post-training quantization: the weights of ``graph`` and the ranges ``amax``."""
    unsigned = unsigned_ranges(graph.onnx, plan) if options.unsigned else frozenset[str]()
    ranges = {}
    for name in plan.observed:
        spec = QuantizerSpec(options.num_bits, unsigned=name in unsigned)
        ranges[name] = ActivationRange(backend(spec), spec, amax[name], options.learn_ranges)
    weights = {}
    for planned in plan.weights:
        value = parameter_of(graph.module, planned.tensor)
        shape = tuple(size if dim == planned.axis else 1 for dim, size in enumerate(value.shape))
        spec = QuantizerSpec(options.num_bits, narrow=True, axis=planned.axis, shape=shape)
        weights[planned.tensor, planned.axis] = WeightRange(backend(spec), spec)
    module = with_features(with_quantizers(graph, plan, ranges, weights), plan)
    for name, value in module.named_parameters():
        if not name.endswith(".log_ratio"):
            value.requires_grad_(value.is_floating_point())
    student = Student(module, ranges, weights, readers_of(graph.onnx, plan))
    return in_channels_last(student.to(next(graph.module.parameters()).device))


def teacher_from_graph(graph: FoldedGraph, plan: QuantizationPlan) -> fx.GraphModule:
    """The FP32 network, frozen, with the same features as the student."""
    return in_channels_last(with_features(copy.deepcopy(graph.module), plan).requires_grad_(False))


def with_features(module: fx.GraphModule, plan: QuantizationPlan) -> fx.GraphModule:
    """``module``, which is changed, giving (outputs, the values in ``plan.observed`` that are not the input)."""
    nodes = nodes_by_value(module)
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    features = tuple(nodes[name] for name in plan.observed if nodes[name].op != "placeholder")
    output.args = ((output.args[0], features),)
    module.recompile()
    return module


def readers_of(model: onnx.ModelProto, plan: QuantizationPlan) -> dict[WeightKey, list[Reader]]:
    """The layers of each weight whose bias the engine takes as int32, in steps of the product of both scales."""
    nodes = {node.output[0]: node for node in model.graph.node}
    constants = {initializer.name for initializer in model.graph.initializer}
    range_of = {(pair.tensor, name): pair.range_of for pair in plan.activations for name in pair.consumers}
    readers: dict[WeightKey, list[Reader]] = defaultdict(list)
    for planned in plan.weights:
        node = nodes[planned.consumer]
        source = range_of.get((node.input[0], planned.consumer))
        if source is not None and len(node.input) > 2 and node.input[2] in constants:
            readers[planned.tensor, planned.axis].append(Reader(node.input[2], source))
    return readers


def unsigned_ranges(model: onnx.ModelProto, plan: QuantizationPlan) -> frozenset[str]:
    """The ranges of which no tensor is ever negative."""
    never = nonnegative_tensors(OnnxGraph(model))
    signed = {pair.range_of for pair in plan.activations if pair.tensor not in never}
    return frozenset(plan.observed) - signed
