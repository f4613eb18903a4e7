"""Plans run through the double of TensorRT's runtime, on a double of the GPU."""

import gc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from engines.base import Engine
from engines.errors import BuildError, EngineUnavailableError
from engines.tensorrt.engine import PlanEngine, engine_of_plan, is_plan, version_of_plan
from tests.engines.networks import Net, detector, literal, literal_outputs, small_network
from tests.tensorrt_double.builder import Severity
from tests.tensorrt_double.memory import HostDevice
from tests.tensorrt_double.runtime import plan_of, runtime_double


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    double = runtime_double()
    monkeypatch.setattr("engines.tensorrt.library.load_tensorrt", lambda: double)
    return double


@pytest.fixture
def device() -> HostDevice:
    return HostDevice()


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    (tmp_path / "int8.plan").write_bytes(plan_of(small_network()))
    return tmp_path / "int8.plan"


def fixed(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    return model


def test_logits_are_those_of_the_network(trt: SimpleNamespace, device: HostDevice, plan: Path) -> None:
    net = Net()
    with PlanEngine(plan, device=device) as engine:
        assert isinstance(engine, Engine)
        assert (engine.name, engine.precision, engine.input_shape) == ("tensorrt", "int8", (3, 8, 8))
        kept = []
        for batch in (3, 8, 1, 8):  # memory grows, and shrinks in use only
            x = net.images(batch)
            kept.append((x, engine.run(x)))
        for x, logits in kept:
            assert logits.dtype == np.float32
            np.testing.assert_array_equal(logits, literal(small_network(), x))
    assert device.leaks == 0
    assert not device.is_closed  # it was given, so its owner closes it


def test_everything_ends_in_order(trt: SimpleNamespace, device: HostDevice, plan: Path) -> None:
    engine = PlanEngine(plan, device=device)
    engine.run(Net().images(2))
    engine.close()
    engine.close()
    assert trt.behaviour.ended == ["context", "engine", "runtime"]
    for use in (lambda: engine.run(Net().images(2)), engine.inspector_json, lambda: engine.layer_times(1)):
        with pytest.raises(BuildError, match="closed"):
            use()


def test_own_device_is_closed(
    trt: SimpleNamespace, device: HostDevice, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def opened(name: str) -> HostDevice:
        asked.append(name)
        return device

    monkeypatch.setattr("engines.tensorrt.engine.open_device", opened)
    PlanEngine(plan, "torch").close()
    assert (asked, device.is_closed) == (["torch"], True)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((1, 3, 8, 9), np.float32), r"float32 \(batch, 3, 8, 8\), got float32 \(1, 3, 8, 9\)"),
        (np.zeros((3, 8, 8), np.float32), r"got float32 \(3, 8, 8\)"),
        (np.zeros((1, 3, 8, 8), np.float64), "got float64"),
        (np.zeros((0, 3, 8, 8), np.float32), r"a batch of 1 to 8.*got 0"),
        (np.zeros((9, 3, 8, 8), np.float32), r"a batch of 1 to 8.*got 9.*--max-shapes"),
    ],
)
def test_wrong_images_are_refused(
    trt: SimpleNamespace, device: HostDevice, plan: Path, x: np.ndarray, message: str
) -> None:
    with PlanEngine(plan, device=device) as engine, pytest.raises(BuildError, match=message):
        engine.run(x)


def test_fixed_batch(trt: SimpleNamespace, device: HostDevice, tmp_path: Path) -> None:
    net = Net()
    (tmp_path / "p").write_bytes(plan_of(fixed(small_network(), 4)))
    with PlanEngine(tmp_path / "p", device=device) as engine:
        x = net.images(4)
        np.testing.assert_array_equal(engine.run(x), literal(small_network(), x))
        with pytest.raises(BuildError, match="a batch of 4, which"):
            engine.run(net.images(3))


