"""Running on ONNX Runtime, and what it refuses."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.base import Engine
from engines.errors import BuildError
from engines.onnx_passes.file import load_onnx
from engines.onnxruntime import engine as onnxruntime
from engines.onnxruntime.engine import OnnxRuntimeEngine
from tests.engines.networks import Net, literal, small_network


@pytest.fixture
def built(tmp_path: Path) -> Path:
    onnx.save(small_network(), tmp_path / "qdq.onnx")
    return onnxruntime.build(tmp_path / "qdq.onnx", tmp_path / "out" / "engine.onnx")


def test_build_and_run(built: Path) -> None:
    x = Net().images(3)
    with OnnxRuntimeEngine(built, threads=1) as engine:
        assert (engine.name, engine.precision, engine.input_shape) == ("onnxruntime", "int8", (3, 8, 8))
        np.testing.assert_array_equal(engine.run(x), literal(small_network(), x))
    assert [path.name for path in built.parent.iterdir()] == ["engine.onnx"]


def test_fp32_network_runs(tmp_path: Path) -> None:
    net = Net()
    onnx.save(net.model(net.node("Relu", "input")), tmp_path / "fp32.onnx")
    with OnnxRuntimeEngine(tmp_path / "fp32.onnx") as engine:
        assert engine.precision == "fp32"
        x = net.images()
        np.testing.assert_array_equal(engine.run(x), np.maximum(x, 0))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((1, 3, 8, 9), np.float32), r"float32 \(batch, 3, 8, 8\), got float32 \(1, 3, 8, 9\)"),
        (np.zeros((3, 8, 8), np.float32), r"got float32 \(3, 8, 8\)"),
        (np.zeros((1, 3, 8, 8), np.float64), "got float64"),
        (np.zeros((0, 3, 8, 8), np.float32), "got a batch of 0"),
    ],
)
def test_wrong_images_are_refused(built: Path, x: np.ndarray, message: str) -> None:
    with OnnxRuntimeEngine(built) as engine, pytest.raises(BuildError, match=message):
        engine.run(x)


def test_closed_engine_is_refused(built: Path) -> None:
    with OnnxRuntimeEngine(built) as engine:
        pass
    with pytest.raises(BuildError, match="closed"):
        engine.run(np.zeros((1, 3, 8, 8), np.float32))


def test_other_files_are_refused(tmp_path: Path) -> None:
    text, empty = tmp_path / "text.onnx", tmp_path / "empty.onnx"
    text.write_text("not a network")
    empty.touch()
    for take in (OnnxRuntimeEngine, lambda path: onnxruntime.build(path, tmp_path / "engine.onnx")):
        with pytest.raises(BuildError, match="missing"):
            take(tmp_path / "absent.onnx")
        with pytest.raises(BuildError, match="is a folder"):
            take(tmp_path)
        with pytest.raises(BuildError, match="is empty"):
            take(empty)
        with pytest.raises(BuildError, match="expected an ONNX network"):
            take(text)
    assert not (tmp_path / "engine.onnx").exists()


def test_weights_that_are_cut_off_are_refused(tmp_path: Path) -> None:
    model = small_network()
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-1]
    path = tmp_path / "net.onnx"
    onnx.save(model, path, save_as_external_data=True, location="net.bin", size_threshold=0)
    for read in (load_onnx, OnnxRuntimeEngine):
        with pytest.raises(BuildError, match=r"expected an ONNX network, but .*net.onnx is none"):
            read(path)


def test_a_graph_that_onnx_has_no_meaning_for_is_refused(tmp_path: Path) -> None:
    model = small_network()
    del model.opset_import[:]
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BuildError, match=r"expected an ONNX network, but .*opset"):
        onnxruntime.build(tmp_path / "net.onnx", tmp_path / "engine.onnx")


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    content = small_network().SerializeToString()
    (tmp_path / "net.onnx").write_bytes(content.replace(b"identity0", b"identit\xff0"))
    for read in (load_onnx, onnxruntime.int8_kernels):
        with pytest.raises(BuildError, match="no UTF-8"):
            read(tmp_path / "net.onnx")


def test_a_network_without_an_output_is_refused(tmp_path: Path) -> None:
    model = small_network()
    del model.graph.output[:]
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(BuildError, match=r"expected outputs that are tensors .*net.onnx has none"):
        OnnxRuntimeEngine(tmp_path / "net.onnx")


def test_outputs_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    net = Net()
    names = net.node("SequenceConstruct", "input"), net.node("Cast", "input", to=TensorProto.STRING)
    onnx.save(net.model(net.node("Relu", "input"), *names), tmp_path / "net.onnx")
    with pytest.raises(
        BuildError, match=r"has sequenceconstruct0 seq\(tensor\(float\)\), cast1 tensor\(string\)"
    ):
        OnnxRuntimeEngine(tmp_path / "net.onnx")


def test_floats_are_given_as_float32_and_integers_as_they_are(tmp_path: Path) -> None:
    net = Net()
    kinds = {
        "FLOAT16": np.float32,
        "DOUBLE": np.float32,
        "INT32": np.int32,
        "INT64": np.int64,
        "BOOL": np.bool_,
    }
    names = [net.node("Cast", "input", to=TensorProto.DataType.Value(kind)) for kind in kinds]
    onnx.save(net.model(*names), tmp_path / "net.onnx")
    x = net.images()
    with OnnxRuntimeEngine(tmp_path / "net.onnx") as engine:
        assert isinstance(engine, Engine)
        outputs = engine.infer(x)
    assert [value.dtype for value in outputs.values()] == list(kinds.values())
    np.testing.assert_array_equal(outputs[names[0]], x.astype(np.float16))
    np.testing.assert_array_equal(outputs[names[4]], x != 0)


def test_constants_that_are_inputs_too_can_be_left_out(tmp_path: Path) -> None:
    """Files of IR 3 list them all, also those that nobody reads."""
    model = small_network()
    model.graph.initializer.append(numpy_helper.from_array(np.array(3), "num_batches_tracked"))
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    model.ir_version = 3
    onnx.save(model, tmp_path / "net.onnx")
    loaded = load_onnx(tmp_path / "net.onnx")
    assert ([value.name for value in loaded.graph.input], loaded.ir_version) == (["input"], 4)
    built, x = onnxruntime.build(tmp_path / "net.onnx", tmp_path / "engine.onnx"), Net().images()
    with OnnxRuntimeEngine(built, threads=1) as engine:
        np.testing.assert_array_equal(engine.run(x), literal(small_network(), x))


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_a_scale_that_is_none_stays_as_it_is(scale: float, tmp_path: Path) -> None:
    model = small_network()
    readers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    for tensor in model.graph.initializer:
        if tensor.name in {node.input[1] for node in readers}:
            tensor.CopyFrom(numpy_helper.from_array(np.float32(scale), tensor.name))
    onnx.save(model, tmp_path / "net.onnx")
    onnxruntime.build(tmp_path / "net.onnx", tmp_path / "engine.onnx")  # without a warning of NumPy
    kinds = {node.op_type for node in load_onnx(tmp_path / "engine.onnx").graph.node}
    assert "Conv" in kinds
    assert "QLinearConv" not in kinds


def test_other_inputs_are_refused(tmp_path: Path) -> None:
    def value(name: str, kind: int, shape: list[object]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    for kind, shape in (
        (TensorProto.INT64, ["n", 3, 8, 8]),
        (TensorProto.FLOAT, ["n", 3, "h", "w"]),
        (TensorProto.FLOAT, ["n", 3]),
    ):
        nodes = [helper.make_node("Identity", ["x"], ["y"])]
        graph = helper.make_graph(nodes, "g", [value("x", kind, shape)], [value("y", kind, shape)])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.save(model, tmp_path / "other.onnx")
        with pytest.raises(BuildError, match=r"expected one image input .*, of float32, but"):
            OnnxRuntimeEngine(tmp_path / "other.onnx")


def test_failed_build_leaves_the_old_engine(built: Path, tmp_path: Path) -> None:
    before = built.read_bytes()
    (tmp_path / "bad.onnx").write_text("bad")
    with pytest.raises(BuildError):
        onnxruntime.build(tmp_path / "bad.onnx", built)
    assert built.read_bytes() == before
    assert len(list(built.parent.iterdir())) == 1
