"""Half precision in the ONNX: values by hand, float64 references and ONNX Runtime."""

import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engines.errors import BuildError
from engines.onnx_passes.float16 import LARGEST, SMALLEST, half_from_onnx, half_scale, requantized
from engines.options import BuildOptions
from tests.engines.networks import Net, detector, literal, literal_outputs, small_network

Run = Callable[[onnx.ModelProto, NDArray[np.float32]], NDArray[np.float32]]


def constants(model: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def weight_network(codes: NDArray[np.int8], scales: NDArray[np.float32]) -> onnx.ModelProto:
    """A 1x1 convolution of ``codes`` (out, in) with one scale for each output channel."""
    net = Net((codes.shape[1], 2, 2))
    weight = net.node(
        "DequantizeLinear",
        net.constant(codes[:, :, None, None], "codes"),
        net.constant(scales, "scale"),
        net.constant(np.zeros(len(scales), np.int8)),
        axis=0,
    )
    return net.model(net.node("Conv", net.quantized("input"), weight, kernel_shape=[1, 1]))


def test_edges_stay_float32_and_all_else_is_half() -> None:
    model = small_network()
    before = model.SerializeToString()
    half = half_from_onnx(model)
    onnx.checker.check_model(half, full_check=True)
    assert model.SerializeToString() == before
    assert [value.name for value in half.graph.input] == ["input"]
    assert [value.name for value in half.graph.output] == [model.graph.output[0].name]
    edges = [*half.graph.input, *half.graph.output]
    assert {value.type.tensor_type.elem_type for value in edges} == {TensorProto.FLOAT}
    assert {value.dtype for value in constants(half).values()} == {np.dtype(np.float16), np.dtype(np.int8)}
    kinds = [node.op_type for node in half.graph.node]
    assert kinds.count("Cast") == 2
    for kind in ("QuantizeLinear", "DequantizeLinear", "Conv", "Gemm"):
        assert kinds.count(kind) == [node.op_type for node in model.graph.node].count(kind)


def test_network_of_exact_halves_gives_the_same_logits() -> None:
    """Powers of two for scales, and sums that float16 holds: nothing may move."""
    model = small_network()
    x = Net(seed=3).images(8)
    np.testing.assert_array_equal(literal(half_from_onnx(model), x), literal(model, x))


def test_each_output_keeps_its_name_type_and_place() -> None:
    """One of them is read downstream as well, and one is of integers."""
    net = Net()
    model, x = net.model(*detector(net)), net.images()
    half = half_from_onnx(model)
    onnx.checker.check_model(half, full_check=True)
    ours, theirs = literal_outputs(half, x), literal_outputs(model, x)
    assert list(ours) == list(theirs)
    *floats, best = theirs
    assert ours[best].dtype == np.int64
    assert (ours[best] != theirs[best]).mean() < 0.02
    for name in floats:
        assert ours[name].dtype == np.float32
        assert np.abs(ours[name] - theirs[name]).max() < 0.03 * np.abs(theirs[name]).max()


def test_outputs_that_no_node_writes_stay_as_they_are() -> None:
    """The image, and a constant that is read as well: in the order of the outputs, beside one that is computed."""
    net = Net()
    anchors = net.constant(np.full((3, 1, 1), 0.1, np.float32))
    model, x = net.model(net.node("Add", "input", anchors)), net.images()
    loose = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in ((anchors, [3, 1, 1]), ("input", ["batch", 3, 8, 8]))
    ]
    computed = model.graph.output.pop()
    model.graph.output.extend([loose[0], computed, loose[1]])
    half = half_from_onnx(model)
    onnx.checker.check_model(half, full_check=True)
    ours, theirs = literal_outputs(half, x), literal_outputs(model, x)
    assert list(ours) == [anchors, computed.name, "input"]
    np.testing.assert_array_equal(ours[anchors], theirs[anchors])
    np.testing.assert_array_equal(ours["input"], x)
    assert 0 < np.abs(ours[computed.name] - theirs[computed.name]).max() < 20 * 2**-10


