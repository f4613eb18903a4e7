"""Networks that normalise their own input: which pixels they expect, and what is known of their ranges."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from converter import pipeline
from converter.cli.convert import command
from converter.graph.capture import graph_from_onnx
from converter.load.input_normalisation import normalised_values, white_pixel
from converter.load.model import load_model
from converter.load.options import ModelOptions
from converter.quantize.placement import place_quantizers
from converter.stages.benchmark import Benchmarked
from converter.stages.calibration import pixel_ranges
from tests.converter.digits import QUICK

pytestmark = pytest.mark.slow

node = helper.make_node
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def column(values: list[float] | float, scale: float = 1.0) -> np.ndarray:
    return (np.array(values, np.float32) * np.float32(scale)).reshape(-1, 1, 1)


def network(steps: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    """``steps`` from ``x`` to ``z``, then Conv, BatchNormalization, Relu, pool and Gemm."""
    random = np.random.default_rng(0)
    weights = {"w": random.standard_normal((8, 3, 3, 3)) / 5, "fc": random.standard_normal((8, 5))}
    weights |= {name: random.uniform(0.5, 1.5, 8) for name in ("gamma", "beta", "mean", "var")}
    weights = {name: value.astype(np.float32) for name, value in weights.items()} | constants
    nodes = [
        *steps,
        node("Conv", ["z", "w"], ["conv"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["conv", "gamma", "beta", "mean", "var"], ["norm"]),
        node("Relu", ["norm"], ["relu"]),
        node("GlobalAveragePool", ["relu"], ["pool"]),
        node("Flatten", ["pool"], ["flat"]),
        node("Gemm", ["flat", "fc"], ["logits"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "net",
        [info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [info("logits", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def norm(mean: list[float], std: list[float]) -> onnx.ModelProto:
    """A batch norm as the first node, with these statistics."""
    statistics = {"one": np.ones(3), "zero": np.zeros(3), "m": np.array(mean), "v": np.array(std) ** 2}
    step = node("BatchNormalization", ["x", "one", "zero", "m", "v"], ["z"])
    return network([step], {name: value.astype(np.float32) for name, value in statistics.items()})


SUB, DIV = node("Sub", ["x", "m"], ["c"]), node("Div", ["c", "s"], ["z"])
BACKWARDS = {"from": np.array([-1]), "to": np.array([-(2**31)]), "axis": np.array([1])}
MODELS: dict[str, tuple[onnx.ModelProto, float | None]] = {
    "torchvision's, of units": (network([SUB, DIV], {"m": column(MEAN), "s": column(STD)}), 1),
    "torchvision's, of bytes": (network([SUB, DIV], {"m": column(MEAN, 255), "s": column(STD, 255)}), 255),
    "bytes to units first": (
        network(
            [node("Mul", ["k", "x"], ["u"]), node("Sub", ["u", "m"], ["c"]), DIV],
            {"k": np.float32([1 / 255]), "m": column(MEAN), "s": column(STD)},
        ),
        255,
    ),
    "divided by 255 alone": (network([node("Div", ["x", "k"], ["z"])], {"k": np.float32(255)}), 255),
    "-1 to 1 of bytes": (
        network(
            [node("Div", ["x", "k"], ["u"]), node("Sub", ["u", "o"], ["z"])],
            {"k": np.float32(127.5), "o": np.float32(1)},
        ),
        255,
    ),
    "-1 to 1 of units": (
        network(
            [node("Mul", ["x", "k"], ["u"]), node("Add", ["n", "u"], ["z"])],
            {"k": np.float32(2), "n": np.float32(-1)},
        ),
        1,
    ),
    "Caffe's, in BGR": (
        network(
            [node("Gather", ["x", "bgr"], ["b"], axis=1), node("Sub", ["b", "m"], ["z"])],
            {"bgr": np.array([2, 1, 0]), "m": column(MEAN[::-1], 255)},
        ),
        255,
    ),
    "channels backwards": (
        network(
            [
                node("Slice", ["x", "from", "to", "axis", "from"], ["b"]),
                node("Sub", ["b", "m"], ["c"]),
                DIV,
            ],
            BACKWARDS | {"m": column(MEAN), "s": column(STD)},
        ),
        1,
    ),
    "units made into bytes": (
        network(
            [node("Mul", ["x", "k"], ["u"]), node("Sub", ["u", "m"], ["z"])],
            {"k": np.float32(255), "m": column(MEAN, 255)},
        ),
        1,
    ),
    "a batch norm of bytes": (norm([124.0, 116.0, 104.0], [58.0, 57.0, 57.0]), 255),
    "a batch norm of units": (norm(MEAN, STD), 1),
    "a batch norm of what is normalised already": (norm([0.02, -0.01, 0.03], [1.0, 1.0, 1.0]), None),
    "a batch norm that was never trained": (norm([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]), None),
    "another normalisation's": (
        network(
            [node("Mul", ["x", "k"], ["u"]), node("Add", ["u", "o"], ["z"])],
            {"k": column([0.458, 0.448, 0.45]), "o": column([-0.03, -0.088, -0.188])},
        ),
        None,
    ),
    "a factor of zero": (network([node("Mul", ["x", "k"], ["z"])], {"k": np.float32(0)}), None),
    "none": (network([node("Relu", ["x"], ["z"])], {}), None),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_constants_tell_the_pixels(name: str) -> None:
    model, white = MODELS[name]
    assert white_pixel(model) == white


def test_a_second_reader_of_the_pixels_ends_it() -> None:
    model, _ = MODELS["torchvision's, of units"]
    twice = onnx.ModelProto()
    twice.CopyFrom(model)
    twice.graph.node.insert(2, node("Add", ["z", "x"], ["sum"]))
    twice.graph.node[3].input[0] = "sum"
    assert normalised_values(model) == ("c", "z")
    assert normalised_values(twice) == ()
    assert white_pixel(twice) is None


@pytest.mark.parametrize(
    ("mean", "std", "bounds", "note"),
    [
        (
            None,
            None,
            (0, 255),
            r"normalises its own input: pixels are 0 to 255 \(--mean and --std say otherwise",
        ),
        ((0.5,), (0.5,), (-1, 1), "for pixels of 0 to 255, and what was typed comes before that: .* -1 to 1"),
    ],
)
def test_what_is_typed_comes_first(
    mean: tuple[float] | None, std: tuple[float] | None, bounds: tuple[int, int], note: str, tmp_path: Path
) -> None:
    onnx.save(MODELS["torchvision's, of bytes"][0], tmp_path / "net.onnx")
    teacher = load_model(ModelOptions(str(tmp_path / "net.onnx"), mean=mean, std=std))
    assert (teacher.spec.low[0], teacher.spec.high[0]) == pytest.approx(bounds)
    assert re.search(note, teacher.notes[0])


@pytest.mark.parametrize("white", [1.0, 255.0])
def test_the_ranges_of_pixels_are_known(white: float, tmp_path: Path) -> None:
    constants = {"m": column(MEAN, white), "s": column(STD, white)}
    onnx.save(network([SUB, DIV], constants), tmp_path / "net.onnx")
    teacher = load_model(ModelOptions(str(tmp_path / "net.onnx")))
    assert teacher.onnx is not None
    graph = graph_from_onnx(teacher.onnx, teacher.spec)
    plan = place_quantizers(graph.onnx)
    assert [pair.tensor for pair in plan.activations] == ["z", "relu", "flat"]  # neither x nor x - m
    brightest = max((1 - mean) / std for mean, std in zip(MEAN, STD, strict=True))
    amax = pixel_ranges(graph, teacher.spec, torch.device("cpu"))
    assert amax == pytest.approx({"x": white, "c": (1 - min(MEAN)) * white, "z": brightest}, rel=1e-5)


def test_the_whole_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "benchmark", lambda *_: Benchmarked([]))  # seconds that say nothing here
    model, _ = MODELS["torchvision's, of bytes"]
    onnx.save(model, tmp_path / "net.onnx")
    result = CliRunner().invoke(command, [str(tmp_path / "net.onnx"), *QUICK, "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.stderr
    assert "pixels are 0 to 255" in result.stderr
    int8 = onnx.load(tmp_path / "out" / "model.int8.onnx")
    assert [item.op_type for item in int8.graph.node][:3] == ["Sub", "Div", "QuantizeLinear"]
    ranges = json.loads((tmp_path / "out" / "calibration.json").read_text())["amax"]
    assert ranges["z"] == pytest.approx((1 - MEAN[2]) / STD[2], rel=1e-5)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["model"]["input"]["std"] == pytest.approx([1 / 255] * 3)
