"""Groups leave no fusion half quantized; sizes and groups by hand."""

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from calibrators.data.input_spec import InputSpec
from converter.graph.capture import FoldedGraph, graph_from_model
from converter.graph.layer_sizes import layers_from_onnx
from converter.quantize.float_share import float_macs_percent, layers_in_float
from converter.quantize.layer_groups import groups_from_onnx
from converter.quantize.placement import QuantizationPlan, place_quantizers
from converter.quantize.qdq import qdq_from_onnx
from converter.quantize.quantized_inputs import parts_of
from converter.trust.parity import literal_outputs
from engines.onnxruntime import engine as onnxruntime
from engines.onnxruntime.engine import OnnxRuntimeEngine
from tests.converter import networks
from tests.converter.reference import NETWORKS, assert_pairs_are_as_planned, graph_of, inputs_of, planned

pytestmark = pytest.mark.slow


class Bottleneck(nn.Module):
    """MobileNet's block: pointwise, depthwise, pointwise, and the input added."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 12, 1)
        self.depthwise = nn.Conv2d(12, 12, 3, 1, 1, groups=12)
        self.project = nn.Conv2d(12, 3, 1)
        self.fc = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.relu6(self.expand(x))
        y = nn.functional.hardswish(self.depthwise(y))
        return self.fc((x + self.project(y)).mean((2, 3)))


def bottleneck() -> FoldedGraph:
    torch.manual_seed(0)
    return graph_from_model(Bottleneck(), InputSpec((3, 8, 8)))


def layer_groups(graph: FoldedGraph) -> list[tuple[str, ...]]:
    return [group.layers for group in groups_from_onnx(graph.onnx, place_quantizers(graph.onnx))]


def test_depthwise_layers_go_with_the_pointwise_that_reads_them() -> None:
    graph = bottleneck()
    assert layer_groups(graph) == [("conv2d",), ("conv2d_1", "conv2d_2"), ("logits",)]
    groups = groups_from_onnx(graph.onnx, place_quantizers(graph.onnx))
    assert {(part.kind, part.consumer) for part in groups[1].parts} == {
        ("activation", "conv2d_1"), ("weight", "conv2d_1"), ("activation", "conv2d_2"), ("weight", "conv2d_2"),
        ("activation", "add_25"),
    }  # fmt: skip
    assert groups[1].macs == 12 * 9 * 64 + 12 * 3 * 64


def test_a_depthwise_layer_whose_result_is_also_pooled_stays_alone() -> None:
    assert ("conv2d_1",) in layer_groups(graph_of(networks.Squeeze))


def test_a_residual_add_and_a_pool_leave_with_their_convolution() -> None:
    graph = graph_of(networks.Residual)
    groups = {group.layers: group for group in groups_from_onnx(graph.onnx, place_quantizers(graph.onnx))}
    assert ("conv2d_5", "add_121") in {(p.tensor, p.consumer) for p in groups["conv2d_4",].parts}
    assert ("relu_4", "mean") in {(p.tensor, p.consumer) for p in groups["logits",].parts}


@pytest.mark.parametrize("network", NETWORKS)
def test_every_layer_is_in_one_group_and_all_groups_take_everything(network: type[nn.Module]) -> None:
    graph = graph_of(network)
    plan = place_quantizers(graph.onnx)
    groups = groups_from_onnx(graph.onnx, plan)
    layers = [layer for group in groups for layer in group.layers]
    parts = parts_of(plan)
    assert layers == [part.consumer for part in parts if part.kind == "weight"]
    assert frozenset().union(*(group.parts for group in groups)) == set(parts)
    assert place_quantizers(graph.onnx, excluded=layers) == QuantizationPlan((), ())


def half_quantized(graph: FoldedGraph, plan: QuantizationPlan) -> list[str]:
    """Layers of which one input is quantized and another isn't, Adds that are with a float convolution, pools and
    Concats whose result is read as float."""
    nodes = {node.output[0]: node for node in graph.onnx.graph.node}
    initializers = {value.name for value in graph.onnx.graph.initializer}
    parts = parts_of(plan)
    producers = {name: node for node in graph.onnx.graph.node for name in node.output}
    quantized = {(part.tensor, part.consumer) for part in parts if part.kind == "activation"}
    weights = {part.consumer for part in parts if part.kind == "weight"}
    wrong = [
        part.consumer
        for part in parts
        if part.kind == "weight" and not any(reader == part.consumer for _, reader in quantized)
    ]
    for tensor, layer in quantized:
        node = nodes[layer]
        readers = [reader for reader in graph.onnx.graph.node if layer in reader.input]
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            wrong += [layer] if layer not in weights else []
        elif node.op_type == "Add":
            (other,) = (name for name in node.input if name != tensor and name not in initializers)
            main = producers[other].input[0] if producers[other].op_type == "Relu" else other
            wrong += [layer] if main not in weights and (other, layer) not in quantized else []
        elif node.op_type in ("MaxPool", "Concat"):
            wrong += [layer] if any((layer, reader.output[0]) not in quantized for reader in readers) else []
            inputs = [name for name in node.input if name]
            wrong += [layer] if any((name, layer) not in quantized for name in inputs) else []
    return wrong


@pytest.mark.parametrize("network", NETWORKS)
def test_no_choice_of_groups_leaves_a_fusion_half_quantized(network: type[nn.Module]) -> None:
    graph = graph_of(network)
    groups = groups_from_onnx(graph.onnx, place_quantizers(graph.onnx))
    for size in range(len(groups) + 1):
        for chosen in itertools.combinations(groups, size):
            excluded = [layer for group in chosen for layer in group.layers]
            plan = place_quantizers(graph.onnx, excluded=excluded)
            assert half_quantized(graph, plan) == []
            assert not {part.consumer for part in parts_of(plan)} & set(excluded)


def test_excluded_names_must_be_nodes() -> None:
    with pytest.raises(ValueError, match="got elsewhere"):
        place_quantizers(graph_of(networks.Residual).onnx, excluded=["conv2d", "elsewhere"])


@pytest.mark.parametrize(
    "network", [networks.Residual, networks.Branches, networks.Shared, networks.Sequence]
)
def test_partly_quantized_networks_run_in_onnx_runtime_as_they_are_written(
    network: type[nn.Module], tmp_path: Path
) -> None:
    """Each group in float by itself: the engine's logits are those of the Q/DQ model run literally."""
    graph, x = graph_of(network), inputs_of(network, batch=16)
    plan, amax = planned(graph, x)
    source, engine = tmp_path / "source.onnx", tmp_path / "engine.onnx"
    for group in groups_from_onnx(graph.onnx, plan):
        mixed = place_quantizers(graph.onnx, excluded=group.layers)
        ranges = {**planned_ranges(graph, mixed, x), **amax}
        model = qdq_from_onnx(graph.onnx, mixed, ranges)
        onnx.checker.check_model(model, full_check=True)
        assert_pairs_are_as_planned(model, mixed)
        onnx.save_model(model, source)
        onnxruntime.build(source, engine)
        with OnnxRuntimeEngine(engine) as opened:
            logits = opened.run(x.numpy())
        (literal,) = literal_outputs(source, x.numpy())
        # An int32 bias and another order of sums move single codes; of these networks' logits that is little.
        assert np.sqrt(np.mean((logits - literal) ** 2)) < 0.03 * literal.std()