def in_float16(model: onnx.ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """``model`` operator by operator in NumPy's float16.

    ONNX Runtime has few float16 kernels for a CPU: it puts casts round the others, and cancels casts that meet,
    so that it rounds constants and the operands of Q/DQ, but not what flows between two such operators.
    """
    (result,) = onnx.reference.ReferenceEvaluator(model).run(None, {"input": x})
    assert result.dtype == np.float32
    return np.asarray(result)


@pytest.mark.parametrize("run", [literal, in_float16])
@pytest.mark.parametrize("seed", range(3))
def test_logits_of_a_pair_network_stay_near(seed: int, run: Run) -> None:
    net = Net(seed=seed, exact=False)  # scales that float16 does not hold
    y = net.quantized(net.node("Relu", net.conv(net.quantized("input"), 8)))
    y = net.node("Relu", net.conv(y, 8))
    y = net.node("Flatten", net.node("GlobalAveragePool", net.quantized(y, 2**-3)))
    model = net.model(net.gemm(net.quantized(y, 2**-3), 8, 5))
    x = net.images(16)
    ours, theirs = run(half_from_onnx(model), x), literal(model, x)
    # float16 keeps 11 bits: values move by 2^-11, and where that crosses the border between two codes, by one
    # step of 1/127 of the range in a layer of two.
    assert np.abs(ours - theirs).max() < 0.03 * np.abs(theirs).max()
    assert np.sqrt(np.mean((ours - theirs) ** 2)) < 0.02 * theirs.std()


def test_float_network_without_pairs_is_converted() -> None:
    net = Net(exact=False)
    weight = net.constant(net.rng.normal(0, 0.2, (4, 3, 3, 3)).astype(np.float32))
    y = net.clip(net.node("Conv", "input", weight, kernel_shape=[3, 3]), 0, 6)
    model = net.model(y)
    model.opset_import[0].version = 17  # old enough for no Q/DQ in half
    half = half_from_onnx(model)
    x = net.images()
    ours, theirs = literal(half, x), literal(model, x)
    assert {value.dtype for value in constants(half).values()} == {np.dtype(np.float16)}
    # 27 products of inputs up to 20, each with a relative error of 2^-11 twice, and the result's rounding.
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=27 * 20 * 0.8 * 2**-10)
    assert np.abs(ours - theirs).mean() < 2e-3


def test_small_weight_scale_is_raised_and_its_weights_quantized_again() -> None:
    codes = np.array([[100, -127, 7, 1], [100, -127, 7, 1]], np.int8)
    scales = np.array([2.0**-15, 2.0**-8], np.float32)
    ours = constants(half_from_onnx(weight_network(codes, scales)))
    (new,) = (value for name, value in ours.items() if name.startswith("scale"))
    (rewritten,) = (value for name, value in ours.items() if name.startswith("codes"))
    np.testing.assert_array_equal(new, np.array([2.0**-14, 2.0**-8], np.float16))
    # Half the code for twice the scale, halves to even; the other channel keeps its integers.
    np.testing.assert_array_equal(rewritten[0, :, 0, 0], [50, -64, 4, 0])
    np.testing.assert_array_equal(rewritten[1, :, 0, 0], codes[1])


def test_zero_and_subnormal_scales_never_come_out() -> None:
    """float16 would round 1e-8 to 0, and a division by it ends as infinity."""
    codes = np.full((2, 3), 90, np.int8)
    half = half_from_onnx(weight_network(codes, np.array([1e-8, 3e-5], np.float32)))
    scale = next(value for name, value in constants(half).items() if name.startswith("scale"))
    np.testing.assert_array_equal(scale, np.full(2, SMALLEST, np.float16))
    assert np.isfinite(literal(half, np.ones((1, 3, 2, 2), np.float32))).all()


