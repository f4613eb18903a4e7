"""Small networks with one construct each, the whole way: capture, ranges, Q/DQ, ONNX Runtime, TensorRT for RTX."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from calibrators.data.batches import TensorBatches, random_pixels
from calibrators.data.input_spec import InputSpec
from calibrators.options import CalibrationOptions
from calibrators.ranges.calibrate import calibrate
from converter.errors import CaptureError, UnsupportedOperatorError
from converter.graph.capture import FoldedGraph, graph_from_model, graph_from_onnx, observe, onnx_from_model
from converter.load.model import load_model
from converter.load.options import ModelOptions
from converter.quantize.fake_quant import simulate
from converter.quantize.placement import LAYERS, QuantizationPlan, place_quantizers
from converter.quantize.qdq import qdq_from_onnx
from engines.errors import BuildError
from engines.onnxruntime.engine import OnnxRuntimeEngine, build
from engines.options import BuildOptions
from engines.tensorrt.rtx import engine_from_onnx
from tests.converter.graph.constructs import CONSTRUCTS, REFUSED, SIZE, Classifier, network

pytestmark = pytest.mark.slow

SPEC = InputSpec((3, SIZE, SIZE))
BATCHES = (1, 2, 5)

# Of the largest logit. Float: sums in another order. Rounding: a value on the border between two codes is one step of
# 127 off in one layer, which the layers behind it may double; the engine's bias is an int32 on top. A range that is
# wrong moves the logits by far more than all the rounding of a network.
FLOAT_TOLERANCE, ROUNDING_TOLERANCE, RANGE_TOLERANCE = 1e-4, 0.02, 0.08


@pytest.fixture(scope="module")
def parsed() -> Callable[[onnx.ModelProto], list[str]]:
    """What the parser of TensorRT for RTX refuses in a model, which needs no GPU; skipped where there are no wheels."""
    trt: Any = pytest.importorskip(
        "tensorrt_rtx_bindings", reason="TensorRT for RTX has wheels for x86-64 only"
    )
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)

    def refusals(model: onnx.ModelProto) -> list[str]:
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(flags)
        parser = trt.OnnxParser(network, logger)
        parser.parse(model.SerializeToString())
        return [
            f"{parser.get_error(i).node_operator()}: {parser.get_error(i).desc()}"
            for i in range(parser.num_errors)
        ]

    return refusals


def quantized(graph: FoldedGraph) -> tuple[QuantizationPlan, dict[str, float], onnx.ModelProto]:
    """The plan, its ranges over two batches of random pixels, and the Q/DQ model."""
    plan = place_quantizers(graph.onnx)
    x = random_pixels(SPEC, 16, 1)
    found = calibrate(
        lambda x: observe(graph.module, x, plan.observed)[1],
        TensorBatches(x, torch.full((len(x),), -1), 8),
        options=CalibrationOptions("max"),
    )
    return plan, found.amax, qdq_from_onnx(graph.onnx, plan, found.amax)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest, of the largest logit of ``theirs``."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


def assert_runs(path: Path, expected: list[tuple[Tensor, Tensor]], tolerance: float) -> None:
    """ONNX Runtime gives what is ``expected`` for each batch of images, with ``tolerance``."""
    with OnnxRuntimeEngine(path, threads=1) as engine:
        for x, logits in expected:
            assert difference(torch.from_numpy(engine.run(x.numpy())), logits) <= tolerance, len(x)


def assert_converts(model: Callable[[Tensor], Tensor], graph: FoldedGraph, folder: Path) -> onnx.ModelProto:
    """The Q/DQ model of ``graph``, after every step has been compared with ``model`` at each batch."""
    plan, amax, int8 = quantized(graph)
    onnx.checker.check_model(int8, full_check=True)
    images = [random_pixels(SPEC, 5, 1)[:batch].contiguous() for batch in BATCHES]
    floats = [(x, model(x).view(len(x), -1)) for x in images]  # squeezed, a batch of 1 is a vector
    fake = simulate(graph, plan, amax, 8)
    rounded = [(x, fake(x)) for x in images]
    for (x, logits), (_, ours) in zip(floats, rounded, strict=True):
        assert difference(graph.module(x), logits) <= FLOAT_TOLERANCE
        assert difference(ours, logits) <= RANGE_TOLERANCE
    onnx.save(graph.onnx, folder / "fp32.onnx")
    onnx.save(int8, folder / "int8.onnx")
    assert_runs(folder / "fp32.onnx", floats, FLOAT_TOLERANCE)
    assert_runs(folder / "int8.onnx", rounded, ROUNDING_TOLERANCE)
    assert_runs(build(folder / "int8.onnx", folder / "engine.onnx"), rounded, ROUNDING_TOLERANCE)
    assert_weights_are_quantized(graph.onnx, plan)
    return int8


def assert_weights_are_quantized(fp32: onnx.ModelProto, plan: QuantizationPlan) -> None:
    """No layer with constant weights stays in float, einsums with weights included."""
    constants = {tensor.name for tensor in fp32.graph.initializer}
    layers = {
        node.output[0]
        for node in fp32.graph.node
        if node.op_type in (*LAYERS, "Einsum") and not constants.isdisjoint(node.input[:2])
    }
    assert layers == {weight.consumer for weight in plan.weights}
    assert layers


@cache
def captured(name: str) -> tuple[nn.Module, FoldedGraph]:
    """The network of that name and its graph, which no test may change."""
    model = network(name)
    return model, graph_from_model(model, SPEC)


@pytest.mark.parametrize("name", CONSTRUCTS)
@torch.no_grad()
def test_construct(name: str, parsed: Callable[[onnx.ModelProto], list[str]], tmp_path: Path) -> None:
    model, graph = captured(name)
    before = network(name).state_dict()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert parsed(assert_converts(model, graph, tmp_path)) == []


def test_there_are_enough_constructs() -> None:
    assert len(CONSTRUCTS) >= 60


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.parametrize("name", ["attention", "weight norms", "cosine head"])
@torch.no_grad()
def test_construct_from_torchscript(name: str, tmp_path: Path) -> None:
    model = network(name)
    torch.jit.save(torch.jit.trace(model, torch.zeros(2, *SPEC.shape)), tmp_path / "net.pt")
    teacher = load_model(ModelOptions(str(tmp_path / "net.pt"), preset="unit", input_shape=SPEC.shape))
    assert teacher.onnx is not None
    assert_converts(model, graph_from_onnx(teacher.onnx, SPEC), tmp_path)


@pytest.mark.parametrize("name", ["convnext block", "projection by einsum", "unusual pools"])
@torch.no_grad()
def test_construct_from_onnx(name: str, tmp_path: Path) -> None:
    model = network(name)
    onnx.save(onnx_from_model(model, SPEC), tmp_path / "net.onnx")
    teacher = load_model(ModelOptions(str(tmp_path / "net.onnx"), preset="unit"))
    assert teacher.onnx is not None
    assert_converts(model, graph_from_onnx(teacher.onnx, SPEC), tmp_path)


@pytest.mark.parametrize("operator", REFUSED)
def test_refused_operator_is_named(operator: str) -> None:
    torch.manual_seed(0)
    with pytest.raises((CaptureError, UnsupportedOperatorError), match=operator):
        graph_from_model(Classifier(REFUSED[operator]()), SPEC)


@pytest.mark.parametrize(
    "name", ["attention", "shifted windows", "projection by einsum", "transposed convolutions"]
)
@torch.no_grad()
def test_tensorrt_builds(name: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX has wheels for x86-64 only")
    *_, int8 = quantized(captured(name)[1])
    onnx.save(int8, tmp_path / "int8.onnx")
    plan = engine_from_onnx(tmp_path / "int8.onnx", tmp_path / "int8.plan", BuildOptions(("8.6", "12.0")))
    assert plan.stat().st_size > sum(len(tensor.raw_data) for tensor in int8.graph.initializer)


@torch.no_grad()
def test_tensorrt_names_what_it_refuses(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX has wheels for x86-64 only")
    model = Classifier(nn.MaxPool2d(2, 1, 1, dilation=2)).eval()
    *_, int8 = quantized(graph_from_model(model, SPEC))
    onnx.save(int8, tmp_path / "int8.onnx")
    with pytest.raises(BuildError, match=r"\(MaxPool\).*dilations"):
        engine_from_onnx(tmp_path / "int8.onnx", tmp_path / "int8.plan", BuildOptions(("8.6",)))
