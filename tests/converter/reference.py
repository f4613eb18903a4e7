"""What the tests of the graph, its plan and the Q/DQ model share: cached graphs and a reference."""

import copy
from functools import cache

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, fx, nn

from calibrators.data.input_spec import InputSpec
from converter.graph.capture import FoldedGraph, graph_from_model, observe
from converter.graph.twin import value_name
from converter.quantize.placement import QuantizationPlan, place_quantizers
from tests.converter import networks

SHAPES: dict[type[nn.Module], tuple[int, int, int]] = {
    networks.Residual: (3, 16, 16),
    networks.Branches: (3, 8, 8),
    networks.Squeeze: (3, 8, 8),
    networks.Upsampling: (3, 8, 8),
    networks.Perceptron: (3, 4, 4),
    networks.Sequence: (3, 4, 4),
    networks.PreActivation: (3, 8, 8),
    networks.Shared: (3, 8, 8),
}
NETWORKS = list(SHAPES)

# Of the logits' spread. Folding rounds each weight once and reorders float32 sums: a few last places.
FLOAT_TOLERANCE = 1e-5


def seeded_model(network: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return networks.randomised(network())


@cache
def graph_of(network: type[nn.Module]) -> FoldedGraph:
    return graph_from_model(seeded_model(network), InputSpec(SHAPES[network]))


def inputs_of(network: type[nn.Module], batch: int = 8) -> Tensor:
    return torch.randn(batch, *SHAPES[network], generator=torch.Generator().manual_seed(1))


def planned(graph: FoldedGraph, x: Tensor) -> tuple[QuantizationPlan, dict[str, float]]:
    """The plan and each range as the largest |value| for ``x``."""
    plan = place_quantizers(graph.onnx)
    _, values = observe(graph.module, x, plan.observed)
    return plan, {name: float(value.abs().max()) for name, value in values.items()}


def run_onnx(
    model: onnx.ModelProto, x: Tensor, names: list[str] | None = None, source: str = "input"
) -> list[np.ndarray]:
    """Values that ONNX Runtime computes operator by operator from the input ``source``, without fusing any."""
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    present = {value.name for value in extended.graph.output}
    declared = {value.name: value for value in extended.graph.value_info}
    extended.graph.output.extend(
        declared[name] for name in names or [] if name not in present and name != source
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        extended.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    wanted = [name for name in names or ["logits"] if name != source]
    results = dict(zip(wanted, session.run(wanted, {source: x.numpy()}), strict=True))
    return [results.get(name, x.numpy()) for name in names or ["logits"]]


class FakeQuantized(fx.Interpreter):
    """The FX graph in float64 with the quantizers of a plan simulated on its edges."""

    def __init__(self, graph: FoldedGraph, plan: QuantizationPlan, amax: dict[str, float]) -> None:
        super().__init__(copy.deepcopy(graph.module).double())
        self.scales = {
            (pair.tensor, consumer): torch.tensor(amax[pair.range_of], dtype=torch.float32) / 127
            for pair in plan.activations
            for consumer in pair.consumers
        }
        self.axes = {(weight.tensor, weight.consumer): weight.axis for weight in plan.weights}

    def run_node(self, n: fx.Node) -> object:
        def load(argument: fx.Node) -> object:
            value = self.env[argument]
            if not isinstance(value, Tensor) or not value.is_floating_point():
                return value
            value = value.double()
            if argument.op == "get_attr":
                axis = self.axes.get((value_name(argument), value_name(n)))
                return value if axis is None else _fake_quantized_weight(value, axis)
            scale = self.scales.get((value_name(argument), value_name(n)))
            return value if scale is None else (value / scale).round().clamp(-128, 127) * scale

        args, kwargs = fx.map_arg(n.args, load), fx.map_arg(n.kwargs, load)
        return getattr(self, n.op)(n.target, args, kwargs)


def _fake_quantized_weight(weight: Tensor, axis: int) -> Tensor:
    others = tuple(dim for dim in range(weight.ndim) if dim != axis)
    scale = weight.abs().amax(others, keepdim=True).float() / 127
    return (weight / scale).round().clamp(-127, 127) * scale


def assert_pairs_are_as_planned(int8: onnx.ModelProto, plan: QuantizationPlan) -> None:
    """Every QuantizeLinear feeds one DequantizeLinear of equal scale, and that the planned readers alone."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in int8.graph.node:
        for name in dict.fromkeys(node.input):
            readers.setdefault(name, []).append(node)
    found = []
    for node in int8.graph.node:
        if node.op_type == "QuantizeLinear":
            (dequantize,) = readers[node.output[0]]
            assert dequantize.op_type == "DequantizeLinear"
            assert dequantize.input[1:] == node.input[1:]
            found.append((node.input[0], tuple(reader.output[0] for reader in readers[dequantize.output[0]])))
    assert sorted(found) == sorted((pair.tensor, pair.consumers) for pair in plan.activations)
    weights = [
        reader.output[0]
        for node in int8.graph.node
        if node.op_type == "DequantizeLinear" and node.name.endswith("weight_dequantized")
        for reader in readers[node.output[0]]
    ]
    assert set(weights) <= {weight.consumer for weight in plan.weights}


@torch.no_grad()
def largest_difference(graph: FoldedGraph, x: Tensor) -> float:
    """Largest |difference| between the logits of the FX module and those of ONNX Runtime for ``x``."""
    return float((graph.module(x) - torch.from_numpy(run_onnx(graph.onnx, x)[0])).abs().max())