@given(
    scale=st.floats(2.0**-30, 100, width=32),
    codes=st.lists(st.integers(-127, 127), min_size=1, max_size=8),
)
def test_error_is_at_most_half_a_new_step(scale: float, codes: list[int]) -> None:
    old = np.array([scale], np.float32)
    new, integers = half_scale(old), np.array(codes, np.int8)
    rewritten = requantized(integers, old, new, np.zeros(1, np.int8))
    exact = integers.astype(np.float64) * np.float64(old)
    error = np.abs(rewritten.astype(np.float64) * np.float64(new) - exact)
    assert np.all(error <= np.float64(new) / 2 * (1 + 1e-12))
    assert new >= SMALLEST
    assert new.astype(np.float16) == new
    if scale >= SMALLEST:  # nothing to quantize again where the scale only rounds
        np.testing.assert_array_equal(rewritten, integers)


def test_zero_points_are_kept() -> None:
    """Codes 10 and 250 around 130 with 2^-15 stand for -120 and 120 steps: -60 and 60 of twice the size."""
    codes, zero = np.array([10, 130, 250], np.uint8), np.array(130, np.uint8)
    result = requantized(codes, np.array(2**-15), np.array(2**-14), zero)
    assert result.tolist() == [70, 130, 190]
    assert result.dtype == np.uint8


def test_activation_scale_is_raised_for_both_of_a_pair() -> None:
    net = Net()
    model = net.model(net.node("Relu", net.quantized("input", 2.0**-20)))
    half = half_from_onnx(model)
    quantize, dequantize = (
        next(node for node in half.graph.node if node.op_type == kind)
        for kind in ("QuantizeLinear", "DequantizeLinear")
    )
    assert quantize.input[1] == dequantize.input[1]
    assert constants(half)[quantize.input[1]] == np.float16(SMALLEST)


def test_weights_of_two_readers_are_quantized_again_for_one() -> None:
    """A foreign network may read the same integers with two scales."""
    net = Net((3, 2, 2))
    codes = net.constant(np.full((1, 3, 1, 1), 100, np.int8))
    zero = net.constant(np.zeros(1, np.int8))
    small, large = net.constant(np.float32([2**-15])), net.constant(np.float32([2**-8]))
    weights = [net.node("DequantizeLinear", codes, scale, zero, axis=0) for scale in (small, large)]
    x = net.quantized("input")
    first, second = (net.node("Conv", x, weight, kernel_shape=[1, 1]) for weight in weights)
    model = net.model(net.node("Add", first, second))
    half = half_from_onnx(model)
    onnx.checker.check_model(half, full_check=True)
    image = np.ones((1, 3, 2, 2), np.float32)
    assert literal(half, image)[0, 0, 0, 0] == pytest.approx(3 * 100 * (2.0**-15 + 2.0**-8), rel=2**-11)


def test_float_weights_with_a_pair_stay_a_pair() -> None:
    """As other tools write them: the engine folds float weights, QuantizeLinear and DequantizeLinear itself."""
    net = Net(exact=False)
    weight = net.constant(net.rng.normal(0, 0.2, (4, 3, 1, 1)).astype(np.float32))
    names = (net.constant(np.float32([0.003, 0.004, 1e-6, 0.01])), net.constant(np.zeros(4, np.int8)))
    quantized = net.node(
        "DequantizeLinear", net.node("QuantizeLinear", weight, *names, axis=0), *names, axis=0
    )
    model = net.model(net.node("Conv", net.quantized("input"), quantized, kernel_shape=[1, 1]))
    half = half_from_onnx(model)
    onnx.checker.check_model(half, full_check=True)
    x = net.images()
    theirs, ours = literal(model, x), literal(half, x)
    keep = [0, 1, 3]  # 1e-6 cuts weights of 0.2 off at 127e-6; its successor at 127·6.1e-5
    # A weight that float16 moves across the border between two codes changes by one step of 0.01, and reads
    # values of 8 at most.
    np.testing.assert_allclose(ours[:, keep], theirs[:, keep], rtol=0, atol=0.01 * 8)
    assert np.sqrt(np.mean((ours - theirs)[:, keep] ** 2)) < 0.01 * theirs.std()