def planned_ranges(graph: FoldedGraph, plan: QuantizationPlan, x: Tensor) -> dict[str, float]:
    from converter.graph.capture import observe

    return {name: float(v.abs().max()) for name, v in observe(graph.module, x, plan.observed)[1].items()}


def test_multiply_adds_and_parameters_by_hand() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 20]>
        g (float[batch, 4, 5, 5] x, float[batch, 7, 6] s) => (float[batch, 2] y, float[batch, 7, 3] q)
        { c = Conv <group=2, pads=[1,1,1,1]> (x, a, b)  t = ConvTranspose <strides=[2,2]> (c, u)
          p = GlobalAveragePool(t)  f = Flatten(p)  j = Concat <axis=1> (f, f, f, f)  y = MatMul(j, m)
          q = MatMul(s, w) }"""
    )
    shapes = {"a": (6, 2, 3, 3), "b": (6,), "u": (6, 2, 2, 2), "m": (8, 2), "w": (6, 3)}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in shapes.items()
    )
    layers = layers_from_onnx(onnx.shape_inference.infer_shapes(model, strict_mode=True))
    assert [(layer.name, layer.op, layer.macs, layer.parameters) for layer in layers.values()] == [
        ("c", "Conv", 6 * 25 * 2 * 9, 6 * 18 + 6),
        ("t", "ConvTranspose", 6 * 25 * 2 * 4, 48),
        ("p", "GlobalAveragePool", 0, 0),
        ("f", "Flatten", 0, 0),
        ("j", "Concat", 0, 0),
        ("y", "MatMul", 8 * 2, 16),
        ("q", "MatMul", 7 * 3 * 6, 18),
    ]


def test_what_stays_in_float_by_hand() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 20]>
        g (float[batch, 4, 6] x) => (float[batch, 4, 4] y)
        { q = MatMul(x, w)  t = Transpose <perm=[0,2,1]> (q)  y = MatMul(q, t) }"""
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones((6, 8), np.float32), "w"))
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    plan = place_quantizers(model)
    of_weights, of_scores = 4 * 6 * 8, 4 * 8 * 4
    assert float_macs_percent(model, plan) == pytest.approx(100 * of_scores / (of_weights + of_scores))
    assert float_macs_percent(model, place_quantizers(model, ["q"])) == 100


def test_einsums_and_computed_kernels_count_too() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 20]>
        g (float[batch, 4, 6] x, float[1, 4, 5, 5] s, float[2, 4, 3, 3] k)
          => (float[batch, 4] y, float[1, 2, 3, 3] c)
        { y = Einsum <equation = "bij, j -> bi"> (x, w)  c = Conv(s, k) }"""
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones(6, np.float32), "w"))
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    plan = place_quantizers(model)
    assert {layer.name: layer.macs for layer in layers_in_float(model, plan)} == {
        "c": 2 * 9 * 4 * 9,
        "y": 4 * 6,
    }
    assert float_macs_percent(model, plan) == 100


def test_a_product_of_activations_is_a_group() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 20]>
        g (float[batch, 16, 16] x) => (float[batch, 16, 16] y)
        { q = MatMul(x, w)  t = Transpose <perm=[0,2,1]> (q)  y = MatMul(q, t) }"""
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones((16, 16), np.float32), "w"))
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    plan = place_quantizers(model)
    weights, product = groups_from_onnx(model, plan)
    assert (weights.layers, product.layers) == (("q",), ("y",))
    assert {(part.tensor, part.consumer) for part in product.parts} == {("q", "y"), ("t", "y")}
    assert float_macs_percent(model, plan) == 0
    assert float_macs_percent(model, place_quantizers(model, ["y"])) == 50