def test_half_input_and_output(trt: SimpleNamespace, device: HostDevice, tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["n", 1, 2, 2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (tmp_path / "p").write_bytes(plan_of(model))
    x = np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 1, 2, 2)
    with PlanEngine(tmp_path / "p", device=device) as engine:
        logits = engine.run(x)
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, -x.astype(np.float16).astype(np.float32))


def test_other_tensors_are_refused(trt: SimpleNamespace, device: HostDevice, tmp_path: Path) -> None:
    def network(shape: list[Any], kind: int = TensorProto.FLOAT, inputs: int = 1) -> onnx.ModelProto:
        names = [f"x{index}" for index in range(inputs)]
        values = [helper.make_tensor_value_info(name, kind, shape) for name in (*names, "y")]
        operator = "Add" if inputs == 2 else "Identity"
        graph = helper.make_graph([helper.make_node(operator, names, ["y"])], "g", values[:-1], values[-1:])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)

    for model, message in (
        (network(["n", 3]), r"one image input .* but .* has x0 FLOAT \(-1, 3\)"),
        (network(["n", 3, "h", "w"]), "only the batch is dynamic"),
        (network(["n", 3, 2, 2], inputs=2), "one image input"),
        (network(["n", 3, 2, 2], TensorProto.INT32), "expected a float image"),
    ):
        (tmp_path / "p").write_bytes(plan_of(model))
        with pytest.raises(BuildError, match=message):
            PlanEngine(tmp_path / "p", device=device)
    gc.collect()
    assert trt.behaviour.ended.count("engine") == trt.behaviour.ended.count("runtime") == 4


def test_each_output_is_that_of_the_network(trt: SimpleNamespace, device: HostDevice, tmp_path: Path) -> None:
    """Of any rank and type, with the batch on any axis or on none."""
    net = Net()
    heads = detector(net)
    turned = net.node("Transpose", heads[2], perm=[1, 0])
    half = net.node("Cast", heads[0], to=TensorProto.FLOAT16)
    ints = net.node("Cast", heads[3], to=TensorProto.INT32)
    positive = net.node("Greater", heads[1], net.constant(np.float32(0)))
    mean = net.node("ReduceMean", heads[0], keepdims=0)
    anchors = net.node("Identity", net.constant(np.arange(12, dtype=np.float32).reshape(3, 4)))
    names = (*heads, turned, half, ints, positive, mean, anchors)
    model = net.model(*names)
    (tmp_path / "p").write_bytes(plan_of(model))
    with PlanEngine(tmp_path / "p", device=device) as engine:
        assert engine.output_names == names
        kept = []
        for batch in (3, 8, 1, 8):
            x = net.images(batch)
            kept.append((x, engine.infer(x), engine.run(x)))
    assert device.leaks == 0
    for x, outputs, first in kept:
        for name, expected in literal_outputs(model, x).items():
            assert outputs[name].dtype == (np.float32 if name == half else expected.dtype)
            np.testing.assert_array_equal(outputs[name], expected, err_msg=name)
        np.testing.assert_array_equal(first, outputs[heads[0]])


def test_first_output_of_integers_runs_as_float(
    trt: SimpleNamespace, device: HostDevice, tmp_path: Path
) -> None:
    net = Net()
    model = net.model(net.node("ArgMax", "input", axis=1))
    (tmp_path / "p").write_bytes(plan_of(fixed(model, 2)))
    x = net.images(2)
    with PlanEngine(tmp_path / "p", device=device) as engine:
        assert engine.run(x).dtype == np.float32
        np.testing.assert_array_equal(engine.run(x), x.argmax(1, keepdims=True))


def nonzero(net: Net) -> str:
    return net.node("NonZero", "input")


def selected_boxes(net: Net) -> str:
    boxes = net.node("Reshape", "input", net.constant(np.array([0, 48, 4])))
    scores = net.node("Reshape", "input", net.constant(np.array([0, 4, 48])))
    return net.node("NonMaxSuppression", boxes, scores, net.constant(np.array(3)))


def shape(net: Net) -> str:
    return net.node("Shape", "input")