def test_integer_bias_is_quantized_again() -> None:
    """int32 with the scale s_x·s_w, as ONNX Runtime's quantizer writes it, lies below float16's numbers."""
    net = Net((3, 2, 2))
    bias = net.node(
        "DequantizeLinear",
        net.constant(np.array([100_000, -64], np.int32)),
        net.constant(np.float32([2**-18, 2**-16])),
        axis=0,
    )
    weight = net.weight(np.ones((2, 3, 1, 1), np.int8))[0]
    model = net.model(net.node("Conv", net.quantized("input"), weight, bias, kernel_shape=[1, 1]))
    ours = next(v for v in constants(half_from_onnx(model)).values() if v.dtype == np.int32)
    assert ours.tolist() == [6250, -16]


def test_old_opset_is_refused() -> None:
    model = small_network()
    model.opset_import[0].version = 18
    with pytest.raises(BuildError, match=r"opset 19 or newer .* got 18; .*without --fp16"):
        half_from_onnx(model)


def test_values_beyond_half_precision_name_their_tensor() -> None:
    net = Net()
    weight = net.constant(np.full((1, 3, 1, 1), 7e4, np.float32), "huge")
    model = net.model(net.node("Conv", "input", weight, kernel_shape=[1, 1]))
    with pytest.raises(BuildError, match=r"huge0 holds 70000, beyond .* \(65504\); build without --fp16"):
        half_from_onnx(model)


def test_scales_beyond_half_precision_name_their_tensor() -> None:
    net = Net()
    model = net.model(net.quantized("input", 1024.0))
    with pytest.raises(BuildError, match="c0 stands for values up to 131072, beyond"):
        half_from_onnx(model)
    assert 511 * 128 < LARGEST < 1024 * 127


@pytest.mark.parametrize("scale", [0.0, -1.0, np.inf, np.nan])
def test_scale_that_is_none_is_refused(scale: float) -> None:
    codes, scales = np.ones((2, 3), np.int8), np.array([1.0, scale], np.float32)
    with pytest.raises(BuildError, match="expected scales above 0 in scale"):
        half_from_onnx(weight_network(codes, scales))


def test_constants_of_nodes_count_like_initializers() -> None:
    """Also with ``value_float``, which says a number without a tensor."""
    net = Net()
    half_of = helper.make_node("Constant", [], ["half_of"], value_float=0.5)
    model = net.model(net.node("Mul", net.node("Relu", "input"), "half_of"))
    model.graph.node.insert(0, half_of)
    converted = half_from_onnx(model)
    onnx.checker.check_model(converted, full_check=True)
    x = net.images(1)
    np.testing.assert_allclose(literal(converted, x), np.maximum(x, 0) / 2, rtol=2**-11)
    model.graph.node[0].attribute[0].f = 1e6
    with pytest.raises(BuildError, match="half_of holds 1e"):
        half_from_onnx(model)


def test_network_in_half_precision_stays() -> None:
    half = half_from_onnx(small_network())
    again = half_from_onnx(half)
    x = Net(seed=5).images()
    np.testing.assert_array_equal(literal(again, x), literal(half, x))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="TensorRT for RTX has wheels for x86-64 only")
def test_tensorrt_builds_it(tmp_path: Path) -> None:
    from engines.tensorrt.rtx import engine_from_onnx

    codes = np.full((4, 3), 90, np.int8)
    model = weight_network(codes, np.array([1e-8, 3e-5, 0.1, 0.01], np.float32))
    onnx.save(model, tmp_path / "net.onnx")
    plan = engine_from_onnx(tmp_path / "net.onnx", tmp_path / "net.plan", BuildOptions(fp16=True))
    assert plan.stat().st_size > 1000
