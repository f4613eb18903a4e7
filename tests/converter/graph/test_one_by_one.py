"""Networks whose batch of 1 stays fixed: each image has the numbers that it has alone, all the way to INT8."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx

from calibrators.data.batches import random_pixels
from calibrators.zscgan.batch_norm import batch_norm_layers
from converter import pipeline
from converter.cli.convert import command
from converter.errors import OptionsError
from converter.graph.capture import FoldedGraph, as_written, graph_from_onnx, observe
from converter.graph.one_by_one import image_by_image
from converter.graph.twin import nodes_by_value, twin_from_onnx
from converter.job import Job, options_for
from converter.load.model import Teacher, load_model
from converter.load.options import ModelOptions
from converter.options import ConvertOptions
from converter.quantize.fake_quant import simulate
from converter.quantize.placement import place_quantizers
from converter.quantize.qdq import qdq_from_onnx
from converter.stages.benchmark import Benchmarked, measured_batches
from converter.stages.build import Deployed
from converter.trust.answers import network_of
from converter.trust.parity import literal_outputs
from converter.trust.sensitivity import sensitivity_from_graph
from converter.trust.task.classes import Classes
from engines.onnxruntime import engine as onnxruntime
from engines.onnxruntime.engine import OnnxRuntimeEngine
from engines.options import BuildOptions
from tests.converter.digits import QUICK

IMAGES = 5
node = helper.make_node
Nodes = list[onnx.NodeProto]


def head(source: str) -> Nodes:
    return [
        node("GlobalAveragePool", [source], ["pool"]),
        node("Flatten", ["pool"], ["flat"]),
        node("Gemm", ["flat", "fc", "fcb"], ["logits"]),
    ]


BODY = [
    node("Conv", ["x", "w", "b"], ["conv"], pads=[1, 1, 1, 1]),
    node("BatchNormalization", ["conv", "gamma", "beta", "mean", "var"], ["norm"]),
    node("Relu", ["norm"], ["y"]),
]
TAIL = [node("Reshape", ["flat", "row"], ["r"]), node("Gemm", ["r", "fc", "fcb"], ["logits"])]
ACROSS = [
    node("MatMul", ["t", "w3"], ["p"]),
    node("BatchNormalization", ["q", "gamma", "beta", "mean", "var"], ["n"]),
]
NETWORKS: dict[str, tuple[Nodes, list[str]]] = {
    "a transposed batch": (
        [
            *BODY,
            node("Reshape", ["y", "channels"], ["r"]),
            node("Transpose", ["r"], ["t"], perm=[1, 0]),
            ACROSS[0],
            node("Reshape", ["p", "image"], ["q"]),
            ACROSS[1],
            *head("n"),
        ],
        ["r", "t", "q"],
    ),
    "the image taken out": (
        [
            *BODY,
            node("Squeeze", ["y", "front"], ["one"]),
            node("ReduceMax", ["one"], ["flat"], axes=[1, 2], keepdims=0),
            *TAIL,
        ],
        ["one", "r"],
    ),
    "a mean over all": (
        [
            *BODY,
            node("ReduceMean", ["y"], ["m"], keepdims=0),
            node("Sub", ["y", "m"], ["s"]),
            *head("s"),
        ],
        ["m", "s"],
    ),
    "parts of an axis that also holds the image": (
        [
            *BODY,
            node("Reshape", ["y", "channels"], ["r"]),
            node("Split", ["r", "halves"], ["left", "right"], axis=0),
            node("Concat", ["right", "left"], ["c"], axis=0),
            node("Reshape", ["c", "image"], ["q"]),
            *head("q"),
        ],
        ["r", "left_parts", "c", "q"],
    ),
}
"""Nodes, and those that have to run for each image."""


def saved(path: Path, nodes: Nodes, batch: int | str = 1, **changed: list[int]) -> Path:
    random = np.random.default_rng(0)
    weights = {
        "w": random.standard_normal((8, 3, 3, 3)),
        "b": random.standard_normal(8),
        "w3": random.standard_normal((8, 8)),
        "fc": random.standard_normal((8, 5)),
        "fcb": random.standard_normal(5),
    }
    weights |= {name: random.uniform(0.5, 1.5, 8) for name in ("gamma", "beta", "mean", "var")}
    numbers = {"front": [0], "row": [1, 8], "channels": [8, 64], "image": [1, 8, 8, 8], "halves": [3, 5]}
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    tensors += [numpy_helper.from_array(np.array(v), name) for name, v in (numbers | changed).items()]
    info = helper.make_tensor_value_info
    inputs = [info("x", TensorProto.FLOAT, [batch, 3, 8, 8])]
    graph = helper.make_graph(nodes, "net", inputs, [info("logits", TensorProto.FLOAT, [batch, 5])], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def load(path: Path) -> Teacher:
    return load_model(ModelOptions(str(path), mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2)))


def graph_of(teacher: Teacher) -> FoldedGraph:
    assert teacher.onnx is not None
    return graph_from_onnx(teacher.onnx, teacher.spec)


def run_alone(path: Path) -> list[str]:
    twin = image_by_image(twin_from_onnx(onnx.load(path)), torch.rand(1, 3, 8, 8))
    return [n.name for n in twin.graph.nodes if str(n.target).startswith("image_by_image.")]


def ranges_of(graph: FoldedGraph, x: Tensor, names: tuple[str, ...]) -> dict[str, float]:
    return {name: float(value.abs().max()) for name, value in observe(graph.module, x, names)[1].items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_each_image_has_the_logits_that_it_has_alone_in_fp32_and_in_int8(name: str, tmp_path: Path) -> None:
    nodes, alone = NETWORKS[name]
    path = saved(tmp_path / "net.onnx", nodes)
    assert run_alone(path) == alone
    teacher = load(path)
    assert (teacher.one_by_one, teacher.notes) == (True, ())
    graph = graph_of(teacher)
    x = random_pixels(teacher.spec, IMAGES, 0)
    with torch.no_grad(), OnnxRuntimeEngine(path) as file:
        expected = np.concatenate([file.run(image.numpy()) for image in x.split(1)])
        np.testing.assert_allclose(teacher.module(x), expected, atol=1e-4)
        np.testing.assert_allclose(graph.module(x), expected, atol=1e-4)
    plan = place_quantizers(graph.onnx)
    amax = ranges_of(graph, x, plan.observed)
    each = [ranges_of(graph, image, plan.observed) for image in x.split(1)]
    assert amax == {key: pytest.approx(max(some[key] for some in each)) for key in plan.observed}
    int8 = as_written(qdq_from_onnx(graph.onnx, plan, amax))
    onnx.checker.check_model(int8, full_check=True)
    sizes = [dim for value in int8.graph.value_info for dim in value.type.tensor_type.shape.dim]
    assert all(dim.dim_value > 0 for dim in sizes)
    onnx.save(int8, tmp_path / "int8.onnx")
    onnxruntime.build(tmp_path / "int8.onnx", tmp_path / "engine.onnx")
    with torch.no_grad():
        simulated = simulate(graph, plan, amax, 8)(x).numpy()
    step = float(np.abs(expected).max()) / 127
    np.testing.assert_allclose(simulated, expected, atol=20 * step)
    (literal,) = literal_outputs(tmp_path / "int8.onnx", x.numpy())
    np.testing.assert_allclose(literal, simulated, atol=step)
    with OnnxRuntimeEngine(tmp_path / "engine.onnx") as engine:
        assert engine.fixed_batch == 1
        (found,) = network_of(engine)(x.numpy())
        np.testing.assert_allclose(found, simulated, atol=step)


def test_all_is_measured_as_with_a_free_batch(tmp_path: Path) -> None:
    fixed = load(saved(tmp_path / "fixed.onnx", NETWORKS["a transposed batch"][0]))
    nodes = [*NETWORKS["a transposed batch"][0]]
    nodes[4] = node("Transpose", ["r"], ["t"], perm=[0, 2, 1])
    free = load(saved(tmp_path / "free.onnx", nodes, "N", channels=[0, 8, 64], image=[-1, 8, 8, 8]))
    assert (fixed.one_by_one, free.one_by_one) == (True, False)
    x = random_pixels(fixed.spec, IMAGES, 0)

    def statistics(teacher: Teacher) -> dict[str, tuple[Tensor, Tensor]]:
        seen: dict[str, tuple[Tensor, Tensor]] = {}
        for name, layer in batch_norm_layers(teacher.module).items():
            layer.register_forward_pre_hook(
                lambda _, given, name=name: seen.update({name: torch.var_mean(given[0], (0, 2, 3))})
            )
        teacher.module(x)
        return seen

    ours, theirs = statistics(fixed), statistics(free)
    assert (len(ours), ours.keys()) == (2, theirs.keys())
    for name, values in ours.items():
        torch.testing.assert_close(values, theirs[name])
    graphs = graph_of(fixed), graph_of(free)
    assert graphs[0].activations == graphs[1].activations
    plans = [place_quantizers(graph.onnx) for graph in graphs]
    assert plans[0] == plans[1]
    effects = []
    for graph, plan in zip(graphs, plans, strict=True):
        amax = ranges_of(graph, x, plan.observed)
        found = sensitivity_from_graph(graph, plan, amax, Classes(5), x, batch_size=IMAGES, seed=0)
        effects.append(found.effects)
    np.testing.assert_allclose(effects[0], effects[1], rtol=1e-3, atol=1e-6)


def test_a_batch_that_can_be_freed_is_free(tmp_path: Path) -> None:
    teacher = load(saved(tmp_path / "net.onnx", [*BODY, node("GlobalAveragePool", ["y"], ["flat"]), *TAIL]))
    assert not teacher.one_by_one
    assert teacher.notes == ("the file fixes its batch to 1; the converted network takes any",)


def test_shapes_are_those_of_one_image(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["x"], ["sizes"]),
        node("Gather", ["sizes", "front"], ["images"]),
        node("Cast", ["images"], ["factor"], to=TensorProto.FLOAT),
        node("Mul", ["x", "factor"], ["y"]),
        node("GlobalMaxPool", ["y"], ["logits"]),
    ]
    twin = twin_from_onnx(onnx.load(saved(tmp_path / "net.onnx", nodes)))
    x = torch.rand(IMAGES, 3, 8, 8)
    assert not torch.equal(twin(x), x.amax((2, 3), keepdim=True))
    assert torch.equal(image_by_image(twin, x[:1])(x), x.amax((2, 3), keepdim=True))


def test_zeros_hide_no_mixing() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    zeros = graph.call_function(torch.mul, (x, 0))
    graph.output(graph.call_function(torch.amax, (zeros,), name="over_all"))
    twin = image_by_image(fx.GraphModule(torch.nn.Module(), graph), torch.rand(1, 3))
    assert [n.op for n in twin.graph.nodes] == ["placeholder", "call_function", "call_module", "output"]
    assert nodes_by_value(twin) == {}


def test_a_network_of_several_images_is_written_as_it_is(tmp_path: Path) -> None:
    teacher = load(saved(tmp_path / "net.onnx", [*BODY, *head("y")], "N"))
    graph = graph_of(teacher)
    assert as_written(graph.onnx) is graph.onnx
    assert not replace(teacher, onnx=None).one_by_one


@pytest.mark.slow
def test_the_whole_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[int, ...]] = []

    def benchmark(job: Job, deployed: Deployed) -> Benchmarked:
        measured.append(measured_batches(job, deployed))
        return Benchmarked([])

    monkeypatch.setattr(pipeline, "benchmark", benchmark)
    path = saved(tmp_path / "mine.onnx", NETWORKS["a transposed batch"][0])
    result = CliRunner().invoke(command, [str(path), *QUICK, "--preset", "unit", "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.stderr
    assert "the network converts sample by sample, and its engine takes one image" in result.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "one-by-one" in [warning["code"] for warning in report["warning_details"]]
    assert report["options"]["build"]["max_batch"] == 1
    assert measured == [(1,)]
    for name in ("model.fp32.onnx", "model.int8.onnx", "model.onnxruntime.onnx"):
        with OnnxRuntimeEngine(tmp_path / "out" / name) as engine:
            assert engine.fixed_batch == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"build": BuildOptions(max_batch=16)},
            "expected --max-shapes 1, as net fixes its batch to 1, got 16",
        ),
        ({"build": BuildOptions(min_batch=2)}, "expected --min-shapes 1, as net fixes its batch to 1, got 2"),
        ({"implicit": True}, "--implicit calibrates with batches of several images, but net fixes"),
    ],
)
def test_an_engine_for_other_batches_is_refused(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "net.onnx", NETWORKS["a mean over all"][0])
    teacher, usual = load(path), ConvertOptions(ModelOptions(str(path)))
    with pytest.raises(OptionsError, match=message):
        options_for(teacher, replace(usual, **options))
    built = options_for(teacher, usual).build
    assert (built.min_batch, built.opt_batch, built.max_batch) == (1, 1, 1)