def brain_float(net: Net) -> str:
    return net.node("Cast", "input", to=TensorProto.BFLOAT16)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            nonzero,
            r"that of nonzero1 is \(4, -1\) for 1 images: NonZero, NonMaxSuppression .*End the network",
        ),
        (selected_boxes, r"that of nonmaxsuppression3 is \(-1, 3\)"),
        (shape, r"but shape1 of .* is a shape, which TensorRT computes on the host"),
        (brain_float, r"outputs of FLOAT, HALF, .* but cast1 of .* is BF16; put a Cast"),
    ],
)
def test_outputs_that_have_no_memory_are_refused(
    output: Callable[[Net], str], message: str, trt: SimpleNamespace, device: HostDevice, tmp_path: Path
) -> None:
    net = Net()
    names = net.node("Relu", "input"), output(net)
    (tmp_path / "p").write_bytes(plan_of(net.model(*names)))
    with pytest.raises(BuildError, match=message):
        PlanEngine(tmp_path / "p", device=device)
    assert device.leaks == 0


def test_plan_of_another_version(trt: SimpleNamespace, device: HostDevice, tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(plan_of(small_network(), "10.13.3"))
    with pytest.raises(BuildError, match=r"TensorRT 10\.16\.1 can't read .*Version tag does not match"):
        PlanEngine(tmp_path / "p", device=device)


def test_refusal_names_the_version_that_built_the_plan(
    trt: SimpleNamespace, device: HostDevice, tmp_path: Path
) -> None:
    (tmp_path / "p").write_bytes(b"ftrt" + bytes(20) + bytes([10, 13, 3, 9]) + bytes(100))
    with pytest.raises(
        BuildError,
        match=r"on the Double GPU can't read .*, which TensorRT 10\.13\.3\.9 built: .*zscgan-build",
    ):
        PlanEngine(tmp_path / "p", device=device)


def test_version_compatible_plan_is_asked_for(
    trt: SimpleNamespace, device: HostDevice, tmp_path: Path
) -> None:
    (tmp_path / "p").write_bytes(plan_of(small_network(), "10.13.3", flags=["VERSION_COMPATIBLE"]))
    with pytest.raises(BuildError, match=r"trust its source.*--version-compatible"):
        PlanEngine(tmp_path / "p", device=device)
    with PlanEngine(tmp_path / "p", device=device, host_code=True) as engine:
        assert engine.run(Net().images(1)).shape == (1, 5)


def test_no_plan(trt: SimpleNamespace, device: HostDevice, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a plan")
    (tmp_path / "empty").touch()
    for name, message in (
        ("absent", "No such file"),
        ("empty", "is empty"),
        ("text", "expected a plan, but"),
    ):
        with pytest.raises(BuildError, match=message):
            PlanEngine(tmp_path / name, device=device)
    with pytest.raises(BuildError, match="can't be read: Is a directory"):
        PlanEngine(tmp_path, device=device)


def test_full_gpu(trt: SimpleNamespace, plan: Path) -> None:
    trt.behaviour.has_room = False
    with pytest.raises(BuildError, match=r"no execution context of the plan: .*out of memory; where the GPU"):
        PlanEngine(plan, device=HostDevice())
    trt.behaviour.has_room = True
    device = HostDevice(room=1000)
    with PlanEngine(plan, device=device) as engine:
        with pytest.raises(BuildError, match="no room"):
            engine.run(Net().images(2))
        assert engine.run(Net().images(1)).shape == (1, 5)  # 768 bytes
    assert device.leaks == 0


def test_gpu_with_room_for_some_outputs(trt: SimpleNamespace, tmp_path: Path) -> None:
    net = Net()
    (tmp_path / "p").write_bytes(
        plan_of(net.model(net.node("Relu", "input"), net.node("Concat", "input", "input", axis=1)))
    )
    device = HostDevice(room=2000)
    with PlanEngine(tmp_path / "p", device=device) as engine:
        with pytest.raises(BuildError, match="no room for 3072"):
            engine.infer(net.images(2))
        outputs = engine.infer(net.images(1))  # 768 and 1536 bytes
        assert [value.shape for value in outputs.values()] == [(1, 3, 8, 8), (1, 6, 8, 8)]
    assert device.leaks == 0


def test_failed_query(trt: SimpleNamespace, device: HostDevice, plan: Path) -> None:
    trt.behaviour.enqueues = False
    with PlanEngine(plan, device=device) as engine, pytest.raises(BuildError, match="could not enqueue"):
        engine.run(Net().images(1))


def test_layer_times_are_means(trt: SimpleNamespace, device: HostDevice, plan: Path) -> None:
    names = [node.name for node in small_network().graph.node]
    with PlanEngine(plan, device=device) as engine:
        times = engine.layer_times(2, iterations=3)
        x = Net().images(2)
        np.testing.assert_array_equal(engine.run(x), literal(small_network(), x))
    assert times == {name: 0.25 * (index + 1) for index, name in enumerate(names)}
    assert device.leaks == 0


def test_runtime_that_does_not_start(
    trt: SimpleNamespace, device: HostDevice, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_runtime(log: Any) -> None:
        for message in ("CUDA initialization failure with error: 35", "so", "and so", "no runtime"):
            log.log(Severity.ERROR, message)
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(trt, "Runtime", no_runtime)
    with pytest.raises(
        EngineUnavailableError, match=r"TensorRT 10\.16\.1 does not start .*error: 35; so; no runtime; see"
    ):
        PlanEngine(plan, device=device)


def test_missing_runtime_names_the_plans_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise EngineUnavailableError("it is not installed; type pip install it")

    monkeypatch.setattr("engines.tensorrt.library.load_tensorrt", missing)
    monkeypatch.setattr("engines.tensorrt.rtx.load_tensorrt_rtx", missing)
    for magic, title in ((b"ftrt", "TensorRT"), (b"vtrt", "TensorRT for RTX")):
        (tmp_path / "p").write_bytes(magic + bytes(40))
        with pytest.raises(EngineUnavailableError, match=f"is a plan of {title}: it is not installed"):
            PlanEngine(tmp_path / "p", device=HostDevice())


def test_no_gpu(trt: SimpleNamespace, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise EngineUnavailableError("none answers")

    monkeypatch.setattr("engines.tensorrt.engine.open_device", refuse)
    with pytest.raises(EngineUnavailableError, match="a plan of TensorRT, which runs on an NVIDIA GPU: none"):
        PlanEngine(plan)


def test_first_bytes_tell_the_plan() -> None:
    trt = b"ftrt" + bytes(20) + bytes([10, 13, 3, 9]) + bytes(10)
    rtx = b"vtrt" + bytes(20) + bytes([1, 7, 1, 116]) + bytes(10)
    assert [engine_of_plan(data) for data in (trt, rtx, b"\x08\x0a")] == ["tensorrt", "tensorrt-rtx", None]
    assert [version_of_plan(data) for data in (trt, rtx)] == ["10.13.3.9", "1.7.1.116"]
    assert version_of_plan(b"ftrt\1" + bytes(40)) is None  # another form of header
    assert version_of_plan(trt[:20]) is None


def test_real_plan_of_rtx_is_recognised(tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    from engines.tensorrt.rtx import engine_from_onnx

    onnx.save(small_network(), tmp_path / "a.onnx")
    path = engine_from_onnx(tmp_path / "a.onnx", tmp_path / "no_suffix")
    assert is_plan(path)
    assert engine_of_plan(path.read_bytes()) == "tensorrt-rtx"
    assert version_of_plan(path.read_bytes()) == trt.__version__


def test_is_plan(tmp_path: Path, plan: Path) -> None:
    onnx.save(small_network(), tmp_path / "a.onnx")
    assert not is_plan(tmp_path / "a.onnx")
    assert not is_plan(tmp_path / "absent.onnx")
    assert is_plan(plan)  # by its suffix
    assert is_plan(tmp_path / "absent.engine")
